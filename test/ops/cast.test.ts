import { expect, setDefaultTimeout, test } from "bun:test";
import { Cast, CAST_TO } from "../../src/ops/cast.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  f32,
  generator,
  half,
  random,
  runWasm,
  type TestTensor,
  toFloat64,
} from "../support/ops.ts";

setDefaultTimeout(120_000);

const words = (tensor: TestTensor): TestTensor => ({ ...tensor, data: Float32Array.from(toFloat64(tensor)) });

for (const dtype of ["bf16", "f16"] as const) {
  test(`${dtype} to f32: all 65536 patterns, exact; NaN is NaN`, async () => {
    const x: TestTensor = { dtype, shape: [65536], data: Uint16Array.from({ length: 65536 }, (_, i) => i) };
    const [y] = await runWasm(Cast, [x], { to: CAST_TO.f32 });
    const expected = words(x).data;
    expect(y!.findIndex((value, i) => !Object.is(value, expected[i]))).toBe(-1);
    expectSameBits("2 threads", await runWasm(Cast, [x], { to: CAST_TO.f32 }, { threads: 2 }), [y!]);
  });

  test(`f32 to ${dtype}: every number comes back, ties go to even, also for subnormals`, async () => {
    const patterns: TestTensor = { dtype, shape: [65536], data: Uint16Array.from({ length: 65536 }, (_, i) => i) };
    const values = [...toFloat64(patterns)].filter(Number.isFinite).sort((a, b) => a - b);
    // Between neighbours: the middle, and one f32 step to either side of it.
    const bits = new Int32Array(1);
    const float = new Float32Array(bits.buffer);
    const next = (value: number, steps: number): number => {
      float[0] = value;
      bits[0]! += steps;
      return float[0]!;
    };
    const middles = values.slice(1).map((value, i) => Math.fround((value + values[i]!) / 2));
    const points = [...values, ...middles, ...middles.filter((x) => x !== 0).flatMap((x) => [next(x, 1), next(x, -1)])];
    const x = f32([points.length], points);
    const [y] = await runWasm(Cast, [x], { to: CAST_TO[dtype] });
    expectSameBits(dtype, [y!], [half(x, dtype).data]);
  });

  test(`f32 to ${dtype}: too large is infinity, NaN stays NaN, the sign of zero stays`, async () => {
    const x = f32([8], [Infinity, -Infinity, 3.4e38, -3.4e38, NaN, 0, -0, 65520]);
    const [y] = await runWasm(Cast, [x], { to: CAST_TO[dtype] });
    const back = toFloat64({ dtype, shape: [8], data: y! });
    expect([...back]).toEqual([
      Infinity,
      -Infinity,
      dtype === "f16" ? Infinity : back[2]!,
      dtype === "f16" ? -Infinity : back[3]!,
      NaN,
      0,
      -0,
      dtype === "f16" ? Infinity : 65536,
    ]);
    const odd = f32([1], [0]);
    new Uint32Array(odd.data.buffer)[0] = 0x7f800001;
    const [nan] = await runWasm(Cast, [odd], { to: CAST_TO[dtype] });
    expect(toFloat64({ dtype, shape: [1], data: nan! })[0]).toBeNaN();
  });

  for (const n of [1, 2, 3, 5, 1031]) {
    test(`f32 and ${dtype}, ${n} elements, 1 and 2 threads`, async () => {
      const x = random(generator(n), [n]);
      const narrow = half(x, dtype);
      await checkForward({ op: Cast, inputs: [x], attrs: { to: CAST_TO[dtype] }, reference: () => [narrow.data], bound: 0 });
      await checkForward({ op: Cast, inputs: [narrow], attrs: { to: CAST_TO.f32 }, reference: ([a]) => [a!], bound: 0 });
    });
  }
}

test("bf16 to f16 rounds once", async () => {
  const x = half(random(generator(7), [999]), "bf16");
  const [y] = await runWasm(Cast, [x], { to: CAST_TO.f16 });
  expectSameBits("f16", [y!], [half(words(x), "f16").data]);
});

test("Cast: the gradient is cast back", async () => {
  await checkGradient({
    op: Cast,
    inputs: [random(generator(8), [33])],
    attrs: { to: CAST_TO.f32 },
    reference: ([x]) => [x!],
    wrt: [0],
    bound: 1e-6,
  });
});

test("Cast refuses integers and other targets", () => {
  expect(() => Cast.infer([{ dtype: "i32", shape: [3] }], { to: CAST_TO.f32 })).toThrow("Cast: expected a float tensor");
  expect(() => Cast.infer([{ dtype: "f32", shape: [3] }], { to: 7 })).toThrow("`to` = 1 (f32), 10 (f16) or 16 (bf16)");
});
