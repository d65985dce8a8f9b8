import { Opcode } from "../../assembly/opcodes.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type RopeAttrs = {
  readonly heads: number;
  /** How many features of each head are rotated, from the first on; even. */
  readonly rotaryDim: number;
  /** 1: the transposed map (sin negated), which is the gradient. */
  readonly inverse: number;
};

/**
 * `Rope(x, cos, sin) -> y`: rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864) in the order of Hugging
 * Face's `rotate_half`. x and y are [T, heads * dim], cos and sin [T, rotaryDim / 2], of one float type. With r = rotaryDim, in each head:
 * y[i] = x[i] cos[i] - x[i + r/2] sin[i], y[i + r/2] = x[i + r/2] cos[i] + x[i] sin[i] for i < r/2; y[i] = x[i] for i >= r.
 * The map is linear in x; cos and sin are tables and have no gradient.
 */
export const Rope: OpDef<RopeAttrs> = defineOp<RopeAttrs>({
  name: "Rope",
  domain: "remat",
  cost: "memory",
  infer([x, cos, sin], { heads, rotaryDim, inverse }) {
    const [tokens = 0, width = 0] = x?.shape ?? [];
    const dim = width / heads;
    const xFits = areFloats(x) && x!.shape.length === 2 && Number.isInteger(dim);
    expectShape("Rope", `float x [T, ${heads} * dim]`, xFits, x);
    expectShape(
      "Rope",
      `an even rotaryDim of 2..${dim}, not ${rotaryDim}`,
      rotaryDim % 2 === 0 && rotaryDim > 0 && rotaryDim <= dim,
      x,
    );
    const fits = [cos, sin].every(
      (table) =>
        table?.dtype === x!.dtype && table.shape.length === 2 && table.shape[0] === tokens && table.shape[1] === rotaryDim / 2,
    );
    expectShape("Rope", `cos and sin of type ${x!.dtype}[${tokens}, ${rotaryDim / 2}]`, fits, cos, sin);
    if (inverse !== 0 && inverse !== 1) throw new Error(`Rope: expected inverse 0 or 1; got ${inverse}`);
    return [x!];
  },
  gradient(ctx) {
    const attrs = { ...ctx.attrs, inverse: 1 - ctx.attrs.inverse };
    return [ctx.builder.value(Rope, [ctx.grad(0)!, ctx.input(1), ctx.input(2)], attrs), null, null];
  },
  body(body, [x, cos, sin], [type], { heads, rotaryDim, inverse }) {
    const [tokens, width] = type!.shape as [number, number];
    const half = rotaryDim / 2;
    const rest = width / heads - rotaryDim;
    const split = body.op("Reshape", [x!, body.ints([tokens, heads, width / heads])]);
    const sizes = rest === 0 ? [half, half] : [half, half, rest];
    const [a, b, ...kept] = body.ops("Split", [split, body.ints(sizes)], { axis: 2 }, sizes.length);
    const c = body.op("Unsqueeze", [cos!, body.ints([1])]);
    const sine = body.op("Unsqueeze", [sin!, body.ints([1])]);
    const s = inverse ? body.op("Neg", [sine]) : sine;
    const first = body.op("Sub", [body.op("Mul", [a!, c]), body.op("Mul", [b!, s])]);
    const second = body.op("Add", [body.op("Mul", [b!, c]), body.op("Mul", [a!, s])]);
    const joined = body.op("Concat", [first, second, ...kept], { axis: 2 });
    return [body.op("Reshape", [joined, body.ints([tokens, width])])];
  },
  lower(e) {
    const [tokens, width] = e.type(e.input(0)!).shape as [number, number];
    const { heads, rotaryDim, inverse } = e.attrs;
    e.emit(Opcode.Rope, [e.input(0), e.input(1), e.input(2), e.output(0)], [tokens, heads, width / heads, rotaryDim, inverse]);
  },
  narrow: [0, 1, 2],
  inPlace: [[0, 0]],
});
