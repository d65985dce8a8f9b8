import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { loadSamples } from "../../src/data/dataset.ts";
import { createSampler } from "../../src/data/sample.ts";
import { createSampleStore, type SampleSet } from "../../src/data/sample-store.ts";
import { cachedSamples, contentKey, openTokenCache, writeTokenCache, type NumberedSample } from "../../src/data/token-cache.ts";
import { loadTokenizer } from "../../src/data/tokenizer.ts";
import { createRandom } from "../../src/random.ts";
import { filesIn, fullDisk, temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tokenizer = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/smollm"));
const sampler = createSampler(tokenizer, { maxLength: 1000, vocabSize: tokenizer.size });
const place = (number: number) => `f:${number}`;

function randomSamples(count: number, longest: number): NumberedSample[] {
  const random = createRandom(1);
  return Array.from({ length: count }, (_, i) => {
    const ids = Int32Array.from({ length: 1 + random.below(longest) }, () => random.below(150_000));
    return { sample: { ids, labels: ids.map((id) => (random.below(3) === 0 ? -100 : id)) }, number: 2 * i + 1 };
  });
}

function memorySet(samples: readonly NumberedSample[]): SampleSet {
  const store = createSampleStore(place);
  for (const { sample, number } of samples) store.add(sample, number);
  return store.finish();
}

function expectSame(a: SampleSet, b: SampleSet): void {
  expect([a.count, a.tokens, a.labelled]).toEqual([b.count, b.tokens, b.labelled]);
  expect(a.lengths).toEqual(b.lengths);
  for (let i = 0; i < a.count; i++) expect(a.sample(i)).toEqual(b.sample(i));
}

describe("samples come back as they were", () => {
  test("from memory, across blocks of a million tokens", () => {
    const samples = randomSamples(30, 200_000);
    const set = memorySet(samples);
    samples.forEach(({ sample, number }, i) => expect(set.sample(i)).toEqual({ ...sample, where: `f:${number}` }));
    expect(set.tokens).toBeGreaterThan(2 << 20);
  });

  test("from a cache file, with samples longer than its chunks", () => {
    const samples = [...randomSamples(500, 50), ...randomSamples(3, 900_000)];
    const path = join(folder, "many.tokens");
    writeTokenCache(path, samples);
    expectSame(openTokenCache(path, place)!, memorySet(samples));
  });

  test("a file gives the same with and without a cache, the second time without tokenizing", () => {
    const path = join(folder, "data.jsonl");
    writeFileSync(path, Array.from({ length: 50 }, (_, i) => `{"text":"The river number ${i}"}\n\n`).join(""));
    const plain = loadSamples(path, sampler);
    expect(plain.sample(49).where).toBe(`${path}:99`);
    const cache = join(folder, "cache");
    expectSame(loadSamples(path, sampler, cache), plain);
    const refuse = {
      ...sampler,
      samples: () => {
        throw new Error("tokenized again");
      },
    };
    expectSame(loadSamples(path, refuse, cache), plain);
    expect(filesIn(cache)).toHaveLength(1);
    writeFileSync(path, '{"text":"another"}');
    expect(() => loadSamples(path, refuse, cache)).toThrow("tokenized again");
    const other = createSampler(tokenizer, { maxLength: 999, vocabSize: tokenizer.size });
    expect(contentKey(path, other.key)).not.toBe(contentKey(path, sampler.key));
  });
});

describe("caches that cannot be used", () => {
  const samples = randomSamples(40, 30);

  test("a file cut at any length, or of other bytes, is made anew", () => {
    const path = join(folder, "cut.tokens");
    writeTokenCache(path, samples);
    const whole = readFileSync(path);
    for (let length = 0; length < whole.length; length += 13) {
      const fd = openSync(path, "w");
      writeSync(fd, whole);
      ftruncateSync(fd, length);
      closeSync(fd);
      expect(openTokenCache(path, place)).toBeNull();
    }
    expectSame(
      cachedSamples(path, () => samples, place),
      memorySet(samples),
    );
    writeFileSync(path, Buffer.concat([Buffer.from([0]), whole]));
    expect(openTokenCache(path, place)).toBeNull();
  });

  test("a full disk and a bad example leave nothing behind", () => {
    const path = join(folder, "full.tokens");
    expect(userError(() => writeTokenCache(path, samples, fullDisk(1000)))).toContain("disk is full");
    const bad = join(folder, "bad.jsonl");
    writeFileSync(bad, '{"text":"a b c d e f g"}\n{"text":""');
    const cache = join(folder, "cache-of-bad");
    expect(userError(() => loadSamples(bad, sampler, cache))).toStartWith(`${bad}:2 is not valid JSON`);
    expect(filesIn(cache)).toEqual([]);
    expect(filesIn(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("a cache folder that cannot be written to: tokens stay in memory", () => {
    const path = join(folder, "small.jsonl");
    writeFileSync(path, '{"text":"a b c d e f g"}');
    expectSame(loadSamples(path, sampler, join(path, "cache")), loadSamples(path, sampler));
    writeFileSync(path, "\n\n");
    expect(userError(() => loadSamples(path, sampler))).toContain("holds no examples");
  });
});
