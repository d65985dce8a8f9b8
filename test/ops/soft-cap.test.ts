import { expect, setDefaultTimeout, test } from "bun:test";
import { SoftCap } from "../../src/ops/soft-cap.ts";
import { checkForward, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const cappedAt =
  (cap: number): Reference =>
  ([x]) => [x!.map((value) => cap * Math.tanh(value / cap))];

for (const shape of [[1], [3], [5, 7], [61, 67]]) {
  test(`SoftCap of [${shape.join(", ")}]: error 2e-7, in place, 1 to 3 threads, as ONNX Runtime within 5e-7`, async () => {
    const inputs = [random(generator(1), shape, 20)];
    const attrs = { softcap: 30 };
    const [y] = await checkForward({ op: SoftCap, inputs, attrs, reference: cappedAt(30), bound: 2e-7 });
    expect(await runWasm(SoftCap, inputs, attrs, { threads: 3 })).toEqual([y!]);
    await checkOnnx({ op: SoftCap, inputs, attrs, bound: 5e-7 });
  });
}

test("SoftCap: relative error < 5e-7 of each number from 1e-30 to 1e30", async () => {
  const values = Float32Array.from({ length: 24_001 }, (_, i) => (i % 2 ? -1 : 1) * 10 ** (-30 + i / 400));
  const [y] = await runWasm(SoftCap, [f32([values.length], values)], { softcap: 30 });
  const errors = y!.map((value, i) => Math.abs(value / (30 * Math.tanh(values[i]! / 30)) - 1));
  expect(Math.max(...errors)).toBeLessThan(5e-7);
});

test("SoftCap: NaN stays, infinity is the cap, the sign of 0 stays; the cap must be positive", async () => {
  const [y] = await runWasm(SoftCap, [f32([5], [NaN, Infinity, -Infinity, 0, -0])], { softcap: 2 });
  expect([...y!]).toEqual([NaN, 2, -2, 0, -0]);
  for (const softcap of [0, -1, NaN, Infinity])
    expect(() => SoftCap.infer([{ dtype: "f32", shape: [1] }], { softcap })).toThrow("positive softcap");
});
