import { adaptedRows } from "./adapted-rows";
import { float, int, pointer, threadCount, threadIndex, threadScratch } from "./command";
import { columnProduct } from "./gemm-columns";
import { fewNative } from "./gemm-few-native";
import { int8Rows, NATIVE_ROWS, nativeProduct } from "./gemm-native";
import { shortProduct } from "./gemm-short";
import { thinProduct } from "./gemm-thin";
import { FEW_SESSION, INT8_SESSION, sessionOf } from "./native";
import { Opcode } from "./opcodes";

// @ts-ignore: decorator
@external("matrix", "gemm")
declare function gemm(
  a: usize, aType: i32, lda: i32, transA: bool, b: usize, bType: i32, ldb: i32, transB: bool, c: usize, ldc: i32, out: usize, ldo: i32,
  m: i32, n: i32, k: i32, alpha: f32, index: i32, count: i32, scratch: usize, scales: usize,
): void;

/** How threads share a native product: see `gemmCommand`. */
const THIN: i32 = 2;
const SHORT: i32 = 3;

/**
 * Gemm: out[M, N] = alpha op(A) op(B) + C, see matrix.ts.
 *
 * Operands: A, B, C or null, out, count or null, scales of a quantised B or null. Scalars: M, N, K, transA, transB, type of A, type of B
 * (half.ts, quantised.ts), mode of C
 * (0 none, 1 [M, N], may be out, 2 one row [N]), alpha (f32), clip, first, the low and high word of a native session's address or 0, 0, and those of one that adds
 * to [M, N], where A is transposed; 1 where threads share the columns of a native product (gemm-columns.ts), of which C is none or
 * out, THIN where machine code computes it, however few rows there are (gemm-thin.ts), SHORT where it computes
 * A^T B of f32 with few rows or columns, of which C is none or [M, N] (gemm-short.ts).
 *
 * The number of rows may be known only at run time: with clip = 1 (2), M (K) is cut to the rows of A (and of B) that lie
 * in [first, first + M) below the i32 `count`, so a product beyond it costs nothing.
 *
 * With INT8_SESSION rows of f32 and a B of Q8 are multiplied as 8-bit codes. With another native session A is f32, and B, or bf16 where the session takes
 * that; the product goes there unless it is cut to a few rows.
 */
export function gemmCommand(opcode: u32): void {
  if (opcode == Opcode.AdaptedRows) {
    adaptedRows();
    return;
  }
  let m = int(0), k = int(2);
  const n = int(1);
  const transA = int(3) != 0, transB = int(4) != 0;
  const cMode = int(7);
  // Leading dimensions are those of the whole operands.
  const lda = transA ? m : k, ldb = transB ? k : n;
  const clip = int(9);
  if (clip) {
    const left = load<i32>(pointer(4)) - int(10);
    if (clip == 1) m = min(m, left);
    else k = min(k, left);
  }
  const session = sessionOf(int(11), int(12));
  if (session == FEW_SESSION) {
    fewNative(int(6), pointer(0), pointer(1), pointer(5), cMode ? pointer(2) : 0, cMode == 1 ? n : 0, pointer(3), m, n, k, float(8));
    return;
  }
  if (session == INT8_SESSION) {
    int8Rows(pointer(0), pointer(1), pointer(5), cMode ? pointer(2) : 0, cMode == 1 ? n : 0, pointer(3), m, n, k, float(8));
    return;
  }
  if (int(15) == THIN && k > 0) {
    thinProduct(pointer(0), pointer(1), int(6), pointer(5), transB, cMode != 0, pointer(3), m, n, k);
    return;
  }
  if (int(15) == SHORT && k > 0) {
    shortProduct(pointer(0), pointer(1), cMode ? pointer(2) : 0, pointer(3), m, n, k, float(8));
    return;
  }
  if (session && m >= NATIVE_ROWS && k > 0) {
    if (int(15)) {
      columnProduct(session, pointer(0), pointer(1), int(6), pointer(5), transB, cMode != 0, pointer(3), m, n, k);
      return;
    }
    nativeProduct(
      session, sessionOf(int(13), int(14)), pointer(0), transA, pointer(1), transB, cMode ? pointer(2) : 0, cMode, pointer(3), m, n, k, int(6),
    );
    return;
  }
  gemm(
    pointer(0), int(5), lda, transA, pointer(1), int(6), ldb, transB, cMode ? pointer(2) : 0, cMode == 1 ? n : 0, pointer(3), n,
    m, n, k, float(8), threadIndex, threadCount, threadScratch, pointer(5),
  );
}
