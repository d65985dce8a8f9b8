import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { bucketLengths, createBatches, packRows, type BatchOptions, type MicroBatch } from "../../src/data/samples/batch.ts";
import { IGNORED } from "../../src/data/samples/sample.ts";
import { createSampleStore, type SampleSet } from "../../src/data/samples/sample-store.ts";
import { createRandom } from "../../src/base/random.ts";

setDefaultTimeout(120_000);

/** Samples whose tokens are 1000 * sample + position; every third token is masked. */
function makeSet(lengths: readonly number[], weightOf?: (id: number) => number): SampleSet {
  const store = createSampleStore((number) => `f:${number}`);
  lengths.forEach((length, sample) => {
    const ids = Int32Array.from({ length }, (_, i) => 1000 * (sample + 1) + i);
    const weights = weightOf && sample % 2 === 0 ? Float32Array.from(ids, weightOf) : null;
    store.add({ ids, labels: ids.map((id, i) => (i % 3 === 0 ? IGNORED : id)), weights }, sample + 1);
  });
  return store.finish();
}

const OPTIONS: BatchOptions = { rows: 2, rowLength: 16, packing: true, seed: 7, shuffle: true, padId: 0 };
const lengthsOf = (count: number, longest: number, seed = 1) => {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => 2 + random.below(longest - 1));
};

const epochOf = (samples: SampleSet, options: BatchOptions, epoch = 0): MicroBatch[] => {
  const batches = createBatches(samples, options);
  return Array.from({ length: batches.count(epoch) }, (_, i) => batches.batch(epoch, i));
};

/** Checks the contract of one micro-batch and returns the samples in it. */
function check(batch: MicroBatch, lengths: readonly number[], rowLength: number): number[] {
  const found: number[] = [];
  let labelled = 0;
  for (let t = 0; t < batch.tokens; t++) {
    const id = batch.ids[t]!;
    const start = batch.starts[t]!;
    if (id === 0) {
      expect([start, batch.labels[t], batch.positions[t]]).toEqual([t, IGNORED, 0]);
      continue;
    }
    const sample = Math.floor(id / 1000) - 1;
    const position = id % 1000;
    expect(batch.positions[t]).toBe(position);
    expect(start).toBe(t - position);
    // An example lies within one row.
    expect(Math.floor(start / rowLength)).toBe(Math.floor(t / rowLength));
    const last = position === lengths[sample]! - 1;
    const expected = last || (position + 1) % 3 === 0 ? IGNORED : id + 1;
    expect(batch.labels[t]).toBe(expected);
    if (expected !== IGNORED) labelled++;
    if (last) found.push(sample);
  }
  expect(batch.labelled).toBe(labelled);
  expect(batch.examples).toBe(found.length);
  return found;
}

test("weights are shifted with the labels; a set without any has none", () => {
  const lengths = lengthsOf(40, 16);
  const weightOf = (id: number) => (id % 7 === 3 ? 1 : (id % 4) / 2 + 0.25);
  const seen = { weighted: 0, plain: 0 };
  for (const batch of epochOf(makeSet(lengths, weightOf), OPTIONS)) {
    let sum = 0;
    batch.labels.forEach((label, t) => {
      if (label === IGNORED) return;
      const hasWeights = (Math.floor(label / 1000) - 1) % 2 === 0;
      seen[hasWeights ? "weighted" : "plain"]++;
      expect(batch.weights![t]).toBe(hasWeights ? weightOf(label) : 1);
      sum += batch.weights![t]!;
    });
    expect(batch.weight).toBe(sum);
  }
  expect(Math.min(seen.weighted, seen.plain)).toBeGreaterThan(50);
  for (const batch of epochOf(makeSet(lengths), OPTIONS)) {
    expect(batch.weights).toBeNull();
    expect(batch.weight).toBe(batch.labelled);
  }
});

