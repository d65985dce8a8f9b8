import { expect, setDefaultTimeout, test } from "bun:test";
import { Add } from "../../src/ops/add.ts";
import { checkForward, checkGradient, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference: Reference = ([a, b]) => [a!.map((x, i) => x + b![i]!)];

for (const shape of [[1], [3], [5, 7], [4, 33], [61, 67]]) {
  test(`Add of [${shape.join(", ")}]: rounded once, in place, 1 to 3 threads, as ONNX Runtime bit for bit`, async () => {
    const rng = generator(1);
    const inputs = [random(rng, shape), random(rng, shape)];
    const [y] = await checkForward({ op: Add, inputs, attrs: {}, reference, bound: 6e-8 });
    expect(await runWasm(Add, inputs, {}, { threads: 3 })).toEqual([y!]);
    await checkOnnx({ op: Add, inputs, attrs: {}, bound: 0 });
  });
}

test("Add: gradients are those of the output, error 1e-6", async () => {
  const rng = generator(2);
  await checkGradient({
    op: Add,
    inputs: [random(rng, [5, 7]), random(rng, [5, 7])],
    attrs: {},
    reference,
    wrt: [0, 1],
    bound: 1e-6,
  });
});

test("Add refuses two shapes", () => {
  const type = (shape: number[]) => ({ dtype: "f32", shape }) as const;
  expect(() => Add.infer([type([2, 3]), type([3])], {})).toThrow(
    "Add: expected two float tensors of one type; got f32[2, 3], f32[3]",
  );
});
