import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { CachedConv } from "../../src/ops/cached-conv.ts";
import { CausalConv, CausalConvGrad } from "../../src/ops/causal-conv.ts";
import { checkForward, checkGradient, expectSameBits, generator, i32, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

/** Begins of the texts that rows belong to: a text each `length` rows; the last `padding` rows see themselves alone. */
const startsOf = (rows: number, length: number, padding: number) =>
  i32(
    [rows],
    Array.from({ length: rows }, (_, t) => (t >= rows - padding ? t : t - (t % length))),
  );

const reference: Reference = ([x, weight, starts, bias]) => {
  const tokens = starts!.length;
  const channels = x!.length / tokens;
  const width = weight!.length / channels;
  const y = new Float64Array(x!.length);
  for (let t = 0; t < tokens; t++)
    for (let c = 0; c < channels; c++) {
      let sum = bias?.[c] ?? 0;
      for (let j = 0; j < width && t - j >= starts![t]!; j++)
        sum += weight![c * width + width - 1 - j]! * x![(t - j) * channels + c]!;
      y[t * channels + c] = sum;
    }
  return [y];
};

const gradReference: Reference = ([dy, x, weight, starts]) => {
  const tokens = starts!.length;
  const channels = x!.length / tokens;
  const width = weight!.length / channels;
  const [dx, dw] = [new Float64Array(x!.length), new Float64Array(weight!.length)];
  for (let t = 0; t < tokens; t++)
    for (let c = 0; c < channels; c++)
      for (let j = 0; j < width && t - j >= starts![t]!; j++) {
        const tap = c * width + width - 1 - j;
        dx[(t - j) * channels + c]! += weight![tap]! * dy![t * channels + c]!;
        dw[tap]! += dy![t * channels + c]! * x![(t - j) * channels + c]!;
      }
  return [dx, dw];
};

const CASES = [
  { rows: 1, channels: 5, width: 3, length: 9, padding: 0 },
  { rows: 2, channels: 3, width: 4, length: 9, padding: 0 },
  { rows: 13, channels: 7, width: 3, length: 5, padding: 2 },
  { rows: 9, channels: 16, width: 1, length: 9, padding: 0 },
  { rows: 70, channels: 37, width: 3, length: 2, padding: 5 },
  { rows: 201, channels: 64, width: 4, length: 66, padding: 0 },
  { rows: 130, channels: 19, width: 8, length: 130, padding: 1 },
] as const;

for (const { rows, channels, width, length, padding } of CASES) {
  const name = `[${rows}, ${channels}], ${width} taps, texts of ${length}, ${padding} rows of padding`;
  const tensors = () => {
    const rng = generator(rows);
    const x = random(rng, [rows, channels]);
    return { x, weight: random(rng, [channels, 1, width]), bias: random(rng, [channels]), dy: random(rng, [rows, channels]) };
  };
  const starts = startsOf(rows, length, padding);
  test(`CausalConv of ${name}: error 5e-7; gradients by finite differences, error 1e-5`, async () => {
    const { x, weight, bias } = tensors();
    for (const inputs of [
      [x, weight, starts, bias],
      [x, weight, starts],
    ]) {
      const options = { op: CausalConv, inputs, attrs: {}, reference };
      const [y] = await checkForward({ ...options, bound: 5e-7 });
      expectSameBits("3 threads", await runWasm(CausalConv, inputs, {}, { threads: 3 }), [y!]);
      for (const wrt of inputs.length === 4 ? [[0, 1, 3], [3]] : [[0, 1], [0], [1]])
        await checkGradient({ ...options, wrt, bound: 1e-5, samples: 40 });
      await checkOnnx({ op: CausalConv, inputs, attrs: {}, bound: 1e-6 });
    }
  });

  test(`CausalConvGrad of ${name}: error 1e-6`, async () => {
    const { x, weight, dy } = tensors();
    const inputs = [dy, x, weight, starts];
    const outputs = await checkForward({ op: CausalConvGrad, inputs, attrs: {}, reference: gradReference, bound: 1e-6 });
    expectSameBits("3 threads", await runWasm(CausalConvGrad, inputs, {}, { threads: 3 }), outputs);
    await checkOnnx({ op: CausalConvGrad, inputs, attrs: {}, bound: 2e-6 });
  });
}

describe("CachedConv", () => {
  const [size, channels, width] = [40, 11, 3] as const;
  const rng = generator(5);
  const weight = random(rng, [channels, 1, width]);
  const bias = random(rng, [channels]);
  const x = random(rng, [size, channels]);
  const rowsOf = (from: number, count: number) => ({
    dtype: "f32" as const,
    shape: [count, channels],
    data: (x.data as Float32Array).slice(from * channels, (from + count) * channels),
  });
  const zeros = (count: number) => i32([count], Array<number>(count).fill(0));

  test("a text that is taken in by pieces, some of it twice, gives the bits that it gives as a whole", async () => {
    const [whole] = (await runWasm(CausalConv, [x, weight, zeros(size), bias], {})) as Float32Array[];
    // What a cache has behind the text is written over.
    let cache = random(generator(6), [size, channels]);
    for (const [from, count] of [
      [0, 1],
      [1, 16],
      [17, 6],
      [5, 20],
      [25, 1],
      [26, 14],
    ] as const) {
      const inputs = [rowsOf(from, count), weight, cache, zeros(count), i32([1], [from]), bias];
      const [y, next] = (await runWasm(CachedConv, inputs, {}, { threads: 1 + (from % 3) })) as Float32Array[];
      expectSameBits(`rows from ${from}`, [y!], [whole!.slice(from * channels, (from + count) * channels)]);
      cache = { ...cache, data: next! };
    }
    expectSameBits("the cache", [cache.data as Float32Array], [x.data as Float32Array]);
  });

  test("a row each of several texts is what each gives alone, from where it may see on", async () => {
    const texts = 3;
    const caches = random(generator(7), [texts * size, channels]);
    const [places, starts] = [
      [39, 0, 7],
      [0, 0, 6],
    ];
    const inputs = [rowsOf(0, texts), weight, caches, i32([texts], starts!), i32([texts], places!)];
    const [y, next] = (await runWasm(CachedConv, inputs, {}, { threads: 2 })) as Float32Array[];
    for (let text = 0; text < texts; text++) {
      const part = (caches.data as Float32Array).slice(text * size * channels, (text + 1) * size * channels);
      const cache = { ...caches, shape: [size, channels], data: part };
      const one = [rowsOf(text, 1), weight, cache, i32([1], [starts![text]!]), i32([1], [places![text]!])];
      const [alone, own] = (await runWasm(CachedConv, one, {})) as Float32Array[];
      expectSameBits(`text ${text}`, [y!.slice(text * channels, (text + 1) * channels)], [alone!]);
      expectSameBits(`cache ${text}`, [next!.slice(text * size * channels, (text + 1) * size * channels)], [own!]);
    }
    await checkOnnx({ op: CachedConv, inputs, attrs: {}, bound: 1e-6 });
    await checkOnnx({ op: CachedConv, inputs: [rowsOf(3, 5), weight, x, zeros(5), i32([1], [3]), bias], attrs: {}, bound: 1e-6 });
  });

  test("a position outside of the cache writes nothing outside", async () => {
    for (const position of [-3, size, 2 ** 31 - 1])
      await runWasm(CachedConv, [rowsOf(0, 2), weight, x, zeros(2), i32([1], [position])], {});
  });
});

test("filters, starts and caches of other shapes are refused", () => {
  const type = (dtype: "f32" | "i32", ...shape: number[]) => ({ dtype, shape }) as const;
  const [x, weight, starts] = [type("f32", 4, 3), type("f32", 3, 1, 2), type("i32", 4)];
  expect(() => CausalConv.infer([x, type("f32", 3, 2), starts], {})).toThrow("filters [C, 1, width]");
  expect(() => CausalConv.infer([x, type("f32", 4, 1, 2), starts], {})).toThrow("filters [C, 1, width]");
  expect(() => CausalConv.infer([x, weight, type("i32", 3)], {})).toThrow("starts i32[4]");
  expect(() => CausalConv.infer([x, weight, starts, type("f32", 4)], {})).toThrow("bias [C]");
  const builder = new GraphBuilder("cached");
  for (const [name, input] of Object.entries({ x, weight, starts })) builder.input(name, "batch", input);
  builder.input("cache", "cache", type("f32", 3, 3));
  builder.input("position", "batch", type("i32", 1));
  expect(() => builder.node(CachedConv, ["x", "weight", "cache", "starts", "position"], {}, "y")).toThrow("of 4 rows or more");
});
