import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, sameType, type TensorType } from "../graph/types.ts";
import { CHUNK, type DeltaSizes, gatedDeltaBody, gatedDeltaGradBody } from "./gated-delta-body.ts";
import { defineOp, expectShape, type KernelEmitter, notDifferentiable, type Operand } from "./types.ts";

export type GatedDeltaAttrs = {
  readonly keyHeads: number;
  /** Features of a query or key head. */
  readonly keyDim: number;
};

type Types = readonly (TensorType | null | undefined)[];

/** Most features of a head: the buffers of a piece must fit the scratch of a thread (assembly/gated-delta-chunk.ts). */
export const MAX_DELTA_DIM = 256;

/** Sizes of a call, of the types of its first two inputs. */
export function sizesOf([qkv, a]: Types, { keyHeads, keyDim }: GatedDeltaAttrs): DeltaSizes {
  const [tokens = 0, width = 0] = qkv?.shape ?? [];
  const heads = a?.shape[1] ?? 0;
  const valueDim = (width - 2 * keyHeads * keyDim) / heads;
  return { tokens, keyHeads, heads, keyDim, valueDim, rows: Math.min(CHUNK, tokens), chunks: Math.ceil(tokens / CHUNK) };
}

/** @throws {ShapeError} qkv, a, b, aLog, dtBias, starts that do not fit each other */
export function checkDelta(op: string, types: Types, attrs: GatedDeltaAttrs): DeltaSizes {
  const sizes = sizesOf(types, attrs);
  const { tokens, keyHeads, heads, keyDim, valueDim } = sizes;
  const [qkv, a, b, aLog, dtBias, starts] = types;
  const isWhole = [tokens, heads / keyHeads, keyDim, valueDim].every((size) => Number.isInteger(size) && size > 0);
  const expected = `f32 qkv [T, ${2 * keyHeads * keyDim} + heads * valueDim] and a [T, heads], heads a multiple of ${keyHeads}`;
  expectShape(op, expected, isWhole && qkv?.dtype === "f32" && a?.dtype === "f32", qkv, a);
  expectShape(op, `heads of at most ${MAX_DELTA_DIM} features`, Math.max(keyDim, valueDim) <= MAX_DELTA_DIM, qkv);
  const gates: TensorType = { dtype: "f32", shape: [tokens, heads] };
  const settings: TensorType = { dtype: "f32", shape: [heads] };
  const fits =
    [a, b].every((type) => !!type && sameType(type, gates)) && [aLog, dtBias].every((type) => !!type && sameType(type, settings));
  expectShape(op, `a and b f32[${tokens}, ${heads}], aLog and dtBias f32[${heads}]`, fits, a, b, aLog, dtBias);
  expectShape(op, `starts i32[${tokens}]`, !!starts && sameType(starts, { dtype: "i32", shape: [tokens] }), starts);
  return sizes;
}

const outputType = ({ tokens, heads, valueDim }: DeltaSizes): TensorType => ({ dtype: "f32", shape: [tokens, heads * valueDim] });

const statesType = ({ heads, keyDim, valueDim }: DeltaSizes, count: number): TensorType => ({
  dtype: "f32",
  shape: [count, heads, keyDim, valueDim],
});

/** The scalars that all commands begin with. */
export const deltaScalars = ({ tokens, keyHeads, heads, keyDim, valueDim }: DeltaSizes): number[] => [
  tokens,
  keyHeads,
  heads,
  keyDim,
  valueDim,
];

const outputOr = (e: KernelEmitter<GatedDeltaAttrs>, i: number, type: TensorType): Operand =>
  e.used(i) ? e.output(i) : e.scratch(byteLength(type));

