/** Products of a few rows with a quantised matrix by the routines of few-rows.ts, on the calling thread. */
import type { Address } from "../../../runtime/executor.ts";
import type { FewRowsAddresses } from "../executable.ts";
import { FEW, FEW_SCRATCH, NUMBERS_AT } from "../layout.ts";
import { routineAt } from "../pack.ts";

/** NF4, as assembly/quantised.ts has it. */
const NF4 = 4;

/** Elements with one scale, and of NF4 in 64 bytes. */
const BLOCK = 64;
const CHUNK = 128;

/**
 * out[rows][from..to) = alpha x B^T + c: x [rows][...] in the order that the type has, with a stride in bytes; B [columns][k] of codes, with
 * scales; c has strides in bytes from row to row and from column to column, or is 0.
 */
export type FewProduct = (
  type: number,
  x: Address,
  xStride: number,
  codes: Address,
  scales: Address,
  c: Address,
  cStride: number,
  out: Address,
  outStride: number,
  rows: number,
  from: number,
  to: number,
  k: number,
  alpha: number,
) => void;

/** Makes the products of one thread. `numbers` are those that NF4's codes stand for. */
export function createFewProduct(
  memory: WebAssembly.Memory,
  base: number,
  scratch: Address,
  { nf4, q8, numbers }: FewRowsAddresses,
): FewProduct {
  const routines = { nf4: nf4.map(routineAt), q8: q8.map(routineAt) };
  const words = new Uint32Array(memory.buffer, scratch, FEW_SCRATCH / 4);
  const floats = new Float32Array(memory.buffer, scratch, FEW_SCRATCH / 4);
  floats.set(numbers, NUMBERS_AT / 4);
  const args = base + scratch;
  return (type, x, xStride, codes, scales, c, cStride, out, outStride, rows, from, to, k, alpha) => {
    if (from >= to) return;
    const isNf4 = type === NF4;
    const [codeLine, scaleLine] = [isNf4 ? k / 2 : k, 4 * (k / BLOCK)];
    words[FEW.x / 4] = x;
    words[FEW.xStride / 4] = xStride;
    words[FEW.codes / 4] = (codes >>> 0) + from * codeLine;
    words[FEW.codeLine / 4] = codeLine;
    words[FEW.scales / 4] = (scales >>> 0) + from * scaleLine;
    words[FEW.scaleLine / 4] = scaleLine;
    words[FEW.addend / 4] = c === 0 ? scratch + FEW.zero : (c >>> 0) + 4 * from;
    words[FEW.addendStride / 4] = c === 0 ? 0 : cStride;
    words[FEW.addendStep / 4] = c === 0 ? 0 : 4;
    words[FEW.out / 4] = (out >>> 0) + 4 * from;
    words[FEW.outStride / 4] = outStride;
    words[FEW.columns / 4] = to - from;
    words[FEW.chunks / 4] = isNf4 ? Math.floor(k / CHUNK) : k / BLOCK;
    words[FEW.tail / 4] = isNf4 ? (k % CHUNK) / BLOCK : 0;
    floats[FEW.alpha / 4] = alpha;
    words[FEW.zero / 4] = 0;
    routines[isNf4 ? "nf4" : "q8"][rows - 1]!(args, base);
  };
}
