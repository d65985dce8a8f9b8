import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs } from "./types.ts";

/** `Add(a, b) = a + b`, both f32 of one shape: no broadcasting. The output may take the memory of either. */
export const Add = defineOp<NoAttrs>({
  name: "Add",
  domain: "",
  cost: "memory",
  infer([a, b]) {
    expectShape("Add", "two f32 tensors of one shape", !!a && !!b && a.dtype === "f32" && sameType(a, b), a, b);
    return [a!];
  },
  gradient: (ctx) => [ctx.grad(0), ctx.grad(0)],
  body: "standard",
  lower(e) {
    e.emit(Opcode.Add, [e.input(0), e.input(1), e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
