import { Opcode } from "../../assembly/opcodes.ts";
import type { TensorType } from "../graph/types.ts";
import type { FloatType } from "../base/dtype.ts";
import { areFloats } from "./half.ts";
import { emitGemm, type Product, storedOperand } from "./gemm-kernels.ts";
import type { HeadSizes } from "./linear-cross-entropy-body.ts";
import type { KernelEmitter, Operand, Scalar, Scratch } from "./types.ts";

/** The part that the operators of the fused head have in common: operands, and the lowering to kernels of WebAssembly. */

export type HeadAttrs = {
  /** Logits x become softcap tanh(x / softcap) (Gemma 2, arXiv 2408.00118); absent: they stay. */
  readonly softcap?: number;
  /** Factor of a low-rank update of the logits; absent: there is none. */
  readonly alpha?: number;
  /**
   * 1: logits may be computed a second time for their gradient, instead of being kept, so that many rows pass over W together. W is read twice,
   * whatever their number, and little memory is needed, at the price of a third product. The results are the same.
   */
  readonly recompute?: 1;
};

/** Where an operator has the two matrices of a low-rank update, its inputs `at` and `at + 1`. */
export type UpdateAt = 4 | 6;

/** The logits of so many rows are in memory at a time; with them the workspace stays below 64 MiB. */
const LOGITS_BYTES = 48 * 2 ** 20;

export function isOne(type: TensorType | null | undefined): boolean {
  return type?.dtype === "f32" && type.shape.length === 1 && type.shape[0] === 1;
}

export function headInputs(e: KernelEmitter<HeadAttrs>) {
  return {
    h: e.input(0)!,
    w: e.input(1)!,
    stored: storedOperand(e, 1),
    labels: e.input(2)!,
    scale: e.input(3),
    softcap: e.attrs.softcap,
    recompute: e.attrs.recompute === 1,
  };
}

/** 0: none. */
export function softCapOf(e: KernelEmitter<HeadAttrs>): Scalar {
  return { f32: e.attrs.softcap ?? 0 };
}

/** Tells whether h [T, H] and W [V, H] are of one float type, and labels i32[T], or as many for each token. */
export function isHead(...[h, w, labels]: readonly (TensorType | null | undefined)[]): boolean {
  const matrices = areFloats(h, w) && h!.shape.length === 2 && w!.shape.length === 2;
  const each = (labels?.shape[0] ?? 0) / (h?.shape[0] ?? 1);
  const tokens = labels?.dtype === "i32" && labels.shape.length === 1 && each >= 1 && Number.isInteger(each);
  return matrices && tokens && h!.shape[1] === w!.shape[1];
}

/** Tells whether low f32[T, r] and up f32[V, r] are there with a finite alpha, or none of the three is. */
export function isUpdate(
  h: TensorType | null | undefined,
  w: TensorType | null | undefined,
  low: TensorType | null | undefined,
  up: TensorType | null | undefined,
  { alpha }: HeadAttrs,
): boolean {
  if (alpha === undefined) return !low && !up;
  const matrices = [low, up].every((type) => type?.dtype === "f32" && type.shape.length === 2);
  const [tokens, vocab] = [h?.shape[0], w?.shape[0]];
  return (
    Number.isFinite(alpha) && matrices && low!.shape[0] === tokens && up!.shape[0] === vocab && low!.shape[1] === up!.shape[1]
  );
}

/** Tells whether scale is f32[1], or has one for each label. */
export function isScale(labels: TensorType | null | undefined, scale: TensorType | null | undefined): boolean {
  return scale?.dtype === "f32" && scale.shape.length === 1 && (isOne(scale) || scale.shape[0] === labels?.shape[0]);
}

export function headSizes(types: readonly (TensorType | null)[], { alpha }: HeadAttrs, at: UpdateAt): HeadSizes {
  const [h, w, labels, scale] = types;
  const [tokens, width] = h!.shape as [number, number];
  return {
    tokens,
    vocab: w!.shape[0]!,
    width,
    each: labels!.shape[0]! / tokens,
    scales: !!scale && !isOne(scale),
    dtype: h!.dtype as FloatType,
    ...(alpha !== undefined && { update: { at, rank: types[at]!.shape[1]!, alpha } }),
  };
}

/** Sizes and buffers of the lowering. */
export interface Head {
  readonly tokens: number;
  /** H. */
  readonly width: number;
  readonly vocab: number;
  /** How W lies in memory. */
  readonly stored: Pick<Product, "bType" | "quantised">;
  readonly labels: string;
  /** Labels of a token, L. */
  readonly each: number;
  /** null: the losses have none. */
  readonly scale: string | null;
  readonly step: 0 | 1;
  /** Most rows of a chunk. */
  readonly chunk: number;
  /** The tokens that have a label, i32[T], and how many, i32[1]. */
  readonly rows: Scratch;
  readonly count: Scratch;
  /** Cross entropy of each of them by each of its labels, f32[T, L]. */
  readonly losses: Scratch;
  /** h of a chunk, f32[chunk, H]; then its gradient. */
  readonly hidden: Scratch;
  /** f32[chunk, V]; then their gradient. */
  readonly logits: Scratch;
  readonly update: HeadUpdate | null;
}

