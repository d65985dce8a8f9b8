import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { Affine } from "./affine.ts";
import { areFloats } from "./half.ts";
import { Mul } from "./mul.ts";
import { defineOp, expectShape, type NoAttrs } from "./types.ts";

/** `Tanh(x)`: to the kernels a soft cap of 1. dx = dy (1 - y^2). */
export const Tanh = defineOp<NoAttrs>({
  name: "Tanh",
  domain: "",
  cost: "memory",
  infer([x]) {
    expectShape("Tanh", "a float tensor", areFloats(x), x);
    return [x!];
  },
  gradient({ builder, output, grad }) {
    const square = builder.value(Mul, [output(0), output(0)], {});
    return [builder.value(Mul, [grad(0)!, builder.value(Affine, [square], { alpha: -1, beta: 1 })], {})];
  },
  body: "standard",
  lower(e) {
    e.emit(Opcode.SoftCap, [e.input(0), e.output(0)], [elements(e.type(e.output(0)).shape), { f32: 1 }]);
  },
  narrow: [0],
  inPlace: [[0, 0]],
});
