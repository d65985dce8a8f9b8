import type { FloatType } from "../base/dtype.ts";
import { narrow, widen } from "./half-body.ts";
import { softCapBody } from "./soft-cap-body.ts";
import type { BodyBuilder } from "./types.ts";

/**
 * Linear layer + cross entropy and its gradient in standard operators, for a chunk of tokens at a time: the logits of
 * all tokens never exist. In a half type the products of matrices have it; logits and all that is made of them is f32.
 */

/** The label of a token that does not count. */
const IGNORED_LABEL = -100;

/** Logits of a chunk in bytes. A body has at most `MOST_CHUNKS`. */
const LOGITS_BYTES = 32 * 2 ** 20;
const MOST_CHUNKS = 32;

export interface HeadSizes {
  readonly tokens: number;
  readonly vocab: number;
  /** H. */
  readonly width: number;
  /** Labels of a token, L. */
  readonly each: number;
  /** Each label has a scale of its own. */
  readonly scales: boolean;
  /** The type of h and W. */
  readonly dtype: FloatType;
  /** The logits get alpha low up^T, of the inputs `at` and `at + 1`, f32. */
  readonly update?: { readonly at: number; readonly rank: number; readonly alpha: number };
}

/** Tokens from..to-1. */
interface Chunk {
  readonly from: number;
  readonly to: number;
}

function chunksOf({ tokens, vocab }: HeadSizes): Chunk[] {
  const count = Math.min(MOST_CHUNKS, tokens, Math.ceil((4 * vocab * tokens) / LOGITS_BYTES));
  return Array.from({ length: count }, (_, i) => ({
    from: Math.floor((i * tokens) / count),
    to: Math.floor(((i + 1) * tokens) / count),
  }));
}

/** -> loss, correct */
export function crossEntropyBody(body: BodyBuilder, inputs: readonly string[], sizes: HeadSizes, softcap?: number): string[] {
  const [, , , scale] = inputs as [string, string, string, string];
  const chunks = chunksOf(sizes).map((chunk) => {
    const { logits, firsts, losses } = softmax(body, inputs, chunk, sizes, softcap);
    const first = body.op("ArgMax", [logits], { axis: 1, keepdims: 1, select_last_index: 0 });
    const hits = body.op("And", [firsts.isValid(), body.op("Equal", [body.op("Cast", [first], { to: "i32" }), firsts.label()])]);
    const count = body.op("ReduceSum", [body.op("Cast", [hits], { to: "i32" }), body.ints([0])], { keepdims: 0 });
    return { loss: sumOf(body, scaled(body, losses, scale, chunk, sizes), sizes), count };
  });
  const loss = scaledSum(
    body,
    chunks.map((chunk) => chunk.loss),
    scale,
    sizes,
  );
  const counts = body.op(
    "Concat",
    chunks.map((chunk) => chunk.count),
    { axis: 0 },
  );
  return [loss, body.op("ReduceSum", [counts, body.ints([0])], { keepdims: 1 })];
}

/** -> the losses of each token by its labels [T L], without a scale; 0 where there is none. */
export function tokenCrossEntropyBody(
  body: BodyBuilder,
  inputs: readonly string[],
  sizes: HeadSizes,
  softcap?: number,
): string[] {
  const losses = chunksOf(sizes).map((chunk) => softmax(body, inputs, chunk, sizes, softcap).losses);
  return [body.op("Reshape", [body.op("Concat", losses, { axis: 0 }), body.ints([sizes.tokens * sizes.each])])];
}

/**
 * -> dh, dW, loss, and with an update dlow, dup. With P = softmax(h W^T) and Y the one-hot labels, D = scale dloss (P - Y) (times the slope
 * of the cap): dh = D W, dW = sum + D^T h, dlow = alpha D up, dup = alpha D^T low.
 */
