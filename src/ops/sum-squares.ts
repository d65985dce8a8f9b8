import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** Elements of a partial sum: as in assembly/reduce.ts. */
const BLOCK = 4096;

/** `SumSquares(x)`: f32 of any shape -> f32[1], the sum of the squares. Summed in blocks, the blocks in f64. */
export const SumSquares = defineOp<NoAttrs>({
  name: "SumSquares",
  domain: "remat",
  cost: "memory",
  infer([x]) {
    expectShape("SumSquares", "an f32 tensor", x?.dtype === "f32", x);
    return [{ dtype: "f32", shape: [1] }];
  },
  gradient: notDifferentiable("the norm of gradients, for clipping; it is no part of a loss"),
  body(body, [x]) {
    const flat = body.op("Reshape", [x!, body.ints([-1])]);
    return [body.op("ReduceSumSquare", [flat, body.ints([0])], { keepdims: 1 })];
  },
  lower(e) {
    const n = elements(e.type(e.input(0)!).shape);
    const blocks = Math.ceil(n / BLOCK);
    const partial = e.scratch(blocks * 8);
    e.emit(Opcode.SumSquares, [e.input(0), partial], [n]);
    e.emit(Opcode.Sum, [partial, e.output(0)], [blocks]);
  },
});
