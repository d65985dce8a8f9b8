import { Opcode } from "../../assembly/opcodes.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type RopeAttrs = {
  readonly heads: number;
  /** How many features of each head are rotated, from the first on; even. */
  readonly rotaryDim: number;
  /** 1: the transposed map (sin negated), which is the gradient. */
  readonly inverse: number;
  /** 1: feature 2i is rotated with 2i + 1; absent: feature i with i + rotaryDim / 2. */
  readonly neighbours?: number;
};

/**
 * `Rope(x, cos, sin) -> y`: rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864) in the order of Hugging
 * Face's `rotate_half`. x and y are [T, heads * dim], cos and sin [T, rotaryDim / 2], of one float type. With r = rotaryDim, in each head:
 * y[i] = x[i] cos[i] - x[i + r/2] sin[i], y[i + r/2] = x[i + r/2] cos[i] + x[i] sin[i] for i < r/2; y[i] = x[i] for i >= r.
 * With `neighbours`, y[2i] and y[2i + 1] are made of x[2i] and x[2i + 1] by cos[i] and sin[i]. The map is linear in x; cos and sin are tables and have no gradient.
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
  body(body, [x, cos, sin], [type], { heads, rotaryDim, inverse, neighbours = 0 }) {
    const [tokens, width] = type!.shape as [number, number];
    const half = rotaryDim / 2;
    const rest = width / heads - rotaryDim;
    const split = body.op("Reshape", [x!, body.ints([tokens, heads, width / heads])]);
    const [turned, ...kept] = rest === 0 ? [split] : body.ops("Split", [split, body.ints([rotaryDim, rest])], { axis: 2 }, 2);
    const pairs = body.op("Reshape", [turned!, body.ints([tokens, heads, ...(neighbours ? [half, 2] : [2, half])])]);
    const axis = neighbours ? 3 : 2;
    const [a, b] = body.ops("Split", [pairs, body.ints([1, 1])], { axis }, 2);
    const row = body.ints(neighbours ? [tokens, 1, half, 1] : [tokens, 1, 1, half]);
    const c = body.op("Reshape", [cos!, row]);
    const sine = body.op("Reshape", [sin!, row]);
    const s = inverse ? body.op("Neg", [sine]) : sine;
    const first = body.op("Sub", [body.op("Mul", [a!, c]), body.op("Mul", [b!, s])]);
    const second = body.op("Add", [body.op("Mul", [b!, c]), body.op("Mul", [a!, s])]);
    const both = body.op("Concat", [first, second], { axis });
    const flat = body.op("Reshape", [both, body.ints([tokens, heads, rotaryDim])]);
    const joined = rest === 0 ? flat : body.op("Concat", [flat, ...kept], { axis: 2 });
    return [body.op("Reshape", [joined, body.ints([tokens, width])])];
  },
  lower(e) {
    const [tokens, width] = e.type(e.input(0)!).shape as [number, number];
    const { heads, rotaryDim, inverse, neighbours = 0 } = e.attrs;
    const operands = [e.input(0), e.input(1), e.input(2), e.output(0)];
    e.emit(Opcode.Rope, operands, [tokens, heads, width / heads, rotaryDim, inverse, neighbours]);
  },
  narrow: [0, 1, 2],
  inPlace: [[0, 0]],
});
