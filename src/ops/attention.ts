import { Opcode } from "../../assembly/opcodes.ts";
import { type TensorType, sameType } from "../graph/types.ts";
import type { FloatType } from "../base/dtype.ts";
import { attentionBody, attentionGradBody, type Sizes } from "./attention-body.ts";
import { emitNativeAttention, emitNativeAttentionGrad } from "./native-attention.ts";
import { AttentionSinksGrad, emitSinks } from "./attention-sinks.ts";
import { areFloats } from "./half.ts";
import { expectCap } from "./soft-cap.ts";
import { defineOp, expectShape, type KernelEmitter, notDifferentiable, type Operand } from "./types.ts";

type AttentionAttrs = {
  /** Query heads; a multiple of `kvHeads`. Query head h uses key head floor(h * kvHeads / heads). */
  readonly heads: number;
  readonly kvHeads: number;
  /** Factor of the scores, rounded to f32; as a rule 1 / sqrt(head dimension). */
  readonly scale: number;
  /** Scores s become softcap tanh(s / softcap) (Gemma 2, arXiv 2408.00118); absent: they stay. */
  readonly softcap?: number;
};

/** The kernels' packed operands of one block of keys must fit their scratch. */
const MAX_HEAD_DIM = 512;
/** Queries of a tile and of a panel in assembly/attention-grad.ts, which says how the scratch is laid out. */
const TILE = 48;
const PANEL = 8;

function checkSizes(
  op: string,
  [q, k, v, starts]: readonly (TensorType | null)[],
  ends: TensorType | null | undefined,
  { heads, kvHeads, scale, softcap }: AttentionAttrs,
): Sizes {
  const tokens = q?.shape[0] ?? 0;
  const dim = (q?.shape[1] ?? 0) / heads;
  const isMatrix = areFloats(q, k, v) && [q, k, v].every((type) => type!.shape.length === 2 && type!.shape[0] === tokens);
  const fits =
    isMatrix && Number.isInteger(dim) && Number.isInteger(heads / kvHeads) && k!.shape[1] === kvHeads * dim && sameType(k!, v!);
  const expected = `floats q [T, ${heads} * dim], k and v [T, ${kvHeads} * dim], ${kvHeads} a divisor of ${heads}`;
  expectShape(op, expected, fits, q, k, v);
  expectShape(op, `an even head dimension of at most ${MAX_HEAD_DIM}`, dim % 2 === 0 && dim > 0 && dim <= MAX_HEAD_DIM, q);
  const places: TensorType = { dtype: "i32", shape: [tokens] };
  const placesFit = !!starts && sameType(starts, places) && (!ends || sameType(ends, places));
  expectShape(op, `starts and ends of type i32[${tokens}]`, placesFit, starts, ends);
  if (!Number.isFinite(scale)) throw new Error(`${op}: expected a finite scale; got ${scale}`);
  expectCap(op, softcap);
  return sizesOf([q!], { heads, kvHeads });
}

/** Refuses sinks that are not one number for each head. */
export function checkSinks(op: string, sinks: TensorType | null | undefined, heads: number): void {
  expectShape(op, `sinks f32[${heads}]`, !sinks || sameType(sinks, { dtype: "f32", shape: [heads] }), sinks);
}

function sizesOf([q]: readonly (TensorType | null)[], { heads, kvHeads }: Pick<AttentionAttrs, "heads" | "kvHeads">): Sizes {
  const [tokens, width] = q!.shape as [number, number];
  return { tokens, heads, kvHeads, group: heads / kvHeads, dim: width / heads, dtype: q!.dtype as FloatType };
}

/**
 * `Attention(q, k, v, starts, ends?, sinks?) -> out, lse`: token t attends to the tokens starts[t]..t, or, where `ends` is given, to
 * starts[t]..ends[t] - 1, head by head: S = scale q k^T (capped, with `softcap`), lse = log sum exp S, out = exp(S - lse) v.
 * q and out are [T, heads * dim], k and v [T, kvHeads * dim], of one float type; lse f32 [T, heads] (natural logarithm), starts and ends
 * i32[T] with 0 <= starts[t] <= t < ends[t] <= T. Sinks f32[heads] are scores of one more key of each head, which has no value (Xiao et al. 2023,
 * https://arxiv.org/abs/2309.17453; learned in gpt-oss): e^sink is a part of the sum.
 */
