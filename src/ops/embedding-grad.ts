import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements } from "../graph/types.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type EmbeddingGradAttrs = { readonly vocab: number };

/**
 * `EmbeddingGrad(ids, dy, sum?) -> dtable`: dtable = sum (or 0), then dtable[ids[t]] += dy[t], in the order of the tokens.
 * ids i32[tokens], dy f32[tokens, columns], sum and dtable f32[vocab, columns]. In place on `sum` it touches only the rows of `ids`.
 */
export const EmbeddingGrad = defineOp<EmbeddingGradAttrs>({
  name: "EmbeddingGrad",
  domain: "remat",
  cost: "memory",
  infer([ids, dy, sum], { vocab }) {
    const columns = dy?.shape[1];
    const rows = ids?.dtype === "i32" && ids.shape.length === 1 && dy?.dtype === "f32" && dy.shape.length === 2;
    const sums = !sum || (sum.dtype === "f32" && sum.shape.length === 2 && sum.shape[0] === vocab && sum.shape[1] === columns);
    const fits = rows && ids.shape[0] === dy.shape[0] && sums;
    expectShape("EmbeddingGrad", `ids i32[tokens], dy f32[tokens, columns], sum f32[${vocab}, columns]`, fits, ids, dy, sum);
    return [{ dtype: "f32", shape: [vocab, columns!] }];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  // On cards rows of one id are added atomically, in any order: the last bits may differ from run to run there.
  body(body, [ids, dy, sum], types, { vocab }) {
    const [tokens, columns] = types[1]!.shape as [number, number];
    const start = sum || body.op("ConstantOfShape", [body.ints([vocab, columns])]);
    const indices = body.op("Reshape", [body.op("Cast", [ids!], { to: "i64" }), body.ints([tokens, 1])]);
    return [body.op("ScatterND", [start, indices, dy!], { reduction: "add" })];
  },
  lower(e) {
    const [ids, dy, dtable] = [e.input(0)!, e.input(1)!, e.output(0)];
    const type = e.type(dtable);
    const [vocab, columns] = type.shape as [number, number];
    const sum = e.input(2);
    if (sum) e.emit(Opcode.Copy, [sum, dtable], [byteLength(type)]);
    else e.emit(Opcode.Fill, [dtable], [elements(type.shape), { f32: 0 }]);
    e.emit(Opcode.EmbeddingGrad, [ids, dy, dtable], [e.type(ids).shape[0]!, columns, vocab]);
  },
  accumulates: { output: 0, input: 2 },
});
