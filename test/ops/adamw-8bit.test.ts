import { expect, setDefaultTimeout, test } from "bun:test";
import { AdamW8bit, CODES_BLOCK, dynamicMap, withMaps } from "../../src/ops/adamw-8bit.ts";
import { adamW, hyper } from "../support/adamw.ts";
import { checkForward, f32, generator, random, type Reference, runWasm, type TestTensor } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const MAPS = [dynamicMap(true), dynamicMap(false)] as const;

/** The entry nearest to x; of two as near, the lower one. */
function nearest(map: Float32Array, x: number): number {
  let best = 0;
  for (let code = 1; code < map.length; code++) if (Math.abs(map[code]! - x) < Math.abs(map[best]! - x)) best = code;
  return best;
}

const reference: Reference = ([param, grad, codes1, codes2, scales1, scales2, constants]) => {
  const block = (i: number) => Math.floor(i / CODES_BLOCK);
  const moments = (codes: Float64Array, map: Float32Array, scales: Float64Array) =>
    codes.map((code, i) => map[code]! * scales[block(i)]!);
  const [before1, before2] = [moments(codes1!, MAPS[0], scales1!), moments(codes2!, MAPS[1], scales2!)];
  const [next, m, v] = adamW(param!, grad!, before1, before2, constants!);
  const largest = (values: Float64Array) =>
    scales1!.map((_, b) =>
      values.subarray(b * CODES_BLOCK, (b + 1) * CODES_BLOCK).reduce((most, x) => Math.max(most, Math.abs(x)), 0),
    );
  const [new1, new2] = [largest(m), largest(v)];
  const codesOf = (values: Float64Array, scales: Float64Array, map: Float32Array) =>
    values.map((value, i) => nearest(map, scales[block(i)] === 0 ? 0 : value / scales[block(i)]!));
  return [next, codesOf(m, new1, MAPS[0]), codesOf(v, new2, MAPS[1]), new1, new2];
};

const u8 = (data: ArrayLike<number>): TestTensor => ({ dtype: "u8", shape: [data.length], data: Uint8Array.from(data) });

/** A state of some blocks, the last one with no gradient and no moments. */
function state(blocks: number, constants: readonly number[]): TestTensor[] {
  const rng = generator(blocks);
  const n = blocks * CODES_BLOCK;
  const codes = () => u8(Array.from({ length: n }, () => 256 * rng()));
  const scales = (scale: number) =>
    f32(
      [blocks],
      Array.from({ length: blocks }, (_, b) => (b === blocks - 1 ? 0 : scale * (0.5 + rng()))),
    );
  const grad = random(rng, [n], 0.1);
  grad.data.fill(0, n - CODES_BLOCK);
  return [random(rng, [n]), grad, codes(), codes(), scales(0.1), scales(0.01), f32([520], withMaps(constants))];
}

test.each([1, 2, 5, 37])("AdamW8bit of %d blocks: error 2e-6, codes exactly, in place, 1 and 2 threads", async (blocks) => {
  const inputs = state(blocks, hyper(5, 0.7));
  await checkForward({ op: AdamW8bit, inputs, attrs: {}, reference, bound: 2e-6 });
  await checkOnnx({ op: AdamW8bit, inputs, attrs: {}, bound: 1e-6 });
});

/** The middles between a map's entries, as f32. */
const middlesOf = (map: Float32Array) => Array.from(map.subarray(1), (entry, i) => Math.fround(Math.fround(entry + map[i]!) / 2));

const VIEW = new DataView(new ArrayBuffer(4));
/** The f32 whose bits are those of x and some more. */
function afterBits(x: number, more: number): number {
  VIEW.setFloat32(0, x);
  VIEW.setInt32(0, VIEW.getInt32(0) + more);
  return VIEW.getFloat32(0);
}

/**
 * Numbers in [low, 1]: evenly, by magnitude, at random, zeros and the least ones, and at and around the middles between a map's
 * entries and each number at which the upper 16 bits change.
 */
