import { expect, setDefaultTimeout, test } from "bun:test";
import { Mul } from "../../src/ops/mul.ts";
import { checkForward, checkGradient, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference: Reference = ([a, b]) => [a!.map((x, i) => x * b![i]!)];

for (const shape of [[1], [3], [5, 7], [4, 33], [61, 67]]) {
  test(`Mul of [${shape.join(", ")}]: rounded once, in place, 1 to 3 threads, as ONNX Runtime bit for bit`, async () => {
    const rng = generator(1);
    const inputs = [random(rng, shape), random(rng, shape)];
    const [y] = await checkForward({ op: Mul, inputs, attrs: {}, reference, bound: 6e-8 });
    expect(await runWasm(Mul, inputs, {}, { threads: 3 })).toEqual([y!]);
    await checkOnnx({ op: Mul, inputs, attrs: {}, bound: 0 });
  });
}

for (const wrt of [[0, 1], [0], [1]]) {
  test(`Mul: finite differences of inputs ${wrt.join(" and ")}, error 1e-6`, async () => {
    const rng = generator(2);
    await checkGradient({ op: Mul, inputs: [random(rng, [5, 7]), random(rng, [5, 7])], attrs: {}, reference, wrt, bound: 1e-6 });
  });
}

test("Mul: NaN and infinity go through", async () => {
  const [y] = await runWasm(Mul, [f32([5], [NaN, Infinity, Infinity, -Infinity, 2]), f32([5], [1, 0, 2, 1, NaN])], {});
  expect([...y!]).toEqual([NaN, NaN, Infinity, -Infinity, NaN]);
});
