import { expect, setDefaultTimeout, test } from "bun:test";
import { PhiloxDropout } from "../../src/ops/dropout.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  f32,
  generator,
  i32,
  opGraph,
  random,
  type Reference,
  runGraph,
  runWasm,
} from "../support/ops.ts";
import { runOrt } from "../support/ort.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

type Words = [number, number, number, number];

/** Philox 4x32-10, straight from the paper, on bigint. */
function philox(counter: Words, key: [number, number]): Words {
  let [c0, c1, c2, c3] = counter.map(BigInt) as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key.map(BigInt) as [bigint, bigint];
  const mask = 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const product0 = 0xd2511f53n * c0;
    const product1 = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(product1 >> 32n) ^ c1 ^ k0, product1 & mask, (product0 >> 32n) ^ c3 ^ k1, product0 & mask];
    k0 = (k0 + 0x9e3779b9n) & mask;
    k1 = (k1 + 0xbb67ae85n) & mask;
  }
  return [c0, c1, c2, c3].map(Number) as Words;
}

const kept = (e: number, probability: number, site: number, [seed, draw]: [number, number], segment: number): boolean => {
  const words = philox([Math.floor(e / 4), site, segment >>> 0, 0], [seed >>> 0, draw >>> 0]);
  return (words[e % 4]! >>> 8) * 2 ** -24 >= probability;
};

const reference =
  (probability: number, site: number): Reference =>
  ([x, rng, segment]) => [
    x!.map((value, e) => (kept(e, probability, site, [rng![0]!, rng![1]!], segment![0]!) ? value / (1 - probability) : 0)),
  ];

test("the reference gives Random123's known answers for Philox 4x32-10", () => {
  expect(philox([0, 0, 0, 0], [0, 0])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const ones = 0xffffffff;
  expect(philox([ones, ones, ones, ones], [ones, ones])).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  const pi: Words = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344];
  expect(philox(pi, [0xa4093822, 0x299f31d0])).toEqual([0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
});

const RNG = i32([2], [-123456789, 77]);
const SEGMENT = i32([1], [12]);

for (const shape of [[1], [2], [4], [7], [5, 13], [61, 67]]) {
  for (const probability of [0, 0.1, 0.5]) {
    test(`PhiloxDropout of [${shape.join(", ")}] with p = ${probability}: the mask exactly, in place, 1 to 3 threads, as ONNX Runtime`, async () => {
      const inputs = [random(generator(1), shape), RNG, SEGMENT];
      const attrs = { probability, site: 3 };
      const options = { op: PhiloxDropout, inputs, attrs, reference: reference(probability, 3) };
      const [y] = await checkForward({ ...options, bound: 1e-7 });
      expectSameBits("3 threads", await runWasm(PhiloxDropout, inputs, attrs, { threads: 3 }), [y!]);
      await checkOnnx({ op: PhiloxDropout, inputs, attrs, bound: 0 });
      if (y!.length < 100) await checkGradient({ ...options, wrt: [0], bound: 1e-6 });
    });
  }
}

test("PhiloxDropout: the upper six bits of the words themselves, for extreme keys", async () => {
  const n = 64;
  for (const [rng, segment] of [
    [[0, 0], 0],
    [[-1, -1], -1],
    [[0x243f6a88, 0x13198a2e], 1000],
  ] as const) {
    const x = f32([n], new Float32Array(n).fill(1));
    // With p = k / 64, an element is kept when the upper bits of its word are at least k: count the k that keep it.
    const upper = new Int32Array(n).fill(-1);
    for (let k = 0; k < 64; k++) {
      const [y] = await runWasm(PhiloxDropout, [x, i32([2], rng), i32([1], [segment])], {
        probability: k / 64,
        site: 2 ** 31 - 1,
      });
      y!.forEach((value, e) => (upper[e]! += Number(value !== 0)));
    }
    const expected = Array.from(
      { length: n },
      (_, e) => philox([e >> 2, 2 ** 31 - 1, segment >>> 0, 0], [rng[0] >>> 0, rng[1] >>> 0])[e % 4]! >>> 26,
    );
    expect([...upper]).toEqual(expected);
  }
});

for (const [n, rng, segment, site] of [
  [7, [1, 2], 3, 4],
  [4099, [-123, 77], -1, 2 ** 31 - 1],
  // More than one chunk of blocks.
  [2 ** 20 + 5, [2 ** 31 - 1, -1], 1000, 3],
] as const) {
  test.each([
    ["without bit operations as for CUDA", "wide"],
    ["in 32 bits as for WebGPU", "narrow"],
  ] as const)(`PhiloxDropout of [${n}] on ONNX Runtime, written %s: the mask exactly`, async (_, integers) => {
    const inputs = [f32([n], new Float32Array(n).fill(1)), i32([2], rng), i32([1], [segment])];
    const { builder, outputs, feeds } = opGraph({ op: PhiloxDropout, inputs, attrs: { probability: 0.3, site } });
    builder.output({ name: outputs[0]!, role: "boundary" });
    const graph = builder.build();
    const expected = await runGraph(graph, feeds);
    const data = new Map([...feeds].map(([name, tensor]) => [name, tensor.data]));
    const actual = await runOrt(graph, data, false, { integers, bf16: true, f16Sums: true });
    expectSameBits("mask", [actual.get(outputs[0]!) as Float32Array], [...expected.values()]);
  });
}

test("PhiloxDropout: another draw, site or segment is another mask; the share of zeros is p within 4 deviations", async () => {
  const n = 100_000;
  const x = f32([n], new Float32Array(n).fill(1));
  const run = async (rng: number[], segment: number, site: number) =>
    (await runWasm(PhiloxDropout, [x, i32([2], rng), i32([1], [segment])], { probability: 0.1, site }))[0] as Float32Array;
  const masks = [
    await run([1, 1], 0, 0),
    await run([2, 1], 0, 0),
    await run([1, 2], 0, 0),
    await run([1, 1], 1, 0),
    await run([1, 1], 0, 1),
  ];
  for (const mask of masks) {
    const zeros = mask.filter((value) => value === 0).length;
    expect(Math.abs(zeros - 0.1 * n)).toBeLessThan(4 * Math.sqrt(n * 0.1 * 0.9));
  }
  for (const [i, a] of masks.entries()) {
    for (const b of masks.slice(i + 1)) {
      const both = a.filter((value, e) => value === 0 && b[e] === 0).length;
      expect(Math.abs(both - 0.01 * n)).toBeLessThan(4 * Math.sqrt(n * 0.01 * 0.99));
    }
  }
});

test("PhiloxDropout: what is dropped is 0 even if it was NaN; what is kept shows it", async () => {
  const [y] = await runWasm(PhiloxDropout, [f32([64], new Float32Array(64).fill(NaN)), RNG, SEGMENT], {
    probability: 0.5,
    site: 0,
  });
  const [mask] = reference(0.5, 0)([new Float64Array(64).fill(1), Float64Array.from(RNG.data), Float64Array.from(SEGMENT.data)]);
  expect(Array.from(y!, Number.isNaN)).toEqual(Array.from(mask!, (value) => value !== 0));
});

test("PhiloxDropout refuses a probability of 1", () => {
  const types = [
    { dtype: "f32", shape: [3] },
    { dtype: "i32", shape: [2] },
    { dtype: "i32", shape: [1] },
  ] as const;
  expect(() => PhiloxDropout.infer(types, { probability: 1, site: 0 })).toThrow(
    "expected a probability from 0 to less than 1, got 1",
  );
});