function probes(map: Float32Array, low: number): number[] {
  const rng = generator(5);
  const evenly = Array.from({ length: 20_000 }, (_, i) => low + ((1 - low) * i) / 19_999);
  const byMagnitude = Array.from({ length: 40_000 }, (_, i) => 10 ** (-9 * (i < 20_000 ? i / 19_999 : rng())));
  const steps = Array.from({ length: 0x3f80 }, (_, upper) => afterBits(0, upper << 16));
  const exact = [0, 2 ** -149, 2 ** -127, 2 ** -24, ...steps, ...middlesOf(map).map(Math.abs)];
  const around = exact.flatMap((x) =>
    [-3, -2, -1, 0, 1, 2, 3].map((more) => (x === 0 ? Math.max(0, more) * 2 ** -149 : afterBits(x, more))),
  );
  const positive = [...byMagnitude, ...around];
  return [...evenly, ...positive, ...positive.map((x) => -x)].map(Math.fround).filter((x) => x >= low && x <= 1);
}

/** The codes of numbers in [-1, 1] by the map that stands in the place of the first moment's: without memory, that is the gradient. */
async function codesOf(numbers: readonly number[], map: Float32Array): Promise<ArrayLike<number>> {
  // A 1 in each block makes its scale 1.
  const perBlock = CODES_BLOCK - 1;
  const blocks = Math.ceil(numbers.length / perBlock);
  const n = blocks * CODES_BLOCK;
  const grad = Float32Array.from({ length: n }, (_, i) =>
    i % CODES_BLOCK === 0 ? 1 : (numbers[Math.floor(i / CODES_BLOCK) * perBlock + (i % CODES_BLOCK) - 1] ?? 0),
  );
  const zeros = f32([blocks], new Float32Array(blocks));
  const codes = () => u8(new Uint8Array(n));
  const constants = f32([520], [0, 0, 0, 1, 0, 1, 1, 1, ...map, ...MAPS[1]]);
  const all = (
    await runWasm(AdamW8bit, [f32([n], new Float32Array(n)), f32([n], grad), codes(), codes(), zeros, zeros, constants], {})
  )[1]!;
  return numbers.map((_, i) => all[Math.floor(i / perBlock) * CODES_BLOCK + (i % perBlock) + 1]!);
}

test.each([
  ["first", MAPS[0], -1],
  ["second", MAPS[1], 0],
] as const)("codes of the %s moment's map are the number of middles below, whatever the number", async (_, map, low) => {
  const numbers = probes(map, low);
  const codes = await codesOf(numbers, map);
  const middles = middlesOf(map);
  const below = (x: number) => {
    let [from, to] = [0, middles.length];
    while (from < to) {
      const at = (from + to) >> 1;
      if (middles[at]! < x) from = at + 1;
      else to = at;
    }
    return from;
  };
  const wrong = numbers.flatMap((x, i) => (codes[i] === below(x) ? [] : [`${x}: ${codes[i]}, not ${below(x)}`]));
  expect(wrong.slice(0, 5)).toEqual([]);
  expect(new Set(Array.from(codes)).size).toBe(256);
});

test("NaN has the code of 1 and leaves the others of its block alone", async () => {
  const numbers = [0.5, NaN, -0.25, -0, 1e-3];
  const finite = await codesOf(
    numbers.map((x) => (Number.isNaN(x) ? 1 : x)),
    MAPS[0],
  );
  expect(Array.from(await codesOf(numbers, MAPS[0]))).toEqual(Array.from(finite));
});

test("AdamW8bit refuses elements that are no whole number of blocks", () => {
  const types = [100, 100].map((n) => ({ dtype: "f32", shape: [n] }) as const);
  const codes = { dtype: "u8", shape: [100] } as const;
  const scales = { dtype: "f32", shape: [1] } as const;
  expect(() => AdamW8bit.infer([...types, codes, codes, scales, scales, { dtype: "f32", shape: [520] }], {})).toThrow(
    "AdamW8bit: expected param, grad f32[n], two codes u8[n], two scales f32[n / 256], n a multiple of 256",
  );
});
