import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { closeSync, ftruncateSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { loadSamples } from "../../src/data/samples/prepare.ts";
import { createSampleMaker } from "../../src/data/samples/sample-maker.ts";
import { createSampleStore, type SampleSet, type SampleSink, type StoredSample } from "../../src/data/samples/sample-store.ts";
import { createTokenCache, openTokenCache } from "../../src/data/samples/token-cache.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { createRandom } from "../../src/base/random.ts";
import type { FileIo } from "../../src/base/files/files.ts";
import { filesIn, fullDisk, rejection, temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const tokenizer = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/smollm"));
const maker = createSampleMaker(tokenizer, { maxLength: 1000, vocabSize: tokenizer.size });
const place = (number: number) => `f:${number}`;

interface NumberedSample {
  readonly sample: StoredSample;
  readonly number: number;
}

function randomSamples(count: number, longest: number): NumberedSample[] {
  const random = createRandom(1);
  return Array.from({ length: count }, (_, i) => {
    const ids = Int32Array.from({ length: 1 + random.below(longest) }, () => random.below(150_000));
    const labels = ids.map((id) => (random.below(3) === 0 ? -100 : id));
    // One in three has weights, in runs, all of them 1 now and then.
    let weight = 1;
    const weights =
      i % 3 > 0 ? null : Float32Array.from(ids, () => (random.below(5) === 0 ? (weight = random.below(8) / 3) : weight));
    return { sample: { ids, labels, weights: weights?.some((value) => value !== 1) ? weights : null }, number: 2 * i + 1 };
  });
}

function fill(sink: SampleSink, samples: readonly NumberedSample[]): SampleSet {
  for (const { sample, number } of samples) sink.add(sample, number);
  return sink.finish();
}

const memorySet = (samples: readonly NumberedSample[]) => fill(createSampleStore(place), samples);
const writeCache = (path: string, samples: readonly NumberedSample[], io?: FileIo) =>
  fill(createTokenCache(path, place, io), samples);

function expectSame(a: SampleSet, b: SampleSet): void {
  expect([a.count, a.tokens, a.labelled, a.weighted]).toEqual([b.count, b.tokens, b.labelled, b.weighted]);
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
    expectSame(writeCache(path, samples), memorySet(samples));
    expectSame(openTokenCache(path, place)!, memorySet(samples));
  });

  test("a file gives the same with and without a cache, the second time without tokenizing", async () => {
    const path = join(folder, "data.jsonl");
    writeFileSync(path, Array.from({ length: 50 }, (_, i) => `{"text":"The river number ${i}"}\n\n`).join(""));
    const plain = await loadSamples(path, maker);
    expect(plain.sample(49).where).toBe(`${path}:99`);
    const cache = join(folder, "cache");
    expectSame(await loadSamples(path, maker, { cache }), plain);
    const refuse = {
      ...maker,
      samples: () => {
        throw new Error("tokenized again");
      },
    };
    expectSame(await loadSamples(path, refuse, { cache }), plain);
    // A cache, and when it was last used.
    expect(filesIn(cache)).toHaveLength(2);
    writeFileSync(path, '{"text":"another"}');
    expect(loadSamples(path, refuse, { cache })).rejects.toThrow("tokenized again");
    const other = createSampleMaker(tokenizer, { maxLength: 999, vocabSize: tokenizer.size });
    await loadSamples(path, maker, { cache });
    await loadSamples(path, other, { cache });
    expect(filesIn(cache)).toHaveLength(6);
  });
});

describe("caches that cannot be used", () => {
  const samples = randomSamples(40, 30);

  test("a file cut at any length, or of other bytes, is made anew", () => {
    const path = join(folder, "cut.tokens");
    writeCache(path, samples);
    const whole = readFileSync(path);
    for (let length = 0; length < whole.length; length += 13) {
      const fd = openSync(path, "w");
      writeSync(fd, whole);
      ftruncateSync(fd, length);
      closeSync(fd);
      expect(openTokenCache(path, place)).toBeNull();
    }
    writeFileSync(path, Buffer.concat([Buffer.from([0]), whole]));
    expect(openTokenCache(path, place)).toBeNull();
  });

  test("a byte that the disk changed anywhere makes it anew", () => {
    const path = join(folder, "damaged.tokens");
    writeCache(path, samples);
    const whole = readFileSync(path);
    expectSame(openTokenCache(path, place)!, memorySet(samples));
    for (let at = 0; at < whole.length; at += 97) {
      const damaged = Buffer.from(whole);
      damaged[at]! ^= 1;
      writeFileSync(path, damaged);
      expect(openTokenCache(path, place)).toBeNull();
    }
  });

  test("a full disk: the tokens stay in memory, and it is said", async () => {
    const path = join(folder, "no-room.jsonl");
    writeFileSync(path, Array.from({ length: 50 }, (_, i) => `{"text":"The river number ${i}"}\n`).join(""));
    const notes: string[] = [];
    const cache = join(folder, "full-cache");
    const options = { cache, io: fullDisk(100), onNote: (note: string) => notes.push(note) };
    expectSame(await loadSamples(path, maker, options), await loadSamples(path, maker));
    expect(notes).toHaveLength(1);
    expect(notes[0]).toMatch(/disk is full.*kept in memory/);
    expect(filesIn(cache)).toEqual([]);
  });

  test("data that are changed while they are read are refused", async () => {
    const path = join(folder, "changing.jsonl");
    writeFileSync(path, '{"text":"a b c"}\n{"text":"d e f"}\n');
    const changing = {
      ...maker,
      samples(...args: Parameters<typeof maker.samples>) {
        writeFileSync(path, '{"text":"a b c"}\n{"text":"x y z"}\n');
        return maker.samples(...args);
      },
    };
    expect(await rejection(loadSamples(path, changing))).toContain("was changed while it was read");
  });

  test("a full disk and a bad example leave nothing behind", async () => {
    const path = join(folder, "full.tokens");
    expect(userError(() => writeCache(path, samples, fullDisk(1000)))).toContain("disk is full");
    const bad = join(folder, "bad.jsonl");
    writeFileSync(bad, '{"text":"a b c d e f g"}\n{"text":""');
    const cache = join(folder, "cache-of-bad");
    expect(await rejection(loadSamples(bad, maker, { cache }))).toStartWith(`${bad}:2 is not valid JSON`);
    expect(filesIn(cache)).toEqual([]);
    expect(filesIn(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("a cache folder that cannot be written to: tokens stay in memory", async () => {
    const path = join(folder, "small.jsonl");
    writeFileSync(path, '{"text":"a b c d e f g"}');
    expectSame(await loadSamples(path, maker, { cache: join(path, "cache") }), await loadSamples(path, maker));
    writeFileSync(path, "\n\n");
    expect(await rejection(loadSamples(path, maker))).toContain("holds no examples");
  });
});
