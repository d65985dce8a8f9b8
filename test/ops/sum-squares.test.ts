import { expect, setDefaultTimeout, test } from "bun:test";
import { SumSquares } from "../../src/ops/sum-squares.ts";
import { checkForward, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference: Reference = ([x]) => [[x!.reduce((sum, value) => sum + value * value, 0)]];

for (const n of [1, 3, 17, 4096, 4097, 20_011]) {
  test(`SumSquares of ${n} elements: error 3e-7, 1 to 3 threads`, async () => {
    const inputs = [random(generator(n), [n])];
    const [y] = await checkForward({ op: SumSquares, inputs, attrs: {}, reference, bound: 3e-7 });
    expectSameBits("3 threads", await runWasm(SumSquares, inputs, {}, { threads: 3 }), [y!]);
    await checkOnnx({ op: SumSquares, inputs, attrs: {}, bound: 2e-6 });
  });
}

test("SumSquares of 20 million equal elements: error 2e-6 (f32 sums stop growing at 2^24 of them)", async () => {
  const n = 20_000_000;
  const [y] = await runWasm(SumSquares, [f32([n], new Float32Array(n).fill(0.3))], {});
  expect(Math.abs(y![0]! / (n * Math.fround(0.3) ** 2) - 1)).toBeLessThan(2e-6);
});

test("SumSquares: one NaN or infinity shows", async () => {
  const x = new Float32Array(5000);
  x[4500] = NaN;
  expect((await runWasm(SumSquares, [f32([5000], x)], {}))[0]![0]).toBeNaN();
  x[4500] = -Infinity;
  expect((await runWasm(SumSquares, [f32([5000], x)], {}))[0]![0]).toBe(Infinity);
});
