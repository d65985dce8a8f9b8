import { expect, setDefaultTimeout, test } from "bun:test";
import { fromBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema } from "../../src/onnx/gen/onnx_pb.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { EmbeddingGrad } from "../../src/ops/embedding-grad.ts";
import { Gather } from "../../src/ops/gather.ts";
import {
  checkForward,
  checkGradient,
  expectWithin,
  generator,
  half,
  i32,
  opGraph,
  random,
  type Reference,
  relativeError,
  runGraph,
  runWasm,
} from "../support/ops.ts";
import { runOrt } from "../support/ort.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const VOCAB = 29;

/** Repeats and the first and last row included. */
function someIds(tokens: number): number[] {
  const rng = generator(tokens);
  return Array.from({ length: tokens }, (_, i) => [0, VOCAB - 1, 5, 5][i] ?? Math.floor(rng() * VOCAB));
}

const gather =
  (columns: number): Reference =>
  ([table, ids]) => [[...ids!].flatMap((id) => [...table!.subarray(id * columns, (id + 1) * columns)])];

const embeddingGrad =
  (columns: number): Reference =>
  ([ids, dy, sum]) => {
    const dtable = new Float64Array(VOCAB * columns);
    if (sum) dtable.set(sum);
    ids!.forEach((id, t) => {
      for (let c = 0; c < columns; c++) dtable[id * columns + c]! += dy![t * columns + c]!;
    });
    return [dtable];
  };

for (const columns of [1, 3, 7, 16, 37, 64]) {
  for (const tokens of [1, 11]) {
    test(`Gather of ${tokens} rows of ${columns}, exact, and its gradient by finite differences, error 1e-6`, async () => {
      const inputs = [random(generator(columns), [VOCAB, columns]), i32([tokens], someIds(tokens))];
      const reference = gather(columns);
      const [y] = await checkForward({ op: Gather, inputs, attrs: {}, reference, bound: 0 });
      expect(await runWasm(Gather, inputs, {}, { threads: 3 })).toEqual([y!]);
      await checkGradient({ op: Gather, inputs, attrs: {}, reference, wrt: [0], bound: 1e-6, samples: 60 });
      await checkOnnx({ op: Gather, inputs, attrs: {}, bound: 0 });
    });

    for (const dtype of ["bf16", "f16"] as const) {
      test(`Gather of ${tokens} rows of ${columns} in ${dtype}, exact`, async () => {
        const inputs = [half(random(generator(columns), [VOCAB, columns]), dtype), i32([tokens], someIds(tokens))];
        await checkForward({ op: Gather, inputs, attrs: {}, reference: gather(columns), bound: 0 });
        await checkOnnx({ op: Gather, inputs, attrs: {}, bound: 0 });
      });
    }

    test(`EmbeddingGrad of ${tokens} rows of ${columns}, from zero and from a sum, error 1e-6`, async () => {
      const rng = generator(columns);
      const attrs = { vocab: VOCAB };
      const ids = i32([tokens], someIds(tokens));
      const dy = random(rng, [tokens, columns]);
      const sum = random(rng, [VOCAB, columns]);
      for (const inputs of [
        [ids, dy],
        [ids, dy, sum],
      ]) {
        const options = { op: EmbeddingGrad, inputs, attrs };
        const [y] = await checkForward({ ...options, reference: embeddingGrad(columns), bound: 1e-6 });
        expect(await runWasm(EmbeddingGrad, inputs, attrs, { threads: 3 })).toEqual([y!]);
        await checkOnnx({ ...options, bound: 1e-6 });
      }
    });
  }
}

test.each([
  ["CUDA", "wide"],
  ["WebGPU", "narrow"],
] as const)(
  "EmbeddingGrad written for %s: rows of one id are added in an order, in several parts of the tokens",
  async (_, integers) => {
    const [tokens, columns, vocab] = [4500, 3, 29];
    const rng = generator(7);
    const ids = i32(
      [tokens],
      Array.from({ length: tokens }, () => Math.floor(vocab * rng())),
    );
    for (const more of [[], [random(rng, [vocab, columns])]]) {
      const inputs = [ids, random(rng, [tokens, columns]), ...more];
      const { builder, outputs, feeds } = opGraph({ op: EmbeddingGrad, inputs, attrs: { vocab } });
      builder.output({ name: outputs[0]!, role: "boundary" });
      const graph = builder.build();
      const model = fromBinary(ModelProtoSchema, writeModel(graph, undefined, { integers, bf16: true, f16Sums: true }));
      const body = model.functions.find(({ name }) => name === "EmbeddingGrad")!.node;
      expect(body.filter(({ opType }) => opType === "MatMul")).toHaveLength(2);
      expect(body.find(({ opType }) => opType === "ScatterND")!.attribute).toEqual([]);
      const data = new Map([...feeds].map(([name, tensor]) => [name, tensor.data]));
      const actual = await runOrt(graph, data, false, { integers, bf16: true, f16Sums: true });
      const expected = await runGraph(graph, feeds);
      expectWithin("dtable", relativeError(actual.get(outputs[0]!) as Float32Array, expected.get(outputs[0]!)!), 1e-6);
    }
  },
);

test("an id outside the table reads row 0 and adds to row 0: memory around the table is left alone", async () => {
  const columns = 8;
  const table = random(generator(1), [VOCAB, columns]);
  const wild = [-1, VOCAB, 2 ** 31 - 1, -(2 ** 31), 3];
  const tame = [0, 0, 0, 0, 3];
  const run = (ids: number[]) => runWasm(Gather, [table, i32([5], ids)], {});
  expect(await run(wild)).toEqual(await run(tame));
  const dy = random(generator(2), [5, columns]);
  const grad = (ids: number[]) => runWasm(EmbeddingGrad, [i32([5], ids), dy], { vocab: VOCAB });
  expect(await grad(wild)).toEqual(await grad(tame));
});

test("Gather refuses ids of another type", () => {
  const table = { dtype: "f32", shape: [4, 3] } as const;
  expect(() => Gather.infer([table, { dtype: "i64", shape: [5] }], {})).toThrow(
    "Gather: expected a float table [vocab, columns] and ids i32[tokens]; got f32[4, 3], i64[5]",
  );
});
