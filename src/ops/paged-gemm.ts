import { Opcode } from "../../assembly/opcodes.ts";
import { lazily } from "../base/lazily.ts";
import { byteLength } from "../graph/types.ts";
import { emitGemm, type Product, type ProductEmitter } from "./gemm-kernels.ts";
import type { KernelEmitter, OffsetOperand, Operand } from "./types.ts";

type Emitter = ProductEmitter & Pick<KernelEmitter, "type" | "isWeight">;

/**
 * Elements of a page of a weight: 32 MiB when they are widened to f32. A large weight is multiplied page by page, each a range of its rows, so
 * that no more of it need be widened, or be in memory at all, at a time.
 */
const PAGE_ELEMENTS = 2 ** 23;
/** Rows of a page are a multiple of it: what kernels compute side by side. */
const UNIT = 16;

/** Emits a product with a large weight as B; false: it is none. */
export function emitPagedGemm(e: Emitter, product: Product): boolean {
  const { a, b, c, out, m, n, k, transA, transB, aType = "f32", quantised, clip } = product;
  if (typeof b !== "string" || !e.isWeight(b) || aType !== "f32" || clip) return false;
  // W as it is stored, [rows, length].
  const [rows, length] = transB ? [n, k] : [k, n];
  const most = Math.max(UNIT, Math.floor(PAGE_ELEMENTS / length / UNIT) * UNIT);
  if (rows <= most) return false;
  const count = Math.ceil(rows / most);
  const size = Math.ceil(rows / count / UNIT) * UNIT;
  const widened = lazily(() => e.scratch(4 * size * length));
  /** Columns of the result, or of A, which lie apart. */
  const columns = m > 1 && (transB || !transA) ? e.scratch(4 * m * size) : null;
  const copy = (from: Operand, to: Operand, width: number, stride: number, toStride: number) =>
    e.emit(Opcode.CopyBlock, [from, to], [m, width, stride, toStride]);
  for (let first = 0; first < rows; first += size) {
    const own = Math.min(size, rows - first);
    const page = {
      ...product,
      b: pageOf(e, b, rows, first, own),
      ...(quantised && { quantised: { ...quantised, scales: pageOf(e, quantised.scales, rows, first, own) } }),
      widened,
    };
    if (transB) {
      const part = columns ?? at(out, 4 * first);
      if (columns && c && !c.row) copy(at(c.value, 4 * first), columns, own, n, own);
      const addend = !c ? null : c.row || !columns ? { ...c, value: at(c.value, 4 * first) } : { value: columns, row: false };
      emitGemm(e, { ...page, n: own, out: part, c: addend });
      if (columns) copy(columns, at(out, 4 * first), own, own, n);
    } else {
      if (columns) copy(at(a, 4 * first), columns, own, k, own);
      const left = columns ?? at(a, 4 * first * (transA ? m : 1));
      emitGemm(e, { ...page, k: own, a: left, c: first === 0 ? (c ?? null) : { value: out, row: false } });
    }
  }
  return true;
}

function at(operand: Operand, offset: number): Operand {
  if (operand === null || (typeof operand !== "string" && "offset" in operand)) throw new Error("expected a whole operand");
  return { base: operand, offset };
}

function pageOf(e: Emitter, operand: Operand, rows: number, first: number, count: number): OffsetOperand {
  if (typeof operand !== "string") throw new Error("expected a weight");
  const rowBytes = byteLength(e.type(operand)) / rows;
  return { base: operand, offset: first * rowBytes, bytes: count * rowBytes };
}