/**
 * `GatedDelta(qkv, a, b, aLog, dtBias, starts) -> out, states`: the gated delta rule (Yang, Kautz and Hatamizadeh 2024,
 * https://arxiv.org/abs/2412.06464). Rows of qkv f32[T, 2 keyHeads keyDim + heads valueDim] are queries, keys and values; a head has the queries and keys of
 * the head floor(head * keyHeads / heads), as unit vectors (a root takes 1e-6 with the sum of squares), queries times keyDim^-1/2. With a and b
 * f32[T, heads], aLog and dtBias f32[heads], g_t = -exp(aLog) softplus(a_t + dtBias), beta_t = sigmoid(b_t), and for each head a state S [keyDim, valueDim] that is 0
 * where a text begins:
 *
 *     S <- exp(g_t) S;  S <- S + beta_t k_t (v_t - S^T k_t)^T;  out_t = S^T q_t
 *
 * starts i32[T] says where the text of a token begins: starts[t] is t there, and starts[t - 1] elsewhere. `states` f32[chunks, heads, keyDim, valueDim] are the
 * states behind each 64 rows, which the gradient begins from.
 */
export const GatedDelta = defineOp<GatedDeltaAttrs>({
  name: "GatedDelta",
  domain: "remat",
  cost: "compute",
  infer(inputs, attrs) {
    const sizes = checkDelta("GatedDelta", inputs, attrs);
    return [outputType(sizes), statesType(sizes, sizes.chunks)];
  },
  gradient(ctx) {
    if (ctx.grad(1)) throw new Error("GatedDelta: the states have no gradient rule");
    const inputs = [ctx.grad(0)!, ...[0, 1, 2, 3, 4, 5].map((i) => ctx.input(i)), ctx.output(1)];
    const gradients = ctx.builder.node(GatedDeltaGrad, inputs, ctx.attrs);
    return [...gradients.map((name, i) => (ctx.needs(i) ? name : null)), null];
  },
  body: (body, inputs, types, attrs) => gatedDeltaBody(body, inputs, sizesOf(types, attrs)),
  lower(e) {
    const sizes = sizesOf([e.type(e.input(0)!), e.type(e.input(1)!)], e.attrs);
    // Nobody looks at the states of a forward pass alone: two take turns.
    const slots = e.used(1) ? sizes.chunks : Math.min(2, sizes.chunks);
    const outputs = [outputOr(e, 0, outputType(sizes)), outputOr(e, 1, statesType(sizes, slots))];
    const operands = [...[0, 1, 2, 3, 4, 5].map((i) => e.input(i)), ...outputs];
    e.emit(Opcode.GatedDelta, operands, [...deltaScalars(sizes), slots]);
  },
});

/** `GatedDeltaGrad(dout, qkv, a, b, aLog, dtBias, starts, states) -> dqkv, da, db, daLog, ddtBias`. */
export const GatedDeltaGrad = defineOp<GatedDeltaAttrs>({
  name: "GatedDeltaGrad",
  domain: "remat",
  cost: "compute",
  infer([dOut, ...inputs], attrs) {
    const sizes = checkDelta("GatedDeltaGrad", inputs, attrs);
    const states = inputs[6];
    const fits = !!dOut && sameType(dOut, outputType(sizes)) && !!states && sameType(states, statesType(sizes, sizes.chunks));
    const { tokens, heads, keyDim, valueDim, chunks } = sizes;
    const expected = `dout f32[${tokens}, ${heads * valueDim}] and states f32[${[chunks, heads, keyDim, valueDim].join(", ")}]`;
    expectShape("GatedDeltaGrad", expected, fits, dOut, states);
    return inputs.slice(0, 5) as TensorType[];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body: (body, inputs, types, attrs) => gatedDeltaGradBody(body, inputs, sizesOf(types.slice(1), attrs)),
  lower(e) {
    const inputs = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => e.input(i));
    const sizes = sizesOf([e.type(inputs[1]!), e.type(inputs[2]!)], e.attrs);
    const outputs = [0, 1, 2, 3, 4].map((i) => outputOr(e, i, e.type(inputs[i + 1]!)));
    const state = e.scratch(byteLength(statesType(sizes, 1)));
    e.emit(Opcode.GatedDeltaGrad, [...inputs, ...outputs, state], deltaScalars(sizes));
  },
});