export function crossEntropyGradBody(body: BodyBuilder, inputs: readonly string[], sizes: HeadSizes, softcap?: number): string[] {
  const [, w, , scale, dloss, sum = ""] = inputs as [string, string, string, string, string, string?];
  const { dtype, width, vocab, update } = sizes;
  let dW = sum;
  let dup: string | null = null;
  const chunks = chunksOf(sizes).map((chunk) => {
    const { rows, low, powers, total, valid, column, losses: plain, slope } = softmax(body, inputs, chunk, sizes, softcap);
    const losses = scaled(body, plain, scale, chunk, sizes);
    const factors = body.op("Where", [valid, body.op("Mul", [scaleOf(body, scale, chunk, sizes), dloss]), body.scalar(0)]);
    const { each } = sizes;
    const perRow = each === 1 ? factors : body.op("ReduceSum", [factors, body.ints([1])], { keepdims: 1 });
    const probabilities = body.op("Mul", [powers, body.op("Div", [perRow, total])]);
    const dCapped = subtractOwn(body, probabilities, column, factors, each);
    const d = slope === null ? dCapped : body.op("Mul", [dCapped, slope]);
    const dh = widen(body, body.op("Gemm", [narrow(body, d, dtype), w]), dtype);
    // What a chunk gives goes through one value, so that a runtime which orders nodes by outputs finishes the chunk
    // before it begins the next: it would keep the logits of all chunks otherwise. Joined by columns: providers tabulate
    // the axis that is joined and split, on the CPU.
    const parts: (readonly [value: string, columns: number])[] = [
      [dh, width],
      [losses, sizes.each],
    ];
    if (sum !== "" || update) parts.push([d, vocab]);
    if (update) parts.push([body.op("Gemm", [d, inputs[update.at + 1]!], { alpha: Math.fround(update.alpha) }), update.rank]);
    const joined = body.op(
      "Concat",
      parts.map(([value]) => value),
      { axis: 1 },
    );
    const columns = parts.map(([, count]) => count);
    const [dhPart, lossPart, dPart, lowPart] = body.ops("Split", [joined, body.ints(columns)], { axis: 1 }, parts.length);
    dW = addProduct(body, narrow(body, dPart ?? d, dtype), rows, dW, dtype);
    if (update && low !== null) {
      const addend: string[] = dup === null ? [] : [dup];
      dup = body.op("Gemm", [dPart!, low, ...addend], { transA: 1, alpha: Math.fround(update.alpha) });
    }
    return { dh: dhPart!, loss: sumOf(body, lossPart!, sizes), dlow: lowPart };
  });
  const joinRows = (parts: readonly string[]) => body.op("Concat", parts, { axis: 0 });
  const dh = joinRows(chunks.map((chunk) => chunk.dh));
  const outputs = [
    narrow(body, dh, dtype),
    dW,
    scaledSum(
      body,
      chunks.map((chunk) => chunk.loss),
      scale,
      sizes,
    ),
  ];
  return dup === null ? outputs : [...outputs, joinRows(chunks.map((chunk) => chunk.dlow!)), dup];
}

/**
 * P less the factor of each label in its column. Of two labels of a row that are equal one is the first, as a token's own label is beside those of a teacher: so that
 * no provider adds two numbers to one place in an order of its own, the first ones have a node of their own.
 */
function subtractOwn(body: BodyBuilder, probabilities: string, columns: string, factors: string, each: number): string {
  const less = (from: string, column: string, factor: string) =>
    body.op("ScatterElements", [from, column, body.op("Neg", [factor])], { axis: 1, reduction: "add" });
  if (each === 1) return less(probabilities, columns, factors);
  const [column, others] = body.ops("Split", [columns, body.ints([1, each - 1])], { axis: 1 }, 2);
  const [factor, rest] = body.ops("Split", [factors, body.ints([1, each - 1])], { axis: 1 }, 2);
  return less(less(probabilities, column!, factor!), others!, rest!);
}

/** sum + a^T b, added in f32. */
function addProduct(body: BodyBuilder, a: string, b: string, sum: string, dtype: FloatType): string {
  if (sum === "") return widen(body, body.op("Gemm", [a, b], { transA: 1 }), dtype);
  if (dtype === "f32") return body.op("Gemm", [a, b, sum], { transA: 1 });
  return body.op("Add", [sum, widen(body, body.op("Gemm", [a, b], { transA: 1 }), dtype)]);
}

