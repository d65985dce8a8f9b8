import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { isFloat } from "./half.ts";
import { defineOp, expectShape, type NoAttrs } from "./types.ts";

/** `Add(a, b) = a + b`, both of one type: no broadcasting. The output may take the memory of either. */
export const Add = defineOp<NoAttrs>({
  name: "Add",
  domain: "",
  cost: "memory",
  infer([a, b]) {
    expectShape("Add", "two float tensors of one type", !!a && !!b && isFloat(a.dtype) && sameType(a, b), a, b);
    return [a!];
  },
  gradient: (ctx) => [ctx.grad(0), ctx.grad(0)],
  body: "standard",
  lower(e) {
    e.emit(Opcode.Add, [e.input(0), e.input(1), e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  narrow: [0, 1],
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
