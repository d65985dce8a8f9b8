import { expect, setDefaultTimeout, test } from "bun:test";
import { SwiGLU, SwiGLUGrad } from "../../src/ops/swiglu.ts";
import { checkForward, checkGradient, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

const reference: Reference = ([gate, up]) => [gate!.map((g, i) => g * sigmoid(g) * up![i]!)];

const gradReference: Reference = ([gate, up, dy]) => [
  gate!.map((g, i) => dy![i]! * up![i]! * sigmoid(g) * (1 + g * (1 - sigmoid(g)))),
  gate!.map((g, i) => dy![i]! * g * sigmoid(g)),
];

for (const shape of [[1], [3], [7, 13], [4, 33], [61, 67]]) {
  test(`SwiGLU of [${shape.join(", ")}]: error 2e-7; gradients by finite differences, error 2e-6`, async () => {
    const rng = generator(1);
    const inputs = [random(rng, shape, 3), random(rng, shape)];
    const [y] = await checkForward({ op: SwiGLU, inputs, attrs: {}, reference, bound: 2e-7 });
    expectSameBits("3 threads", await runWasm(SwiGLU, inputs, {}, { threads: 3 }), [y!]);
    await checkGradient({ op: SwiGLU, inputs, attrs: {}, reference, wrt: [0, 1], bound: 2e-6, samples: 200 });
    await checkOnnx({ op: SwiGLU, inputs, attrs: {}, bound: 5e-7 });
  });

  test(`SwiGLUGrad of [${shape.join(", ")}]: error 3e-7`, async () => {
    const rng = generator(2);
    const inputs = [random(rng, shape, 3), random(rng, shape), random(rng, shape)];
    const outputs = await checkForward({ op: SwiGLUGrad, inputs, attrs: {}, reference: gradReference, bound: 3e-7 });
    expectSameBits("3 threads", await runWasm(SwiGLUGrad, inputs, {}, { threads: 3 }), outputs);
    await checkOnnx({ op: SwiGLUGrad, inputs, attrs: {}, bound: 1e-6 });
  });
}

test("SwiGLU over the range of exp: every element with relative error < 3.5e-7", async () => {
  const gates = Float32Array.from({ length: 80_001 }, (_, i) => (i - 40_000) / 500 + 1e-3);
  const [y] = await runWasm(
    SwiGLU,
    [
      f32([gates.length], gates),
      f32(
        [gates.length],
        gates.map(() => 1),
      ),
    ],
    {},
  );
  const error = gates.reduce((worst, g, i) => Math.max(worst, Math.abs(y![i]! / (g * sigmoid(g)) - 1)), 0);
  expect(error).toBeLessThan(3.5e-7);
});

test("SwiGLU far out: the gate closes to 0 and opens to the identity; NaN and infinity show", async () => {
  const gates = [-1000, -100, -90, 100, 1000, Infinity, NaN, -Infinity];
  const [y] = await runWasm(
    SwiGLU,
    [
      f32([8], gates),
      f32(
        [8],
        gates.map(() => 2),
      ),
    ],
    {},
  );
  expect([...y!].map((value) => value + 0)).toEqual([0, 0, 0, 200, 2000, Infinity, NaN, NaN]);
  const [dgate, dup] = await runWasm(
    SwiGLUGrad,
    [
      f32([8], gates),
      f32(
        [8],
        gates.map(() => 2),
      ),
      f32(
        [8],
        gates.map(() => 1),
      ),
    ],
    {},
  );
  expect([...dgate!.subarray(0, 5)].map((value) => value + 0)).toEqual([0, 0, 0, 2, 2]);
  expect([...dup!.subarray(0, 7)].map((value) => value + 0)).toEqual([0, 0, 0, 100, 1000, Infinity, NaN]);
});
