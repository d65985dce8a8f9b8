import type { FloatType } from "../base/dtype.ts";
import { narrow, widen } from "./half-body.ts";
import { softCapBody } from "./soft-cap-body.ts";
import type { BodyBuilder } from "./types.ts";

/**
 * Attention and its gradient in standard operators. Queries are taken in tiles: without ends, a tile sees the keys up to its last query
 * alone, which halves the work of a long sequence; its scores, [heads, tile, keys], stay small. The results of a tile are joined and
 * split again: a runtime that orders nodes by outputs would otherwise compute one output of all tiles first, and keep
 * the scores of all tiles for the other outputs.
 *
 * In a half type the products of matrices have it; scores, their softmax and sums are f32.
 */

export interface Sizes {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  /** Query heads per key head. */
  readonly group: number;
  readonly dim: number;
  /** The type of queries, keys, values and the like. */
  readonly dtype: FloatType;
}

/** Settings of the scores: see `Attention`. */
export interface Scores {
  readonly scale: number;
  readonly softcap?: number;
}

/** Queries of a tile; longer sequences than `MOST_TILES` of them get larger tiles, so that a body stays short. */
const TILE = 256;
const MOST_TILES = 64;

/** The queries from..to-1; they see keys 0..keys-1 at most. */
interface Tile {
  readonly from: number;
  readonly to: number;
  readonly keys: number;
}

/** Names of the inputs that say what each token sees: without `ends`, nothing behind it. */
interface Seen {
  readonly starts: string;
  readonly ends: string | undefined;
}

function tilesOf(tokens: number, { ends }: Seen): Tile[] {
  const size = Math.max(TILE, Math.ceil(tokens / MOST_TILES));
  const count = Math.max(1, Math.ceil(tokens / size));
  return Array.from({ length: count }, (_, i) => {
    const to = Math.min((i + 1) * size, tokens);
    return { from: i * size, to, keys: ends === undefined ? to : tokens };
  });
}

export function attentionBody(body: BodyBuilder, inputs: readonly string[], sizes: Sizes, kind: Scores): string[] {
  const [q, k, v, starts, ends, sinks] = inputs as [string, string, string, string, string?, string?];
  const { dtype } = sizes;
  const seen: Seen = { starts, ends: ends || undefined };
  const tiles = tilesOf(sizes.tokens, seen).map((tile) => {
    const keys = (x: string) => rows(body, x, 0, tile.keys, sizes);
    const scores = maskedScores(body, q, keys(k), seen, tile, sizes, kind).scores;
    const { powers, sum, greatest } = powersOf(body, scores, sinks, [sizes.kvHeads, sizes.group, 1, 1]);
    const weights = narrow(body, body.op("Div", [powers, sum]), dtype);
    const out = widen(body, body.op("MatMul", [weights, splitHeads(body, keys(v), keySizes(sizes))]), dtype);
    const lse = body.op("Add", [greatest, body.op("Log", [sum])]);
    return body.op("Concat", [joinHeads(body, out, sizes), joinHeads(body, lse, { ...sizes, dim: 1 })], { axis: 1 });
  });
  const columns = body.ints([sizes.heads * sizes.dim, sizes.heads]);
  const [out, lse] = body.ops("Split", [concat(body, tiles), columns], { axis: 1 }, 2);
  return [narrow(body, out!, dtype), lse!];
}

/** Numbers in proportion to a softmax over the last axis, their sum with that of the sinks, and the greatest score. */
export function powersOf(
  body: BodyBuilder,
  scores: string,
  sinks: string | undefined,
  sinkShape: readonly number[],
): { readonly powers: string; readonly sum: string; readonly greatest: string } {
  const reduced = (name: string, x: string) => body.op(name, [x, body.ints([3])], { keepdims: 1 });
  const most = reduced("ReduceMax", scores);
  const sink = sinks ? body.op("Reshape", [sinks, body.ints(sinkShape)]) : null;
  // Max, in operators of which CUDA's kernels are known.
  const greatest = sink === null ? most : body.op("Where", [body.op("LessOrEqual", [most, sink]), sink, most]);
  const powers = body.op("Exp", [body.op("Sub", [scores, greatest])]);
  const sum = reduced("ReduceSum", powers);
  if (sink === null) return { powers, sum, greatest };
  return { powers, sum: body.op("Add", [sum, body.op("Exp", [body.op("Sub", [sink, greatest])])]), greatest };
}

