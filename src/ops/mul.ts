import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { isFloat } from "./half.ts";
import { defineOp, expectShape, type NoAttrs, type OpDef } from "./types.ts";

/** `Mul(a, b) = a * b`, both of one type: no broadcasting. da = dy * b, db = dy * a. */
export const Mul: OpDef<NoAttrs> = defineOp({
  name: "Mul",
  domain: "",
  cost: "memory",
  infer([a, b]) {
    expectShape("Mul", "two float tensors of one type", !!a && !!b && isFloat(a.dtype) && sameType(a, b), a, b);
    return [a!];
  },
  gradient(ctx) {
    const dy = ctx.grad(0)!;
    const times = (other: number) => ctx.builder.value(Mul, [dy, ctx.input(other)], {});
    return [ctx.needs(0) ? times(1) : null, ctx.needs(1) ? times(0) : null];
  },
  body: "standard",
  lower(e) {
    e.emit(Opcode.Mul, [e.input(0), e.input(1), e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  narrow: [0, 1],
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
