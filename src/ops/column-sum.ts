import { Opcode } from "../../assembly/opcodes.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** `ColumnSum(x, sum?)`: x f32[rows, columns] -> f32[columns], added to `sum` where it is given. The gradient of a bias. */
export const ColumnSum = defineOp<NoAttrs>({
  name: "ColumnSum",
  domain: "remat",
  cost: "memory",
  infer([x, sum]) {
    const matrix = x?.dtype === "f32" && x.shape.length === 2;
    const fits = matrix && (!sum || (sum.dtype === "f32" && sum.shape.length === 1 && sum.shape[0] === x.shape[1]));
    expectShape("ColumnSum", "x f32[rows, columns] and sum f32[columns]", fits, x, sum);
    return [{ dtype: "f32", shape: [x!.shape[1]!] }];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [x, sum]) {
    const total = body.op("ReduceSum", [x!, body.ints([0])], { keepdims: 0 });
    return [sum ? body.op("Add", [sum, total]) : total];
  },
  lower(e) {
    const [rows, columns] = e.type(e.input(0)!).shape as [number, number];
    e.emit(Opcode.ColumnSum, [e.input(0), e.input(1), e.output(0)], [rows, columns]);
  },
  accumulates: { output: 0, input: 1 },
});
