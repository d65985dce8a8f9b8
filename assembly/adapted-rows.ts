/**
 * Low-rank adapters of single rows (Hu et al. 2021, https://arxiv.org/abs/2106.09685): texts with different adapters, of which one
 * product with the base model's weight has made all rows, each get the update of their own.
 */
import { int, partEnd, partStart, pointer, threadCount, threadIndex, threadScratch } from "./command";
import { F32 } from "./half";

// @ts-ignore: decorator
@external("matrix", "gemm")
declare function gemm(
  a: usize, aType: i32, lda: i32, transA: bool, b: usize, bType: i32, ldb: i32, transB: bool, c: usize, ldc: i32, out: usize, ldo: i32,
  m: i32, n: i32, k: i32, alpha: f32, index: i32, count: i32, scratch: usize, scales: usize,
): void;

/** Bytes of a row of the table: addresses of A and B, rank, scale. */
const ENTRY: usize = 16;

/**
 * `AdaptedRows`: pointers y [rows, outer], x [rows, inner], table i32[rows, 4], out (may be y), low f32[rows, most]; scalars phase, rows,
 * inner, outer, most. Phase 0 makes x A^T, phase 1 out = y + scale low B^T. A row of rank 0 stays as it is. Both products are those that
 * `Gemm` computes of one row, to the bit.
 */
export function adaptedRows(): void {
  const rows = int(1), inner = int(2), outer = int(3), most = int(4);
  const y = pointer(0), x = pointer(1), out = pointer(3), low = pointer(4);
  for (let row = 0; row < rows; row++) {
    const entry = pointer(2) + <usize>row * ENTRY;
    const rank = max(0, min(most, load<i32>(entry, 8)));
    const at = low + (<usize>(row * most) << 2);
    const line = <usize>(row * outer) << 2;
    if (int(0) == 0) {
      const a = <usize>load<u32>(entry);
      gemm(x + (<usize>(row * inner) << 2), F32, inner, false, a, F32, inner, true, 0, 0, at, most, 1, rank, inner, 1, threadIndex, threadCount, threadScratch, 0);
    } else if (rank > 0) {
      const b = <usize>load<u32>(entry, 4);
      gemm(at, F32, rank, false, b, F32, rank, true, y + line, outer, out + line, outer, 1, outer, rank, load<f32>(entry, 12), threadIndex, threadCount, threadScratch, 0);
    } else if (out != y) {
      const from = <usize>partStart(outer, 1) << 2;
      memory.copy(out + line + from, y + line + from, (<usize>partEnd(outer, 1) << 2) - from);
    }
  }
}