export function attentionGradBody(body: BodyBuilder, inputs: readonly string[], sizes: Sizes, kind: Scores): string[] {
  const [q, k, v, starts, out, lse, dOut, ends] = inputs as [string, string, string, string, string, string, string, string?];
  const { dtype } = sizes;
  const keyWidth = sizes.kvHeads * sizes.dim;
  const product = (a: string, b: string) => widen(body, body.op("MatMul", [a, b]), dtype);
  const seen: Seen = { starts, ends: ends || undefined };
  const tiles = tilesOf(sizes.tokens, seen).map((tile) => {
    const keys = (x: string) => rows(body, x, 0, tile.keys, sizes);
    const queries = (x: string, dim = sizes.dim) => splitHeads(body, rows(body, x, tile.from, tile.to, sizes), { ...sizes, dim });
    const keyHeads = (x: string) => splitHeads(body, keys(x), keySizes(sizes));
    const { scores, slope } = maskedScores(body, q, keys(k), seen, tile, sizes, kind);
    const p = body.op("Exp", [body.op("Sub", [scores, queries(lse, 1)])]);
    const dOutHeads = queries(dOut);
    const agreement = body.op("Mul", [widen(body, dOutHeads, dtype), widen(body, queries(out), dtype)]);
    const delta = body.op("ReduceSum", [agreement, body.ints([3])], { keepdims: 1 });
    const dP = product(dOutHeads, transpose(body, keyHeads(v)));
    const dCapped = body.op("Mul", [p, body.op("Sub", [dP, delta])]);
    const dScores = slope === null ? dCapped : body.op("Mul", [dCapped, slope]);
    const dS = narrow(body, body.op("Mul", [dScores, body.scalar(Math.fround(kind.scale))]), dtype);
    const dQ = product(dS, keyHeads(k));
    const dK = product(transpose(body, dS), queries(q));
    const dV = product(transpose(body, narrow(body, p, dtype)), dOutHeads);
    const dKeys = body.op("Concat", [sumGroup(body, dK, sizes), sumGroup(body, dV, sizes)], { axis: 1 });
    const queryWidth = sizes.heads * sizes.dim;
    // Rows as wide as both divide into: providers tabulate the axis that is joined and split, on the CPU.
    const width = divisor(queryWidth, 2 * keyWidth);
    const slim = [joinHeads(body, dQ, sizes), dKeys].map((x) => body.op("Reshape", [x, body.ints([-1, width])]));
    const bundle = body.op("Concat", slim, { axis: 0 });
    const split = body.ints([((tile.to - tile.from) * queryWidth) / width, (tile.keys * 2 * keyWidth) / width]);
    const [first, second] = body.ops("Split", [bundle, split], { axis: 0 }, 2);
    return {
      seen: tile.keys,
      dQ: body.op("Reshape", [first!, body.ints([-1, queryWidth])]),
      dKeys: body.op("Reshape", [second!, body.ints([-1, 2 * keyWidth])]),
    };
  });
  const sum = tiles.reduceRight<string | null>((sum, { seen, dKeys }) => {
    if (sum === null) return dKeys;
    const added = body.op("Add", [rows(body, sum, 0, seen, sizes), dKeys]);
    return seen === sizes.tokens ? added : concat(body, [added, rows(body, sum, seen, sizes.tokens, sizes)]);
  }, null)!;
  const dQ = concat(
    body,
    tiles.map((tile) => tile.dQ),
  );
  const gradients = [dQ, ...body.ops("Split", [sum, body.ints([keyWidth, keyWidth])], { axis: 1 }, 2)];
  return gradients.map((gradient) => narrow(body, gradient, dtype));
}

