import { powersOf, type Scores, type Sizes } from "./attention-body.ts";
import { softCapBody } from "./soft-cap-body.ts";
import type { BodyBuilder } from "./types.ts";

export interface CacheSizes extends Sizes {
  /** Rows of a text's caches. */
  readonly size: number;
  /** One, or one per token. */
  readonly texts: number;
}

/** Attention to a cache in standard operators: the caches with the new rows written, then masked softmax over all rows. */
export function cachedAttentionBody(body: BodyBuilder, inputs: readonly string[], sizes: CacheSizes, kind: Scores): string[] {
  const [q, k, v, keys, values, starts, position, sinks] = inputs as [
    string,
    string,
    string,
    string,
    string,
    string,
    string,
    string?,
  ];
  const { tokens, heads, kvHeads, group, dim, size, texts } = sizes;
  /** 0, step, ..., below count * step */
  const range = (count: number, step = 1) =>
    body.op("Range", [body.scalar(0, "i32"), body.scalar(count * step, "i32"), body.scalar(step, "i32")]);
  const column = (x: string) => body.op("Unsqueeze", [x, body.ints([1])]);
  const reshape = (x: string, shape: readonly number[]) => body.op("Reshape", [x, body.ints(shape)]);
  /** [T]: where each new token is in its text. */
  const places = texts > 1 ? position : body.op("Add", [range(tokens), position]);
  /** [T * kvHeads, 1]: where each row of a head is in the caches, as one list of rows. */
  const inText = texts > 1 ? body.op("Add", [places, range(tokens, kvHeads * size)]) : places;
  const rows = body.op("Cast", [body.op("Add", [column(inText), range(kvHeads, size)])], { to: "i64" });
  const indices = reshape(rows, [-1, 1]);
  const written = (cache: string, x: string) => {
    const list = body.op("ScatterND", [reshape(cache, [-1, dim]), indices, reshape(x, [-1, dim])]);
    return reshape(list, [-1, size, dim]);
  };
  const [newKeys, newValues] = [written(keys, k), written(values, v)];

  // Queries of one text are rows of one product per head. With a text per token they are the heads that share keys.
  const [outer, inner] = texts > 1 ? [tokens * kvHeads, group] : [kvHeads, group * tokens];
  const turn = (x: string, shape: readonly number[], perm: readonly number[]) =>
    texts > 1 ? x : body.op("Transpose", [reshape(x, shape)], { perm });
  const queries = reshape(turn(q, [tokens, kvHeads, group, dim], [1, 2, 0, 3]), [outer, inner, dim]);
  const scaled = body.op("Mul", [queries, body.scalar(Math.fround(kind.scale))]);
  const products = body.op("MatMul", [scaled, body.op("Transpose", [newKeys], { perm: [0, 2, 1] })]);
  const scores = softCapBody(body, products, kind.softcap).capped;
  const all = range(size);
  const seen = body.op("And", [body.op("LessOrEqual", [column(starts), all]), body.op("LessOrEqual", [all, column(places)])]);
  // [T, heads of a token, 1, size], or [kvHeads, group, T, size]
  const shape = texts > 1 ? [tokens, kvHeads, group, size] : [kvHeads, group, tokens, size];
  const mask = texts > 1 ? reshape(seen, [tokens, 1, 1, size]) : seen;
  const masked = body.op("Where", [mask, reshape(scores, shape), body.scalar(-Infinity)]);
  const softmax = (): string => {
    if (!sinks) return body.op("Softmax", [masked], { axis: 3 });
    const { powers, sum } = powersOf(body, masked, sinks, texts > 1 ? [1, kvHeads, group, 1] : [kvHeads, group, 1, 1]);
    return body.op("Div", [powers, sum]);
  };
  const weights = reshape(softmax(), [outer, inner, size]);
  const out = turn(body.op("MatMul", [weights, newValues]), [kvHeads, group, tokens, dim], [2, 0, 1, 3]);
  return [reshape(out, [-1, heads * dim]), newKeys, newValues];
}