export const Attention = defineOp<AttentionAttrs>({
  name: "Attention",
  domain: "remat",
  cost: "compute",
  infer(inputs, attrs) {
    const { tokens, heads } = checkSizes("Attention", inputs, inputs[4], attrs);
    checkSinks("Attention", inputs[5], heads);
    return [inputs[0]!, { dtype: "f32", shape: [tokens, heads] }];
  },
  gradient(ctx) {
    if (ctx.grad(1)) throw new Error("Attention: the log-sum-exp has no gradient rule");
    const forward = [0, 1, 2, 3].map((i) => ctx.input(i));
    const ends = ctx.input(4) === "" ? [] : [ctx.input(4)];
    const inputs = [...forward, ctx.output(0), ctx.output(1), ctx.grad(0)!, ...ends];
    // With the results as the sinks have made them, the gradient of the others is that without sinks.
    const gradients = ctx.builder.node(AttentionGrad, inputs, ctx.attrs);
    if (!ctx.needs(5)) return [...gradients, null, null, null];
    const ofSinks = [ctx.output(0), ctx.grad(0)!, ctx.output(1), ctx.input(5)];
    return [...gradients, null, null, ctx.builder.value(AttentionSinksGrad, ofSinks, { heads: ctx.attrs.heads })];
  },
  body: (body, inputs, types, attrs) => attentionBody(body, inputs, sizesOf(types, attrs), attrs),
  lower(e) {
    const sizes = sizesOf([e.type(e.input(0)!)], e.attrs);
    const sinks = e.input(5);
    const bytes = [sizes.tokens * sizes.heads * sizes.dim * 4, sizes.tokens * sizes.heads * 4];
    const unused = (i: 0 | 1) => (sinks === null ? null : e.scratch(bytes[i]!));
    const [out, lse] = ([0, 1] as const).map((i) => (e.used(i) ? e.output(i) : unused(i))) as [Operand, Operand];
    const operands = [...[0, 1, 2, 3].map((i) => e.input(i)), out, lse];
    if (!emitNativeAttention(e, sizes, e.attrs, operands, e.input(4)))
      emitPhases(e, Opcode.Attention, [...operands, e.scratch(64), e.input(4)]);
    if (sinks !== null) emitSinks(e, sizes, [out, lse, sinks]);
  },
  narrow: [0, 1, 2],
});

/**
 * `AttentionGrad(q, k, v, starts, out, lse, dout, ends?) -> dq, dk, dv`. With P = exp(scale q k^T - lse) and
 * delta = rowsum(dout * out): dS = P * (dout v^T - delta) (times 1 - (S / softcap)^2, S the capped scores), dq = scale dS k, dk = scale dS^T q, dv = P^T dout; dk and dv
 * are sums over the query heads of a key head.
 */
export const AttentionGrad = defineOp<AttentionAttrs>({
  name: "AttentionGrad",
  domain: "remat",
  cost: "compute",
  infer(inputs, attrs) {
    const [q, k, v, , out, lse, dOut] = inputs;
    const { tokens, heads } = checkSizes("AttentionGrad", inputs, inputs[7], attrs);
    const fits =
      !!out &&
      !!lse &&
      !!dOut &&
      sameType(out, q!) &&
      sameType(dOut, q!) &&
      sameType(lse, { dtype: "f32", shape: [tokens, heads] });
    expectShape("AttentionGrad", `out and dout of the type of q, lse f32[${tokens}, ${heads}]`, fits, out, lse, dOut);
    return [q!, k!, v!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body: (body, inputs, types, attrs) => attentionGradBody(body, inputs, sizesOf(types, attrs), attrs),
  lower(e) {
    const sizes = sizesOf([e.type(e.input(0)!)], e.attrs);
    const inputs = [0, 1, 2, 3, 4, 5, 6].map((i) => e.input(i));
    const wanted = [0, 1, 2].map((i) => (e.used(i) ? e.output(i) : null));
    const ends = e.input(7);
    if (emitNativeAttentionGrad(e, sizes, e.attrs, [...inputs, ...wanted], ends)) return;
    const { tokens, heads } = sizes;
    const turns = Math.ceil((heads * Math.ceil(tokens / TILE) * 4) / 64) * 64;
    const rows = heads * Math.ceil(tokens / PANEL) * PANEL * 4;
    const scratch = e.scratch(64 + turns + 2 * rows);
    // dq is where blocks of keys add up, so it is written even if nobody wants it.
    const dQ = wanted[0] ?? e.scratch(tokens * e.type(e.input(0)!).shape[1]! * 4);
    emitPhases(e, Opcode.AttentionGrad, [...inputs, dQ, wanted[1]!, wanted[2]!, scratch, ends]);
  },
  narrow: [0, 1, 2, 4, 6],
});

/** Phase 0 fills the scratch that the threads of phase 1 share. */
function emitPhases(
  e: KernelEmitter<AttentionAttrs>,
  opcode: Opcode.Attention | Opcode.AttentionGrad,
  operands: readonly Operand[],
): void {
  const { tokens, heads, kvHeads, dim } = sizesOf([e.type(e.input(0)!)], e.attrs);
  const { scale, softcap = 0 } = e.attrs;
  for (const phase of [0, 1]) e.emit(opcode, operands, [phase, tokens, heads, kvHeads, dim, { f32: scale }, { f32: softcap }]);
}