/** The softmax of a chunk is powers / total; `losses` [tokens, L] are unscaled, 0 without a label; `firsts` are nodes for the first labels. */
function softmax(body: BodyBuilder, inputs: readonly string[], chunk: Chunk, sizes: HeadSizes, softcap?: number) {
  const [h, w, labels] = inputs as [string, string, string];
  const { update, dtype } = sizes;
  const rows = slice(body, h, chunk, sizes);
  const targets = perLabel(body, labels, chunk, sizes);
  const product = widen(body, body.op("Gemm", [rows, w], { transB: 1 }), dtype);
  const low = update ? slice(body, inputs[update.at]!, chunk, sizes) : null;
  const adapted =
    update && low !== null
      ? body.op("Gemm", [low, inputs[update.at + 1]!, product], { transB: 1, alpha: Math.fround(update.alpha) })
      : product;
  const { capped: logits, slope } = softCapBody(body, adapted, softcap);
  const valid = body.op("Not", [body.op("Equal", [targets, body.scalar(IGNORED_LABEL, "i32")])]);
  const column = body.op("Where", [valid, targets, body.scalar(0, "i32")]);
  const picked = body.op("GatherElements", [logits, column], { axis: 1 });
  const greatest = body.op("ReduceMax", [logits, body.ints([1])], { keepdims: 1 });
  const powers = body.op("Exp", [body.op("Sub", [logits, greatest])]);
  const total = body.op("ReduceSum", [powers, body.ints([1])], { keepdims: 1 });
  const all = body.op("Sub", [body.op("Add", [greatest, body.op("Log", [total])]), picked]);
  const losses = body.op("Where", [valid, all, body.scalar(0)]);
  const first = (x: string) => (sizes.each === 1 ? x : body.op("Slice", [x, body.ints([0]), body.ints([1]), body.ints([1])]));
  const firsts = { label: () => first(targets), isValid: () => first(valid) };
  return { rows, low, firsts, logits, powers, total, valid, column, losses, slope };
}

/** A chunk's part [tokens, L] of one value per label. */
function perLabel(body: BodyBuilder, x: string, { from, to }: Chunk, { tokens, each }: HeadSizes): string {
  const part = to - from === tokens ? x : body.op("Slice", [x, body.ints([from * each]), body.ints([to * each]), body.ints([0])]);
  return body.op("Reshape", [part, body.ints([to - from, each])]);
}

/** A chunk's part of one value per token. */
function slice(body: BodyBuilder, x: string, { from, to }: Chunk, { tokens }: HeadSizes): string {
  return to - from === tokens ? x : body.op("Slice", [x, body.ints([from]), body.ints([to]), body.ints([0])]);
}

function scaleOf(body: BodyBuilder, scale: string, chunk: Chunk, sizes: HeadSizes): string {
  return sizes.scales ? perLabel(body, scale, chunk, sizes) : scale;
}

/** The losses of a chunk's labels, times their own scales where they have such. */
function scaled(body: BodyBuilder, losses: string, scale: string, chunk: Chunk, sizes: HeadSizes): string {
  return sizes.scales ? body.op("Mul", [losses, perLabel(body, scale, chunk, sizes)]) : losses;
}

/** [tokens, L] -> [1] */
function sumOf(body: BodyBuilder, losses: string, { each }: HeadSizes): string {
  const column = each === 1 ? losses : body.op("ReduceSum", [losses, body.ints([1])], { keepdims: 1 });
  return body.op("ReduceSum", [column, body.ints([0])], { keepdims: 0 });
}

/** The sum of all chunks, times the scale that they have in common. */
function scaledSum(body: BodyBuilder, losses: readonly string[], scale: string, sizes: HeadSizes): string {
  const sum = body.op("ReduceSum", [body.op("Concat", losses, { axis: 0 }), body.ints([0])], { keepdims: 1 });
  return sizes.scales ? sum : body.op("Mul", [sum, scale]);
}
