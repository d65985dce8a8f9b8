import { describe, expect, test } from "bun:test";
import { parseHeldOut, splitHeldOut } from "../../src/data/samples/held-out.ts";
import { createSampleStore, type FileSamples, type SampleSet } from "../../src/data/samples/sample-store.ts";
import { createRandom } from "../../src/base/random.ts";
import { userError } from "../hf/temp.ts";

/** `examples` examples of one to three samples of random lengths, some tokens masked. */
function makeFile(name: string, examples: number): FileSamples {
  const random = createRandom(1, name);
  const store = createSampleStore((number) => `${name}:${number}`);
  for (let number = 1; number <= examples; number++) {
    for (let part = random.below(3); part >= 0; part--) {
      const ids = Int32Array.from({ length: 2 + random.below(6) }, () => random.below(50));
      store.add({ ids, labels: ids.map((id, t) => (t > 0 && random.below(3) === 0 ? -100 : id)), weights: null }, number);
    }
  }
  return store.finish();
}

const samplesOf = (set: SampleSet) => Array.from({ length: set.count }, (_, i) => set.sample(i));
const places = (sets: readonly SampleSet[]) => new Set(sets.flatMap((set) => samplesOf(set).map(({ where }) => where)));

describe("amounts", () => {
  test.each([
    ["5%", { share: 0.05 }],
    ["0.05", { share: 0.05 }],
    [".5", { share: 0.5 }],
    ["12.5%", { share: 0.125 }],
    ["200", { count: 200 }],
    ["1", { count: 1 }],
    ["0", { count: 0 }],
    ["0%", { share: 0 }],
    ["valid.jsonl", null],
    ["5", { count: 5 }],
    ["5 files", null],
    ["./5", null],
  ] as const)("%s", (text, expected) => expect(parseHeldOut(text)).toEqual(expected));

  test.each(["1.5", "100%", "250%"])("%s is refused", (text) =>
    expect(userError(() => parseHeldOut(text))).toStartWith(`--valid ${text}: expected a share below 100%`),
  );
});

describe("a split", () => {
  const files = [makeFile("a", 40), makeFile("b", 60)];

  test("takes whole examples, as many as were asked for, and leaves the others; sums of tokens and labels stay", () => {
    for (const [amount, count] of [
      [{ share: 0.25 }, 25],
      [{ count: 7 }, 7],
      [{ share: 0.001 }, 1],
      [{ count: 99 }, 99],
    ] as const) {
      const { train, valid, first } = splitHeldOut(files, amount, 3);
      expect(places(valid!).size).toBe(count);
      expect(places(train).size).toBe(100 - count);
      expect(places([...train, ...valid!])).toEqual(places(files));
      files.forEach((file, i) => {
        const both = [train[i]!, valid![i]!];
        expect(both.flatMap(samplesOf).length).toBe(file.count);
        for (const key of ["count", "tokens", "labelled"] as const) expect(both[0]![key] + both[1]![key]).toBe(file[key]);
        for (const set of both) {
          const samples = samplesOf(set);
          expect(samples.map(({ ids }) => ids.length)).toEqual([...set.lengths]);
          const labelled = samples.flatMap(({ labels }) => [...labels.subarray(1)].filter((label) => label >= 0));
          expect(set.labelled).toBe(labelled.length);
        }
        // The order of the data.
        const numbers = samplesOf(valid![i]!).map(({ where }) => Number(where.split(":")[1]));
        expect(numbers).toEqual([...numbers].sort((a, b) => a - b));
      });
      const earliest = valid!.findIndex((set) => set.count > 0);
      expect(`${"ab"[first!.file]}:${first!.number}`).toBe(valid![earliest]!.sample(0).where);
    }
  });

  test("is decided by the seed", () => {
    const held = (seed: number) => [...places(splitHeldOut(files, { count: 10 }, seed).valid!)];
    expect(held(1)).toEqual(held(1));
    expect(held(1)).not.toEqual(held(2));
  });

  test("nothing held out; nothing left", () => {
    expect(splitHeldOut(files, { count: 0 }, 1)).toEqual({ train: files, valid: null, first: null });
    expect(userError(() => splitHeldOut(files, { count: 100 }, 1))).toContain("100 of the 100 training examples");
    expect(userError(() => splitHeldOut([makeFile("c", 1)], { share: 0.01 }, 1))).toContain("none be left to train on");
  });
});
