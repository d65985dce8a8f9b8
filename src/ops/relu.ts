import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** `Relu(x) = max(x, 0)`. */
export const Relu = defineOp<NoAttrs>({
  name: "Relu",
  domain: "",
  cost: "memory",
  infer([x]) {
    expectShape("Relu", "a float tensor", areFloats(x), x);
    return [x!];
  },
  gradient: (ctx) => [ctx.builder.value(ReluGrad, [ctx.input(0), ctx.grad(0)!], {})],
  body: "standard",
  lower(e) {
    e.emit(Opcode.Relu, [e.input(0), null, e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  narrow: [0],
  inPlace: [[0, 0]],
});

/** `ReluGrad(x, dy) -> dx`: dy where x is above 0, else 0. */
export const ReluGrad = defineOp<NoAttrs>({
  name: "ReluGrad",
  domain: "remat",
  cost: "memory",
  infer([x, dy]) {
    expectShape("ReluGrad", "x and dy of one f32 type", !!x && !!dy && x.dtype === "f32" && sameType(x, dy), x, dy);
    return [x!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [x, dy]) {
    const zero = body.scalar(0);
    return [body.op("Where", [body.op("LessOrEqual", [x!, zero]), zero, dy!])];
  },
  lower(e) {
    e.emit(Opcode.Relu, [e.input(0), e.input(1), e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
