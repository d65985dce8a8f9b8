import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** `Silu(x) = x sigmoid(x)` (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415): to the kernels a SwiGLU whose other side is 1. */
export const Silu = defineOp<NoAttrs>({
  name: "Silu",
  domain: "remat",
  cost: "memory",
  infer([x]) {
    expectShape("Silu", "a float tensor", areFloats(x), x);
    return [x!];
  },
  gradient: (ctx) => [ctx.builder.value(SiluGrad, [ctx.input(0), ctx.grad(0)!], {})],
  body: (body, [x]) => [body.op("Mul", [x!, body.op("Sigmoid", [x!])])],
  lower(e) {
    e.emit(Opcode.SwiGLU, [e.input(0), null, e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  narrow: [0],
  inPlace: [[0, 0]],
});

/** `SiluGrad(x, dy) -> dx`: dy s (1 + x (1 - s)), s = sigmoid(x). */
export const SiluGrad = defineOp<NoAttrs>({
  name: "SiluGrad",
  domain: "remat",
  cost: "memory",
  infer([x, dy]) {
    expectShape("SiluGrad", "x and dy of one f32 type", !!x && !!dy && x.dtype === "f32" && sameType(x, dy), x, dy);
    return [x!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [x, dy]) {
    const s = body.op("Sigmoid", [x!]);
    const slope = body.op("Add", [body.scalar(1), body.op("Sub", [x!, body.op("Mul", [x!, s])])]);
    return [body.op("Mul", [dy!, body.op("Mul", [s, slope])])];
  },
  lower(e) {
    const n = elements(e.type(e.output(0)).shape);
    e.emit(Opcode.SwiGLUGrad, [e.input(0), null, e.input(1), e.output(0), null], [n]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
