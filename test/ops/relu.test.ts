import { expect, test } from "bun:test";
import { Relu, ReluGrad } from "../../src/ops/relu.ts";
import { Silu, SiluGrad } from "../../src/ops/silu.ts";
import { Tanh } from "../../src/ops/tanh.ts";
import { checkForward, checkGradient, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

const KINDS = [
  { op: Relu, f: (x: number) => Math.max(x, 0), bound: 0 },
  { op: Silu, f: (x: number) => x / (1 + Math.exp(-x)), bound: 5e-7 },
  { op: Tanh, f: Math.tanh, bound: 1e-6 },
] as const;

for (const { op, f, bound } of KINDS) {
  const reference: Reference = ([x]) => [x!.map(f)];
  for (const shape of [[3], [7, 13], [61, 67]]) {
    test(`${op.name} of [${shape.join(", ")}]: error ${bound}; gradient by finite differences, error 2e-6`, async () => {
      const inputs = [random(generator(1), shape, 2)];
      const [y] = await checkForward({ op, inputs, attrs: {}, reference, bound });
      expectSameBits("3 threads", await runWasm(op, inputs, {}, { threads: 3 }), [y!]);
      await checkGradient({ op, inputs, attrs: {}, reference, wrt: [0], bound: 2e-6, samples: 200 });
      await checkOnnx({ op, inputs, attrs: {}, bound });
    });
  }
}

test("Relu and its gradient at zeros, infinities and NaN", async () => {
  const x = f32([6], [0, -0, Infinity, -Infinity, NaN, 1e-30]);
  const dy = f32([6], [1, 2, 3, 4, 5, 6]);
  expect([...(await runWasm(Relu, [x], {}))[0]!]).toEqual([0, 0, Infinity, 0, NaN, Math.fround(1e-30)]);
  expect([...(await runWasm(ReluGrad, [x, dy], {}))[0]!]).toEqual([0, 0, 3, 0, 5, 6]);
  await checkOnnx({ op: ReluGrad, inputs: [x, dy], attrs: {}, bound: 0 });
});

test("Tanh does not overflow", async () => {
  const [y] = await runWasm(Tanh, [f32([4], [100, -100, Infinity, 0])], {});
  expect([...y!]).toEqual([1, -1, 1, 0]);
});

test("Silu and its gradient at the ends of their range", async () => {
  const x = f32([5], [0, 100, -100, 1e30, -1e30]);
  expect([...(await runWasm(Silu, [x], {}))[0]!]).toEqual([0, 100, -0, Math.fround(1e30), -0]);
  expect([...(await runWasm(SiluGrad, [x, f32([5], [2, 2, 2, 2, 2])], {}))[0]!]).toEqual([1, 2, 0, 2, 0]);
});
