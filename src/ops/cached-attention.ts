import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, sameType, type TensorType } from "../graph/types.ts";
import { checkSinks } from "./attention.ts";
import { emitSinks } from "./attention-sinks.ts";
import { type CacheSizes, cachedAttentionBody } from "./cached-attention-body.ts";
import { expectCap } from "./soft-cap.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type CachedAttentionAttrs = {
  /** Query heads; a multiple of `kvHeads`. Query head h uses key head floor(h * kvHeads / heads). */
  readonly heads: number;
  readonly kvHeads: number;
  /** Factor of the scores, rounded to f32; as a rule 1 / sqrt(head dimension). */
  readonly scale: number;
  /** As in `Attention`. */
  readonly softcap?: number;
};

const MAX_HEAD_DIM = 512;
/** The scores of a query must fit a thread's scratch. */
export const MAX_CACHE_TOKENS = 1 << 18;

function sizesOf(types: readonly (TensorType | null | undefined)[], { heads, kvHeads }: CachedAttentionAttrs): CacheSizes {
  const [q, , , cache, , , position] = types;
  const [tokens = 0, width = 0] = q?.shape ?? [];
  const texts = position?.shape[0] ?? 1;
  return { tokens, heads, kvHeads, group: heads / kvHeads, dim: width / heads, dtype: "f32", size: cache?.shape[1] ?? 0, texts };
}

/**
 * `CachedAttention(q, k, v, keys, values, starts, position, sinks?) -> out, keys', values'`: attention of new tokens to caches that take in their
 * keys and values first. q and out are f32 [T, heads * dim], k and v [T, kvHeads * dim], caches [texts * kvHeads, size, dim], starts i32[T],
 * position i32[texts]. With one text token i comes to position + i of it; with as many texts as tokens it comes to position[i] of text i. There
 * it attends to what its text has from starts[i] up to itself, as in `Attention`, with its sinks. Rows of the caches that no token sees must
 * be finite.
 */
export const CachedAttention = defineOp<CachedAttentionAttrs>({
  name: "CachedAttention",
  domain: "remat",
  cost: "compute",
  infer(inputs, attrs) {
    const [q, k, v, keys, values, starts, position] = inputs;
    const { tokens, heads, kvHeads, group, dim, size, texts } = sizesOf(inputs, attrs);
    expectCap("CachedAttention", attrs.softcap);
    const is = (type: TensorType | null | undefined, shape: readonly number[]) =>
      !!type && sameType(type, { dtype: "f32", shape });
    const rows = is(q, [tokens, heads * dim]) && [k, v].every((type) => is(type, [tokens, kvHeads * dim]));
    const slabs = [keys, values].every((type) => is(type, [texts * kvHeads, size, dim]));
    expectShape(
      "CachedAttention",
      `f32 q [T, ${heads} * dim], k and v [T, ${kvHeads} * dim], caches [texts * ${kvHeads}, size, dim], ${kvHeads} a divisor of ${heads}`,
      rows && slabs && Number.isInteger(dim) && Number.isInteger(group),
      q,
      k,
      v,
      keys,
      values,
    );
    expectShape("CachedAttention", `an even head dimension of at most ${MAX_HEAD_DIM}`, dim % 2 === 0 && dim <= MAX_HEAD_DIM, q);
    expectShape("CachedAttention", "one text, or one per token", texts === 1 || texts === tokens, position);
    expectShape(
      "CachedAttention",
      `caches of ${tokens / texts} to ${MAX_CACHE_TOKENS} rows`,
      size >= tokens / texts && size <= MAX_CACHE_TOKENS,
      keys,
    );
    checkSinks("CachedAttention", inputs[7], heads);
    const isVector = (type: TensorType | null | undefined, length: number) =>
      !!type && sameType(type, { dtype: "i32", shape: [length] });
    expectShape(
      "CachedAttention",
      `starts i32[${tokens}] and position i32[${texts}]`,
      isVector(starts, tokens) && isVector(position, texts),
      starts,
      position,
    );
    return [q!, keys!, values!];
  },
  gradient: notDifferentiable("it overwrites its caches; training attends within the micro-batch (Attention)"),
  body: (body, inputs, types, attrs) => cachedAttentionBody(body, inputs, sizesOf(types, attrs), attrs),
  lower(e) {
    const types = [0, 1, 2, 3, 4, 5, 6].map((i) => e.type(e.input(i)!));
    const { tokens, heads, kvHeads, dim, size, texts } = sizesOf(types, e.attrs);
    const counter = e.scratch(64);
    // The caches are read back, so they are written even if nobody wants them.
    const caches = [1, 2].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(types[3]!))));
    const sinks = e.input(7);
    const out = e.used(0) ? e.output(0) : e.scratch(byteLength(types[0]!));
    const lse = sinks === null ? null : e.scratch(4 * tokens * heads);
    const operands = [...[0, 1, 2, 3, 4, 5, 6].map((i) => e.input(i)), out, ...caches, counter, lse];
    const { scale, softcap = 0 } = e.attrs;
    const scores = [{ f32: scale }, { f32: softcap }];
    for (const phase of [0, 1])
      e.emit(Opcode.CachedAttention, operands, [phase, tokens, heads, kvHeads, dim, size, ...scores, texts]);
    if (sinks !== null) emitSinks(e, { tokens, heads, dim }, [out, lse, sinks]);
  },
  inPlace: [
    [1, 3],
    [2, 4],
  ],
});
