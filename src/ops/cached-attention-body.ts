import type { Scores, Sizes } from "./attention-body.ts";
import { softCapBody } from "./soft-cap-body.ts";
import type { BodyBuilder } from "./types.ts";

export interface CacheSizes extends Sizes {
  /** Rows of the caches. */
  readonly size: number;
}

/** Attention to a cache in standard operators: the caches with the new rows written, then masked softmax over all rows. */
export function cachedAttentionBody(body: BodyBuilder, inputs: readonly string[], sizes: CacheSizes, kind: Scores): string[] {
  const [q, k, v, keys, values, starts, position] = inputs as [string, string, string, string, string, string, string];
  const { tokens, heads, kvHeads, group, dim, size } = sizes;
  const range = (count: number) => body.op("Range", [body.scalar(0, "i32"), body.scalar(count, "i32"), body.scalar(1, "i32")]);
  const column = (x: string) => body.op("Unsqueeze", [x, body.ints([1])]);
  /** [T]: where each new token is. */
  const places = body.op("Add", [range(tokens), position]);
  const written = (cache: string, rows: string) =>
    body.op("ScatterND", [cache, column(body.op("Cast", [places], { to: "i64" })), rows]);
  /** [n, heads * dim] -> [kvHeads, group, n, dim]; keys have a group of 1, over which MatMul broadcasts. */
  const split = (x: string, of: number) =>
    body.op("Transpose", [body.op("Reshape", [x, body.ints([-1, kvHeads, of, dim])])], { perm: [1, 2, 0, 3] });

  const [newKeys, newValues] = [written(keys, k), written(values, v)];
  const scaled = body.op("Mul", [split(q, group), body.scalar(Math.fround(kind.scale))]);
  const products = body.op("MatMul", [scaled, body.op("Transpose", [split(newKeys, 1)], { perm: [0, 1, 3, 2] })]);
  const scores = softCapBody(body, products, kind.softcap).capped;
  const rows = range(size);
  const seen = body.op("And", [body.op("LessOrEqual", [column(starts), rows]), body.op("LessOrEqual", [rows, column(places)])]);
  const weights = body.op("Softmax", [body.op("Where", [seen, scores, body.scalar(-Infinity)])], { axis: 3 });
  const out = body.op("Transpose", [body.op("MatMul", [weights, split(newValues, 1)])], { perm: [2, 0, 1, 3] });
  return [body.op("Reshape", [out, body.ints([-1, heads * dim])]), newKeys, newValues];
}
