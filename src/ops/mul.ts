import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, type OpDef } from "./types.ts";

/** `Mul(a, b) = a * b`, both f32 of one shape: no broadcasting. da = dy * b, db = dy * a. */
export const Mul: OpDef<NoAttrs> = defineOp({
  name: "Mul",
  domain: "",
  cost: "memory",
  infer([a, b]) {
    expectShape("Mul", "two f32 tensors of one shape", !!a && !!b && a.dtype === "f32" && sameType(a, b), a, b);
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
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