describe("every sample once an epoch, labels shifted, examples kept apart", () => {
  const lengths = lengthsOf(101, 16);
  const samples = makeSet(lengths);
  const all = Array.from(lengths, (_, i) => i);

  test("packed rows", () => {
    const batches = epochOf(samples, OPTIONS);
    expect(batches.every((batch) => batch.tokens === 32)).toBe(true);
    expect(batches.flatMap((batch) => check(batch, lengths, 16)).sort((a, b) => a - b)).toEqual(all);
    expect(batches.reduce((sum, batch) => sum + batch.labelled, 0)).toBe(samples.labelled);
  });

  test("padded rows: one example a row, at most four sizes, under 35 % padding for evenly spread lengths", () => {
    const spread = lengthsOf(101, 200);
    const set = makeSet(spread);
    const options = { ...OPTIONS, rowLength: 256, packing: false };
    const { sizes } = createBatches(set, options);
    const batches = epochOf(set, options);
    expect(sizes.length).toBeLessThanOrEqual(4);
    const found = batches.flatMap((batch) => {
      expect(sizes).toContain(batch.tokens);
      return check(batch, spread, batch.tokens / 2);
    });
    expect(found.sort((a, b) => a - b)).toEqual(all);
    const laid = batches.reduce((sum, batch) => sum + batch.tokens, 0);
    expect(1 - set.tokens / laid).toBeLessThan(0.35);
  });

  test("evaluation keeps the order of the data in padded rows of equal length", () => {
    const even = makeSet([4, 4, 4, 4, 4]);
    const batches = epochOf(even, { ...OPTIONS, packing: false, shuffle: false });
    expect(batches.flatMap((batch) => check(batch, [4, 4, 4, 4, 4], batch.tokens / 2))).toEqual([0, 1, 2, 3, 4]);
  });

  test("200 random data sets", () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 2, max: 40 }), { minLength: 1, maxLength: 60 }),
        fc.integer({ min: 1, max: 4 }),
        fc.boolean(),
        (sizes, rows, packing) => {
          const options = { ...OPTIONS, rows, rowLength: 40, packing };
          const found = epochOf(makeSet(sizes), options).flatMap((batch) => check(batch, sizes, batch.tokens / rows));
          expect(found.sort((a, b) => a - b)).toEqual(sizes.map((_, i) => i));
        },
      ),
      { numRuns: 200, seed: 6 },
    );
  });
});

describe("determinism", () => {
  const samples = makeSet(lengthsOf(300, 16, 2));

  for (const packing of [true, false]) {
    test(`a fresh object gives the same micro-batch for any (epoch, index), packing ${packing}`, () => {
      const first = createBatches(samples, { ...OPTIONS, packing });
      const seen = [0, 1, 2].map((epoch) => Array.from({ length: first.count(epoch) }, (_, i) => first.batch(epoch, i)));
      const resumed = createBatches(samples, { ...OPTIONS, packing });
      for (const [epoch, index] of [
        [2, 5],
        [0, 0],
        [1, 7],
        [2, 4],
      ] as const)
        expect(resumed.batch(epoch, index)).toEqual(seen[epoch]![index]!);
      expect(seen[0]![0]).not.toEqual(seen[1]![0]!);
      expect(createBatches(samples, { ...OPTIONS, packing, seed: 8 }).batch(0, 0)).not.toEqual(seen[0]![0]!);
    });
  }

  test("locate counts micro-batches across epochs", () => {
    const batches = createBatches(samples, OPTIONS);
    const [a, b] = [batches.count(0), batches.count(1)];
    expect(batches.locate(0)).toEqual({ epoch: 0, index: 0 });
    expect(batches.locate(a - 1)).toEqual({ epoch: 0, index: a - 1 });
    expect(batches.locate(a)).toEqual({ epoch: 1, index: 0 });
    expect(batches.locate(a + b + 3)).toEqual({ epoch: 2, index: 3 });
    expect(() => batches.batch(0, a)).toThrow(RangeError);
  });
});

describe("packing", () => {
  test("first-fit decreasing fills at least 97 % of the rows' room on 2,000 short samples", () => {
    const lengths = lengthsOf(2000, 120, 3);
    const rows = packRows(
      lengths.map((_, i) => i),
      lengths,
      512,
    );
    const total = lengths.reduce((sum, length) => sum + length, 0);
    expect(total / (rows.length * 512)).toBeGreaterThan(0.97);
  });

  test("bucket lengths ascend, end at the longest sample rounded up to 8, and never pass the row", () => {
    expect(bucketLengths(Int32Array.of(5, 9, 100, 30), 512)).toEqual([16, 104]);
    expect(
      bucketLengths(
        Int32Array.from({ length: 100 }, (_, i) => i + 2),
        100,
      ),
    ).toEqual([56, 88, 96, 100]);
    expect(bucketLengths(Int32Array.of(512), 512)).toEqual([512]);
  });
});
