import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type AffineAttrs = {
  readonly alpha: number;
  readonly beta: number;
};

/** `Affine(x) = alpha x + beta`, f32, rounded after each of the two operations. dx = alpha dy. */
export const Affine: OpDef<AffineAttrs> = defineOp<AffineAttrs>({
  name: "Affine",
  domain: "remat",
  cost: "memory",
  infer([x], { alpha, beta }) {
    expectShape("Affine", "an f32 tensor", x?.dtype === "f32", x);
    if (!Number.isFinite(alpha) || !Number.isFinite(beta))
      throw new Error(`Affine: expected finite alpha and beta; got ${alpha} and ${beta}`);
    return [x!];
  },
  gradient(ctx) {
    const { alpha } = ctx.attrs;
    return [alpha === 1 ? ctx.grad(0) : ctx.builder.value(Affine, [ctx.grad(0)!], { alpha, beta: 0 })];
  },
  body: (body, [x], _types, { alpha, beta }) => [
    body.op("Add", [body.op("Mul", [x!, body.scalar(Math.fround(alpha))]), body.scalar(Math.fround(beta))]),
  ],
  lower(e) {
    const n = elements(e.type(e.output(0)).shape);
    e.emit(Opcode.Affine, [e.input(0), e.output(0)], [n, { f32: e.attrs.alpha }, { f32: e.attrs.beta }]);
  },
  inPlace: [[0, 0]],
});
