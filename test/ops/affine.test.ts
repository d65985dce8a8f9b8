import { expect, setDefaultTimeout, test } from "bun:test";
import { Affine } from "../../src/ops/affine.ts";
import { checkForward, checkGradient, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const attrs = { alpha: 33.941_123, beta: 0.7 };
const [alpha, beta] = [Math.fround(attrs.alpha), Math.fround(attrs.beta)];
const reference: Reference = ([x]) => [x!.map((value) => alpha * value + beta)];

for (const shape of [[1], [3], [5, 7], [4, 33], [61, 67]]) {
  test(`Affine of [${shape.join(", ")}]: error 1e-7, in place, 1 to 3 threads, as ONNX Runtime bit for bit`, async () => {
    const inputs = [random(generator(1), shape)];
    const [y] = await checkForward({ op: Affine, inputs, attrs, reference, bound: 1e-7 });
    expect(await runWasm(Affine, inputs, attrs, { threads: 3 })).toEqual([y!]);
    await checkOnnx({ op: Affine, inputs, attrs, bound: 0 });
  });
}

for (const factor of [attrs.alpha, 1]) {
  test(`Affine: finite differences with alpha ${factor}, error 1e-6`, async () => {
    const inputs = [random(generator(2), [5, 7])];
    const definition: Reference = ([x]) => [x!.map((value) => Math.fround(factor) * value + beta)];
    const given = { alpha: factor, beta: attrs.beta };
    await checkGradient({ op: Affine, inputs, attrs: given, reference: definition, wrt: [0], bound: 1e-6 });
  });
}

test("Affine: NaN and infinity go through, and attributes must be finite", async () => {
  const [y] = await runWasm(Affine, [f32([3], [NaN, Infinity, -Infinity])], { alpha: -2, beta: 1 });
  expect([...y!]).toEqual([NaN, -Infinity, Infinity]);
  expect(() => Affine.infer([{ dtype: "f32", shape: [1] }], { alpha: NaN, beta: 0 })).toThrow("finite alpha and beta");
});
