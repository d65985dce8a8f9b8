import { expect, setDefaultTimeout, test } from "bun:test";
import { createBatches } from "../../src/data/samples/batch.ts";
import { mixSamples, samplesPerEpoch } from "../../src/data/samples/mix.ts";
import { createSampleStore, type SampleSet } from "../../src/data/samples/sample-store.ts";

setDefaultTimeout(120_000);

/** `count` samples of three tokens `first + i`, named `name:i`. */
function makeSet(name: string, count: number, first: number): SampleSet {
  const store = createSampleStore((number) => `${name}:${number}`);
  for (let i = 0; i < count; i++) {
    const ids = new Int32Array(3).fill(first + i);
    store.add({ ids, labels: ids, weights: null }, i);
  }
  return store.finish();
}

const counts = (values: readonly number[]) => {
  const seen = new Map<number, number>();
  for (const value of values) seen.set(value, (seen.get(value) ?? 0) + 1);
  return seen;
};

test("samples keep their places; whole weights repeat, fractions take turns until all were used once", () => {
  const sources = [
    { set: makeSet("a", 3, 100), weight: 2 },
    { set: makeSet("b", 8, 200), weight: 0.25 },
    { set: makeSet("c", 1, 300), weight: 1 },
  ];
  const mixed = mixSamples(sources);
  expect(samplesPerEpoch(sources)).toBe(9);
  expect([mixed.count, mixed.tokens, mixed.labelled]).toEqual([12, 36, 24]);
  expect([0, 2, 3, 10, 11].map((i) => mixed.sample(i).where)).toEqual(["a:0", "a:2", "b:0", "b:7", "c:0"]);
  const ofB: number[] = [];
  for (let epoch = 0; epoch < 4; epoch++) {
    const drawn = [...mixed.draw!(epoch, 5)];
    expect(drawn).toHaveLength(samplesPerEpoch(sources));
    expect(drawn).toEqual([...mixed.draw!(epoch, 5)]);
    const seen = counts(drawn);
    expect([0, 1, 2, 11].map((i) => seen.get(i))).toEqual([2, 2, 2, 1]);
    ofB.push(...drawn.filter((i) => i >= 3 && i < 11));
  }
  expect(ofB.sort((a, b) => a - b)).toEqual([3, 4, 5, 6, 7, 8, 9, 10]);
});

test("batches go through what the epoch draws, packed and padded", () => {
  const mixed = mixSamples([
    { set: makeSet("a", 5, 100), weight: 1.4 },
    { set: makeSet("b", 10, 200), weight: 0.5 },
  ]);
  for (const packing of [true, false]) {
    const batches = createBatches(mixed, { rows: 2, rowLength: 8, packing, seed: 5, shuffle: true, padId: 0 });
    for (const epoch of [0, 1]) {
      const ids = Array.from({ length: batches.count(epoch) }, (_, i) => batches.batch(epoch, i)).flatMap(({ ids, positions }) =>
        Array.from(ids).filter((id, t) => id > 0 && positions[t] === 0),
      );
      expect(ids.sort((a, b) => a - b)).toEqual(
        [...mixed.draw!(epoch, 5)].map((i) => mixed.sample(i).ids[0]!).sort((a, b) => a - b),
      );
    }
  }
});

test("a weight that is not above 0 is refused", () => {
  for (const weight of [0, -1, NaN, Infinity])
    expect(() => mixSamples([{ set: makeSet("a", 1, 1), weight }])).toThrow("must be above 0");
});