/** Greatest common divisor. */
function divisor(a: number, b: number): number {
  return b === 0 ? a : divisor(b, a % b);
}

const keySizes = (sizes: Sizes): Sizes => ({ ...sizes, heads: sizes.kvHeads, group: 1 });

/** Rows from..to-1 of a matrix of all tokens. */
function rows(body: BodyBuilder, x: string, from: number, to: number, { tokens }: Sizes): string {
  if (from === 0 && to === tokens) return x;
  return body.op("Slice", [x, body.ints([from]), body.ints([to]), body.ints([0])]);
}

function concat(body: BodyBuilder, parts: readonly string[]): string {
  return parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
}

/** [n, heads * dim] -> [kvHeads, group, n, dim]; keys have a group of 1, over which MatMul broadcasts. */
function splitHeads(body: BodyBuilder, x: string, { kvHeads, group, dim }: Sizes): string {
  return body.op("Transpose", [body.op("Reshape", [x, body.ints([-1, kvHeads, group, dim])])], { perm: [1, 2, 0, 3] });
}

/** [kvHeads, group, n, dim] -> [n, heads * dim] */
function joinHeads(body: BodyBuilder, x: string, { heads, dim }: Sizes): string {
  return body.op("Reshape", [body.op("Transpose", [x], { perm: [2, 0, 1, 3] }), body.ints([-1, heads * dim])]);
}

/** Sum over the query heads of a key head: [kvHeads, group, n, dim] -> [n, kvHeads * dim] */
function sumGroup(body: BodyBuilder, x: string, { kvHeads, dim }: Sizes): string {
  const sum = body.op("ReduceSum", [x, body.ints([1])], { keepdims: 0 });
  return body.op("Reshape", [body.op("Transpose", [sum], { perm: [1, 0, 2] }), body.ints([-1, kvHeads * dim])]);
}

function transpose(body: BodyBuilder, x: string): string {
  return body.op("Transpose", [x], { perm: [0, 1, 3, 2] });
}

/**
 * scale q k^T of a tile, capped, with -infinity where a token does not attend: [kvHeads, group, to - from, keys], and the
 * derivative of the cap, if there is one. `k` has rows 0..keys-1.
 */
function maskedScores(
  body: BodyBuilder,
  q: string,
  k: string,
  { starts, ends }: Seen,
  { from, to, keys: count }: Tile,
  sizes: Sizes,
  { scale, softcap }: Scores,
): { scores: string; slope: string | null } {
  const range = (first: number, end: number) =>
    body.op("Range", [body.scalar(first, "i32"), body.scalar(end, "i32"), body.scalar(1, "i32")]);
  const column = (x: string) => body.op("Unsqueeze", [x, body.ints([1])]);
  const factor = body.scalar(Math.fround(scale), sizes.dtype);
  const scaled = body.op("Mul", [splitHeads(body, rows(body, q, from, to, sizes), sizes), factor]);
  const products = widen(body, body.op("MatMul", [scaled, transpose(body, splitHeads(body, k, keySizes(sizes)))]), sizes.dtype);
  const { capped, slope } = softCapBody(body, products, softcap);
  const keys = range(0, count);
  const ofTile = (x: string) => column(rows(body, x, from, to, sizes));
  const notBefore = body.op("LessOrEqual", [ofTile(starts), keys]);
  // There is no Less for i32 on CUDA: it is not the case that the end is at or in front of the key.
  const notBehind =
    ends === undefined
      ? body.op("LessOrEqual", [keys, column(range(from, to))])
      : body.op("Not", [body.op("LessOrEqual", [ofTile(ends), keys])]);
  const seen = body.op("And", [notBefore, notBehind]);
  return { scores: body.op("Where", [seen, capped, body.scalar(-Infinity)]), slope };
}
