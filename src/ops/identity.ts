import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs } from "./types.ts";

/** `Identity(x) = x`, any type. A copy, unless the output has the memory of the input. */
export const Identity = defineOp<NoAttrs>({
  name: "Identity",
  domain: "",
  cost: "memory",
  infer([x]) {
    expectShape("Identity", "an input", !!x, x);
    return [x!];
  },
  gradient: (ctx) => [ctx.grad(0)],
  body: "standard",
  lower(e) {
    e.emit(Opcode.Copy, [e.input(0), e.output(0)], [byteLength(e.type(e.output(0)))]);
  },
  narrow: [0],
  inPlace: [[0, 0]],
});