/** alpha low up^T, which is added to the logits. */
export interface HeadUpdate {
  readonly low: string;
  readonly up: string;
  readonly rank: number;
  readonly alpha: number;
  /** low of a chunk, f32[chunk, rank]; then its gradient. */
  readonly gathered: Scratch;
}

export function startHead(e: KernelEmitter<HeadAttrs>, at: UpdateAt): Head {
  const [h, w, labels, scale] = [e.input(0)!, e.input(1)!, e.input(2)!, e.input(3)];
  const [tokens, width] = e.type(h).shape as [number, number];
  const vocab = e.type(w).shape[0]!;
  const most = Math.max(1, Math.floor(LOGITS_BYTES / (4 * vocab)));
  // Chunks of equal size: the last one is no remainder.
  const chunk = Math.ceil(tokens / Math.ceil(tokens / most));
  const rows = e.scratch(4 * tokens);
  const count = e.scratch(4);
  const each = labelsEach(e, h, labels);
  e.emit(Opcode.LabelledRows, [labels, rows, count], [tokens, each]);
  return {
    tokens,
    width,
    vocab,
    stored: storedOperand(e, 1),
    labels,
    each,
    scale,
    step: scale === null ? 0 : scaleStep(e, scale),
    chunk,
    rows,
    count,
    losses: e.scratch(4 * tokens * each),
    hidden: e.scratch(4 * chunk * width),
    logits: e.scratch(4 * chunk * vocab),
    update: startUpdate(e, at, chunk),
  };
}

function startUpdate(e: KernelEmitter<HeadAttrs>, at: UpdateAt, chunk: number): HeadUpdate | null {
  const { alpha } = e.attrs;
  if (alpha === undefined) return null;
  const [low, up] = [e.input(at)!, e.input(at + 1)!];
  const rank = e.type(up).shape[1]!;
  return { low, up, rank, alpha, gathered: e.scratch(4 * chunk * rank) };
}

export function emitLoss(e: KernelEmitter<HeadAttrs>, { losses, rows, count, scale, step, each }: Head, loss: string): void {
  e.emit(Opcode.LossSum, [losses, rows, count, scale, loss], [step, each]);
}

/** Chunk by chunk computes the logits and does what is asked. A chunk beyond the labelled rows costs nothing. */
export function forEachChunk(
  e: KernelEmitter<HeadAttrs>,
  head: Head,
  use: (chunk: { first: number; rows: number }) => void,
): void {
  const { hidden, logits, rows, count, width, vocab, stored, update } = head;
  for (let first = 0; first < head.tokens; first += head.chunk) {
    const size = Math.min(head.chunk, head.tokens - first);
    e.emit(Opcode.GatherRows, [e.input(0), rows, count, hidden], [first, size, width]);
    const clip = { dim: "m", count, first } as const;
    emitGemm(e, {
      a: hidden,
      b: e.input(1),
      out: logits,
      m: size,
      n: vocab,
      k: width,
      transB: true,
      ...stored,
      clip,
    });
    if (update) {
      const { low, up, rank, alpha, gathered } = update;
      e.emit(Opcode.GatherRows, [low, rows, count, gathered], [first, size, rank]);
      const c = { value: logits, row: false };
      emitGemm(e, { a: gathered, b: up, c, out: logits, m: size, n: vocab, k: rank, transB: true, alpha, clip });
    }
    use({ first, rows: size });
  }
}

/** Returns how many labels a token has. */
export function labelsEach(e: Pick<KernelEmitter, "type">, h: string, labels: string): number {
  return e.type(labels).shape[0]! / e.type(h).shape[0]!;
}

/** Writes compact losses of the labelled rows to their tokens, f32[T, L]: 0 where there is no label. */
export function emitTokenLosses(
  e: Pick<KernelEmitter, "emit">,
  { losses, rows, count, labels, tokens, each }: Pick<Head, "losses" | "rows" | "count" | "labels" | "tokens" | "each">,
  out: Operand,
): void {
  e.emit(Opcode.ScatterRows, [losses, rows, count, out], [0, tokens, each]);
  e.emit(Opcode.ClearRows, [labels, out], [tokens, each, each]);
}

/** Elements from a token's scale to the next one's: 0 where all have the same. */
export function scaleStep(e: Pick<KernelEmitter, "type">, scale: string): 0 | 1 {
  return e.type(scale).shape[0] === 1 ? 0 : 1;
}
