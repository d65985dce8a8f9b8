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

/** Numbers in [low, 1]: evenly, by magnitude, and at and around the middles between a map's entries. */
function probes(map: Float32Array, low: number): number[] {
  const around = [...map].slice(1).flatMap((entry, i) => {
    const middle = Math.fround((entry + map[i]!) / 2);
    return [-3, -1, 0, 1, 3].map((ulps) => middle + ulps * 2 ** -24 * Math.abs(middle));
  });
  const evenly = Array.from({ length: 20_000 }, (_, i) => low + ((1 - low) * i) / 19_999);
  const magnitudes = Array.from({ length: 20_000 }, (_, i) => 10 ** (-9 * (i / 19_999)));
  const both = magnitudes.flatMap((x) => (low < 0 ? [x, -x] : [x]));
  return [...around, ...evenly, ...both, 0].filter((x) => x >= low && x <= 1);
}

test.each([
  ["first", 0, -1],
  ["second", 1, 0],
] as const)("codes of the %s moment are of the nearest entry, whatever the number", async (_, which, low) => {
  const map = MAPS[which];
  const numbers = probes(map, low);
  // Without memory the first moment is the gradient, and the second its square. A 1 in each block makes its scale 1.
  const perBlock = CODES_BLOCK - 1;
  const blocks = Math.ceil(numbers.length / perBlock);
  const grad = Float32Array.from({ length: blocks * CODES_BLOCK }, (_, i) => {
    const x = i % CODES_BLOCK === 0 ? 1 : (numbers[Math.floor(i / CODES_BLOCK) * perBlock + (i % CODES_BLOCK) - 1] ?? 0);
    return which === 0 ? x : Math.sqrt(x);
  });
  const n = grad.length;
  const zeros = f32([blocks], new Float32Array(blocks));
  const constants = f32([520], withMaps([0, 0, 0, 1, 0, 1, 1, 1]));
  const inputs = [
    f32([n], new Float32Array(n)),
    f32([n], grad),
    u8(new Uint8Array(n)),
    u8(new Uint8Array(n)),
    zeros,
    zeros,
    constants,
  ];
  const codes = (await runWasm(AdamW8bit, inputs, {}))[1 + which]!;
  const seen = new Set<number>();
  grad.forEach((g, i) => {
    const x = which === 0 ? g : Math.fround(g * g);
    const distance = Math.abs(map[codes[i]!]! - x);
    // Of a middle, half a unit in the last place is lost, which both distances see.
    expect(distance).toBeLessThanOrEqual(Math.abs(map[nearest(map, x)]! - x) + 2 ** -23 * Math.abs(x));
    seen.add(codes[i]!);
  });
  expect(seen.size).toBe(256);
});

test("AdamW8bit refuses elements that are no whole number of blocks", () => {
  const types = [100, 100].map((n) => ({ dtype: "f32", shape: [n] }) as const);
  const codes = { dtype: "u8", shape: [100] } as const;
  const scales = { dtype: "f32", shape: [1] } as const;
  expect(() => AdamW8bit.infer([...types, codes, codes, scales, scales, { dtype: "f32", shape: [520] }], {})).toThrow(
    "AdamW8bit: expected param, grad f32[n], two codes u8[n], two scales f32[n / 256], n a multiple of 256",
  );
});
