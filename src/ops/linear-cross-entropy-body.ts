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
export function crossEntropyBody(body: BodyBuilder, inputs: readonly string[], sizes: HeadSizes): string[] {
  const [h, w, labels, scale] = inputs as [string, string, string, string];
  const losses = chunksOf(sizes).map((chunk) => softmax(body, h, w, labels, chunk, sizes).loss);
  return [scaledSum(body, losses, scale)];
}

/** -> dh, dW, loss. With P = softmax(h W^T) and Y the one-hot labels, D = scale dloss (P - Y): dh = D W, dW = sum + D^T h. */
export function crossEntropyGradBody(body: BodyBuilder, inputs: readonly string[], sizes: HeadSizes): string[] {
  const [h, w, labels, scale, dloss, sum = ""] = inputs as [string, string, string, string, string, string?];
  let dW = sum;
  const chunks = chunksOf(sizes).map((chunk) => {
    const { rows, powers, total, valid, column, loss } = softmax(body, h, w, labels, chunk, sizes);
    const factor = body.op("Where", [valid, body.op("Mul", [scale, dloss]), body.scalar(0)]);
    const perRow = body.op("Unsqueeze", [factor, body.ints([1])]);
    const scaled = body.op("Mul", [powers, body.op("Div", [perRow, total])]);
    let d = body.op("ScatterElements", [scaled, column, body.op("Neg", [perRow])], { axis: 1, reduction: "add" });
    const dh = body.op("Gemm", [d, w]);
    // What a chunk gives goes through one value, so that a runtime which orders nodes by outputs finishes the chunk
    // before it begins the next: it would keep the logits of all chunks otherwise.
    const parts: (readonly [value: string, shape: readonly number[]])[] = [
      [dh, [chunk.to - chunk.from, sizes.width]],
      [loss, [1]],
    ];
    if (sum !== "") parts.push([d, [chunk.to - chunk.from, sizes.vocab]]);
    const [dhPart, lossPart, dPart] = together(body, parts);
    d = dPart ?? d;
    dW = body.op("Gemm", dW === "" ? [d, rows] : [d, rows, dW], { transA: 1 });
    return { dh: dhPart!, loss: lossPart! };
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

/** The softmax of a chunk is powers / total; `loss` f32[1] is the unscaled sum over its labelled tokens. */
function softmax(body: BodyBuilder, h: string, w: string, labels: string, { from, to }: Chunk, sizes: HeadSizes) {
  const slice = (x: string) =>
    to - from === sizes.tokens ? x : body.op("Slice", [x, body.ints([from]), body.ints([to]), body.ints([0])]);
  const [rows, targets] = [slice(h), slice(labels)];
  const logits = body.op("Gemm", [rows, w], { transB: 1 });
  const valid = body.op("Not", [body.op("Equal", [targets, body.scalar(IGNORED_LABEL, "i32")])]);
  const column = body.op("Unsqueeze", [body.op("Where", [valid, targets, body.scalar(0, "i32")]), body.ints([1])]);
  const picked = body.op("GatherElements", [logits, column], { axis: 1 });
  const greatest = body.op("ReduceMax", [logits, body.ints([1])], { keepdims: 1 });
  const powers = body.op("Exp", [body.op("Sub", [logits, greatest])]);
  const total = body.op("ReduceSum", [powers, body.ints([1])], { keepdims: 1 });
  const losses = body.op("Sub", [body.op("Add", [greatest, body.op("Log", [total])]), picked]);
  const counted = body.op("Where", [body.op("Unsqueeze", [valid, body.ints([1])]), losses, body.scalar(0)]);
  const loss = body.op("Reshape", [body.op("ReduceSum", [counted], { keepdims: 1 }), body.ints([1])]);
  return { rows, powers, total, valid, column, loss };
}

function scaledSum(body: BodyBuilder, losses: readonly string[], scale: string): string {
  const all = body.op("Concat", losses, { axis: 0 });
  return body.op("Mul", [body.op("ReduceSum", [all, body.ints([0])], { keepdims: 1 }), scale]);
}

/** The same values, joined to one and split again. */
function together(body: BodyBuilder, parts: readonly (readonly [value: string, shape: readonly number[]])[]): string[] {
  const sizes = parts.map(([, shape]) => shape.reduce((a, b) => a * b, 1));
  const flat = parts.map(([value]) => body.op("Reshape", [value, body.ints([-1])]));
  const split = body.ops("Split", [body.op("Concat", flat, { axis: 0 }), body.ints(sizes)], { axis: 0 }, parts.length);
  return split.map((value, i) => body.op("Reshape", [value, body.ints(parts[i]![1])]));
}
