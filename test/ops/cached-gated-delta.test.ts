import { expect, setDefaultTimeout, test } from "bun:test";
import { CachedGatedDelta } from "../../src/ops/cached-gated-delta.ts";
import { CausalConv } from "../../src/ops/causal-conv.ts";
import { GatedDelta } from "../../src/ops/gated-delta.ts";
import { RollingConv } from "../../src/ops/rolling-conv.ts";
import {
  expectSameBits,
  expectWithin,
  f32,
  generator,
  i32,
  random,
  relativeError,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const TOKENS = 200;
const ATTRS = { keyHeads: 2, keyDim: 5 };
const WIDTH = 2 * 2 * 5 + 4 * 3;
const rng = generator(8);
const rows = [WIDTH, 4, 4].map((columns) => random(rng, [TOKENS, columns])) as [TestTensor, TestTensor, TestTensor];
const settings = [random(rng, [4], 0.5), random(rng, [4])];
const filters = random(rng, [WIDTH, 1, 4]);

/** Rows from..from + count - 1, followed by `fill` rows of NaN. */
function part({ shape, data }: TestTensor, from: number, count: number, fill = 0): TestTensor {
  const columns = shape[1]!;
  const values = new Float32Array((count + fill) * columns).fill(NaN);
  values.set((data as Float32Array).subarray(from * columns, (from + count) * columns));
  return f32([count + fill, columns], values);
}

/** Starts of new rows at `place`, the last `fill` of which see themselves alone. */
const startsAt = (place: number, count: number, fill: number) =>
  i32(
    [count + fill],
    Array.from({ length: count + fill }, (_, i) => (i < count ? 0 : place + i)),
  );

const PIECES = [
  [0, 1, 0],
  [1, 66, 14],
  [67, 3, 13],
  [70, 1, 0],
  [71, 128, 0],
  [199, 1, 2],
] as const;

test("a text by pieces, which rows without a meaning fill up: results and state within 2e-6 of those of the whole text", async () => {
  const zeros = i32([TOKENS], Array<number>(TOKENS).fill(0));
  const [whole, states] = (await runWasm(GatedDelta, [...rows, ...settings, zeros], ATTRS)) as [Float32Array, Float32Array];
  let state = f32([1, 64], Array<number>(64).fill(NaN));
  for (const [place, count, fill] of PIECES) {
    const inputs = [
      ...rows.map((x) => part(x, place, count, fill)),
      ...settings,
      state,
      startsAt(place, count, fill),
      i32([1], [place]),
    ];
    const [out, next] = (await runWasm(CachedGatedDelta, inputs, ATTRS)) as [Float32Array, Float32Array];
    expectSameBits("3 threads, in place", await runWasm(CachedGatedDelta, inputs, ATTRS, { threads: 3, inPlace: [1, 5] }), [
      out,
      next,
    ]);
    const expected = whole.subarray(place * 12, (place + count) * 12);
    expectWithin(`rows from ${place}`, relativeError(out.subarray(0, count * 12), expected), 2e-6);
    expect(out.subarray(count * 12).every((x) => x === 0)).toBe(true);
    state = f32([1, 64], next);
  }
  expectWithin("the state", relativeError((state.data as Float32Array).subarray(0, 60), states.subarray(3 * 60)), 2e-6);
});

test("a row each of several texts is what each gives alone; one that is not wanted stays as it is", async () => {
  const state = random(rng, [3, 60]);
  const places = [7, 0, 9];
  const texts = [...rows.map((x) => part(x, 0, 3)), ...settings, state, i32([3], [0, 0, 9]), i32([3], places)];
  const [out, next] = (await runWasm(CachedGatedDelta, texts, ATTRS)) as [Float32Array, Float32Array];
  const slab = (x: Float32Array, text: number) => x.slice(text * 60, (text + 1) * 60);
  for (const text of [0, 1]) {
    const own = f32([1, 60], slab(state.data as Float32Array, text));
    const one = [...rows.map((x) => part(x, text, 1)), ...settings, own, i32([1], [0]), i32([1], [places[text]!])];
    const [alone, after] = (await runWasm(CachedGatedDelta, one, ATTRS)) as [Float32Array, Float32Array];
    expectSameBits(`text ${text}`, [out.slice(text * 12, (text + 1) * 12), slab(next, text)], [alone, after]);
  }
  expectSameBits("the other", [slab(next, 2)], [slab(state.data as Float32Array, 2)]);
  await checkOnnx({ op: CachedGatedDelta, inputs: texts, attrs: ATTRS, bound: 2e-6 });
});

test("RollingConv: a text by pieces gives the bits of the whole, and keeps its last rows; other texts stay as they are", async () => {
  const [x] = rows;
  const zeros = i32([TOKENS], Array<number>(TOKENS).fill(0));
  const [whole] = (await runWasm(CausalConv, [x, filters, zeros, null], {})) as [Float32Array];
  let tail = random(rng, [1, 3 * WIDTH + 5]);
  for (const [place, count, fill] of PIECES) {
    const inputs = [part(x, place, count, fill), filters, tail, startsAt(place, count, fill), i32([1], [place])];
    const [y, next] = (await runWasm(RollingConv, inputs, {}, { threads: 2, inPlace: [1, 2] })) as [Float32Array, Float32Array];
    const expected = whole.slice(place * WIDTH, (place + count) * WIDTH);
    expectSameBits(`rows from ${place}`, [y.slice(0, count * WIDTH)], [expected]);
    tail = f32([1, 3 * WIDTH + 5], next);
  }
  expectSameBits("the tail", [(tail.data as Float32Array).slice(0, 3 * WIDTH)], [part(x, TOKENS - 3, 3).data as Float32Array]);
  const tails = random(rng, [2, 3 * WIDTH]);
  const inputs = [part(x, 3, 2), filters, tails, i32([2], [0, 5]), i32([2], [3, 5])];
  const [, next] = (await runWasm(RollingConv, inputs, {})) as [Float32Array, Float32Array];
  const before = tails.data as Float32Array;
  const moved = [...before.slice(WIDTH, 3 * WIDTH), ...(part(x, 3, 1).data as Float32Array)];
  expectSameBits("tails", [next], [Float32Array.of(...moved, ...before.slice(3 * WIDTH))]);
});

test("states and tails of other shapes are refused", () => {
  const type = (dtype: "f32" | "i32", ...shape: number[]) => ({ dtype, shape }) as const;
  const inputs = [type("f32", 6, WIDTH), type("f32", 6, 4), type("f32", 6, 4), type("f32", 4), type("f32", 4)];
  const places = [type("i32", 6), type("i32", 1)];
  expect(() => CachedGatedDelta.infer([...inputs, type("f32", 1, 59), ...places], ATTRS)).toThrow("a cache f32[1, 60 or more]");
  expect(() => CachedGatedDelta.infer([...inputs, type("f32", 1, 60), places[0]!, type("i32", 2)], ATTRS)).toThrow(
    "one text, or one per row",
  );
  const conv = [type("f32", 6, WIDTH), type("f32", WIDTH, 1, 4)];
  expect(() => RollingConv.infer([...conv, type("f32", 2, 3 * WIDTH), ...places], {})).toThrow(
    `a cache f32[1, ${3 * WIDTH} or more]`,
  );
  expect(() => RollingConv.infer([conv[0]!, type("f32", WIDTH, 1, 1), type("f32", 1, WIDTH), ...places], {})).toThrow(
    "two taps or more",
  );
});
