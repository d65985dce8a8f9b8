import { softCapBody } from "./soft-cap-body.ts";
import type { BodyBuilder } from "./types.ts";

/**
 * Linear layer + cross entropy and its gradient in standard operators, for a chunk of tokens at a time: the logits of
 * all tokens never exist.
 */

/** The label of a token that does not count. */
export const IGNORED_LABEL = -100;

/** Logits of a chunk in bytes. A body has at most `MOST_CHUNKS`. */
const LOGITS_BYTES = 32 * 2 ** 20;
const MOST_CHUNKS = 32;

export interface HeadSizes {
  readonly tokens: number;
  readonly vocab: number;
  /** H. */
  readonly width: number;
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

/** -> loss */
export function crossEntropyBody(body: BodyBuilder, inputs: readonly string[], sizes: HeadSizes, softcap?: number): string[] {
  const [h, w, labels, scale] = inputs as [string, string, string, string];
  const losses = chunksOf(sizes).map((chunk) => sumOf(body, softmax(body, h, w, labels, chunk, sizes, softcap).losses));
  return [scaledSum(body, losses, scale)];
}

/** -> dh, dW, loss. With P = softmax(h W^T) and Y the one-hot labels, D = scale dloss (P - Y) (times the slope of the cap): dh = D W, dW = sum + D^T h. */
export function crossEntropyGradBody(body: BodyBuilder, inputs: readonly string[], sizes: HeadSizes, softcap?: number): string[] {
  const [h, w, labels, scale, dloss, sum = ""] = inputs as [string, string, string, string, string, string?];
  let dW = sum;
  const chunks = chunksOf(sizes).map((chunk) => {
    const { rows, powers, total, valid, column, losses, slope } = softmax(body, h, w, labels, chunk, sizes, softcap);
    const factor = body.op("Where", [valid, body.op("Mul", [scale, dloss]), body.scalar(0)]);
    const perRow = body.op("Unsqueeze", [factor, body.ints([1])]);
    const scaled = body.op("Mul", [powers, body.op("Div", [perRow, total])]);
    const dCapped = body.op("ScatterElements", [scaled, column, body.op("Neg", [perRow])], { axis: 1, reduction: "add" });
    let d = slope === null ? dCapped : body.op("Mul", [dCapped, slope]);
    const dh = body.op("Gemm", [d, w]);
    // What a chunk gives goes through one value, so that a runtime which orders nodes by outputs finishes the chunk
    // before it begins the next: it would keep the logits of all chunks otherwise. Joined by columns: providers tabulate
    // the axis that is joined and split, on the CPU.
    const [parts, columns] =
      sum === ""
        ? [
            [dh, losses],
            [sizes.width, 1],
          ]
        : [
            [dh, losses, d],
            [sizes.width, 1, sizes.vocab],
          ];
    const joined = body.op("Concat", parts, { axis: 1 });
    const [dhPart, lossPart, dPart] = body.ops("Split", [joined, body.ints(columns)], { axis: 1 }, parts.length);
    d = dPart ?? d;
    dW = body.op("Gemm", dW === "" ? [d, rows] : [d, rows, dW], { transA: 1 });
    return { dh: dhPart!, loss: sumOf(body, lossPart!) };
  });
  const dh = body.op(
    "Concat",
    chunks.map((chunk) => chunk.dh),
    { axis: 0 },
  );
  return [
    dh,
    dW,
    scaledSum(
      body,
      chunks.map((chunk) => chunk.loss),
      scale,
    ),
  ];
}

/** The softmax of a chunk is powers / total; `losses` [tokens, 1] are unscaled, 0 without a label. */
function softmax(
  body: BodyBuilder,
  h: string,
  w: string,
  labels: string,
  { from, to }: Chunk,
  sizes: HeadSizes,
  softcap?: number,
) {
  const slice = (x: string) =>
    to - from === sizes.tokens ? x : body.op("Slice", [x, body.ints([from]), body.ints([to]), body.ints([0])]);
  const [rows, targets] = [slice(h), slice(labels)];
  const { capped: logits, slope } = softCapBody(body, body.op("Gemm", [rows, w], { transB: 1 }), softcap);
  const valid = body.op("Not", [body.op("Equal", [targets, body.scalar(IGNORED_LABEL, "i32")])]);
  const column = body.op("Unsqueeze", [body.op("Where", [valid, targets, body.scalar(0, "i32")]), body.ints([1])]);
  const picked = body.op("GatherElements", [logits, column], { axis: 1 });
  const greatest = body.op("ReduceMax", [logits, body.ints([1])], { keepdims: 1 });
  const powers = body.op("Exp", [body.op("Sub", [logits, greatest])]);
  const total = body.op("ReduceSum", [powers, body.ints([1])], { keepdims: 1 });
  const all = body.op("Sub", [body.op("Add", [greatest, body.op("Log", [total])]), picked]);
  const losses = body.op("Where", [body.op("Unsqueeze", [valid, body.ints([1])]), all, body.scalar(0)]);
  return { rows, powers, total, valid, column, losses, slope };
}

/** [tokens, 1] -> [1] */
function sumOf(body: BodyBuilder, column: string): string {
  return body.op("ReduceSum", [column, body.ints([0])], { keepdims: 0 });
}

function scaledSum(body: BodyBuilder, losses: readonly string[], scale: string): string {
  const all = body.op("Concat", losses, { axis: 0 });
  return body.op("Mul", [body.op("ReduceSum", [all, body.ints([0])], { keepdims: 1 }), scale]);
}
