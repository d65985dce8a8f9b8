import { expect, setDefaultTimeout, test } from "bun:test";
import { AdamW } from "../../src/ops/adamw.ts";
import golden from "../golden/adamw.json";
import { adamW, hyper } from "../support/adamw.ts";
import {
  checkForward,
  expectSameBits,
  expectWithin,
  f32,
  generator,
  random,
  type Reference,
  relativeError,
  runWasm,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference: Reference = ([param, grad, m, v, constants]) => adamW(param!, grad!, m!, v!, constants!);

function state(n: number) {
  const rng = generator(n);
  const squares = random(rng, [n], 0.1);
  return [
    random(rng, [n]),
    random(rng, [n], 0.1),
    random(rng, [n], 0.1),
    { ...squares, data: (squares.data as Float32Array).map((x) => x * x) },
  ];
}

for (const n of [1, 3, 16, 37, 4099]) {
  test(`AdamW of ${n} elements: error 2e-7, in place, 1 to 3 threads`, async () => {
    const inputs = [...state(n), f32([8], hyper(5, 0.7))];
    const outputs = await checkForward({ op: AdamW, inputs, attrs: {}, reference, bound: 2e-7 });
    expectSameBits("3 threads", await runWasm(AdamW, inputs, {}, { threads: 3 }), outputs);
    // ONNX Runtime computes 1 - beta2 in f32.
    await checkOnnx({ op: AdamW, inputs, attrs: {}, bound: 1e-6 });
  });
}

test("AdamW against PyTorch: ten steps with clipping and a changing rate; error 2e-7", async () => {
  let param: ArrayLike<number> = golden.start;
  const n = golden.start.length;
  let m: ArrayLike<number> = new Float32Array(n);
  let v: ArrayLike<number> = new Float32Array(n);
  // Corrections of the betas that the kernel sees, so that the moments are true weighted means.
  const [beta1, beta2] = golden.betas.map(Math.fround) as [number, number];
  for (const [i, step] of golden.steps.entries()) {
    const norm = Math.sqrt(step.gradient.reduce((sum, value) => sum + value * value, 0));
    const scale = Math.min(1, golden.clip / (norm + 1e-6));
    const constants = [
      step.rate,
      beta1,
      beta2,
      golden.epsilon,
      golden.weightDecay,
      1 - beta1 ** (i + 1),
      1 - beta2 ** (i + 1),
      scale,
    ];
    const tensors = [param, step.gradient, m, v].map((values) => f32([n], values));
    [param, m, v] = (await runWasm(AdamW, [...tensors, f32([8], constants)], {})) as [Float32Array, Float32Array, Float32Array];
    expectWithin(`step ${i + 1}`, relativeError(param, step.param), 2e-7);
  }
  expectWithin("first moment", relativeError(m, golden.moment1), 5e-7);
  // 1 - beta2 is 1.3e-5 off once beta2 is an f32.
  expectWithin("second moment", relativeError(v, golden.moment2), 2e-5);
});

test("AdamW: no gradient leaves only the decay; a NaN stays where it is", async () => {
  const zeros = f32([5], [0, 0, 0, 0, 0]);
  const [param] = await runWasm(AdamW, [f32([5], [1, 2, 3, 4, 5]), zeros, zeros, zeros, f32([8], hyper(1))], {});
  expectWithin("decay", relativeError(param!, [0.999, 1.998, 2.997, 3.996, 4.995]), 1e-7);
  const grad = f32([5], [0, NaN, 0, 0, 0]);
  const [next] = await runWasm(AdamW, [f32([5], [1, 2, 3, 4, 5]), grad, zeros, zeros, f32([8], hyper(1))], {});
  expect(Array.from(next!, Number.isNaN)).toEqual([false, true, false, false, false]);
});

test("AdamW refuses a state of another size", () => {
  const type = (n: number) => ({ dtype: "f32", shape: [n] }) as const;
  expect(() => AdamW.infer([type(5), type(5), type(5), type(4), type(8)], {})).toThrow(
    "AdamW: expected param, grad, m, v of one f32 type",
  );
});
