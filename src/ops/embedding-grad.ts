import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements } from "../graph/types.ts";
import { type BodyBuilder, defineOp, expectShape, notDifferentiable } from "./types.ts";

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
  body(body, [ids, dy, sum], types, { vocab }) {
    const [tokens, columns] = types[1]!.shape as [number, number];
    const start = sum || body.op("ConstantOfShape", [body.ints([vocab, columns])]);
    const indices = body.op("Reshape", [body.op("Cast", [ids!], { to: "i64" }), body.ints([tokens, 1])]);
    if (body.integers === "bits") return [body.op("ScatterND", [start, indices, dy!], { reduction: "add" })];
    const sums = sumsOfIds(body, ids!, dy!, tokens);
    const rows = sum ? body.op("Add", [body.op("Gather", [start, ids!]), sums]) : sums;
    return [body.op("ScatterND", [start, indices, rows])];
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

/** Pairs of tokens that are compared at a time. */
const MOST_PAIRS = 2 ** 24;

/**
 * For each token the sum of all rows of dy [tokens, columns] that have its id. Cards add rows of one id atomically, in any order; a product with the matrix
 * of which ids are the same has an order, and all tokens of an id then write the same row.
 */
function sumsOfIds(body: BodyBuilder, ids: string, dy: string, tokens: number): string {
  const size = Math.max(1, Math.floor(MOST_PAIRS / tokens));
  const others = body.op("Reshape", [ids, body.ints([1, tokens])]);
  const parts = Array.from({ length: Math.ceil(tokens / size) }, (_, i) => {
    const [from, to] = [i * size, Math.min((i + 1) * size, tokens)];
    const part = to - from === tokens ? ids : body.op("Slice", [ids, body.ints([from]), body.ints([to])]);
    const same = body.op("Equal", [body.op("Reshape", [part, body.ints([to - from, 1])]), others]);
    return body.op("MatMul", [body.op("Cast", [same], { to: "f32" }), dy]);
  });
  return parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
}
