import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { adapterTuning, writeAdapterWeights } from "../../src/load/adapter.ts";
import { createDecoder, createDecoders } from "../../src/generate/open-decoder.ts";
import { generate, generateAll } from "../../src/generate/generate.ts";
import { argmax, createSampler, GREEDY, type Sampler } from "../../src/generate/sampler.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openAdapter } from "../../src/hf/peft/peft.ts";
import { createRandom } from "../../src/base/random.ts";
import { createWasmExecutor, type WasmExecutor } from "../../src/wasm/executor.ts";
import { fullForward } from "../support/full-forward.ts";
import { adapterFolder, FAMILIES, modelFolder, relativeError } from "../support/golden.ts";
import { combinations, SLOW, some, THREADS } from "../support/slow.ts";

setDefaultTimeout(120_000);

const closers: (() => void)[] = [];
afterEach(() => closers.splice(0).forEach((close) => close()));

/** Decoder and full forward pass of the same model. */
async function pair(folder: string, adapterPath: string | null, tokens: number) {
  const config = loadConfig(folder);
  const source = openModelWeights(folder, config);
  const adapter = adapterPath === null ? null : openAdapter(adapterPath, config);
  const executor = await createWasmExecutor({ threads: THREADS });
  closers.push(() => (executor.close(), source.close(), adapter?.source.close()));
  const tuning = adapterTuning(adapter, config);
  const full = fullForward(executor, config, source, tuning, tokens);
  if (adapter) writeAdapterWeights({ executor, resident: full.resident, streamed: null, source, config, tuning }, adapter);
  return { config, full, decoder: createDecoder(executor, { config, source, adapter, maxTokens: tokens }) };
}

/** Greedy, until the text has `length` tokens. */
function continued(prompt: readonly number[], length: number, logits: (ids: readonly number[]) => Float32Array): number[] {
  const ids = [...prompt];
  while (ids.length < length) ids.push(argmax(logits(ids)));
  return ids;
}

function randomIds(seed: number, count: number, vocab: number): number[] {
  const random = createRandom(seed);
  return Array.from({ length: count }, () => random.below(vocab));
}

describe("decoding with a cache gives the tokens of full forward passes", () => {
  for (const family of FAMILIES) {
    for (const adapted of some([true, false], 1)) {
      test(`${family}${adapted ? " with its adapter" : ""}; logits within a relative 1e-5`, async () => {
        const { config, full, decoder } = await pair(modelFolder(family), adapted ? adapterFolder(family) : null, 64);
        for (const count of SLOW ? [1, 2, 30] : [1, 30]) {
          const prompt = randomIds(count, count, config.vocabSize);
          expect(relativeError(decoder.feed(prompt), full.logits(prompt))).toBeLessThan(1e-5);
          const expected = continued(prompt, count + 16, full.logits);
          expect(continued(prompt, count + 16, decoder.feed)).toEqual(expected);
        }
      });
    }
  }

  test("the bundled model, prompts longer than a chunk", async () => {
    const { config, full, decoder } = await pair(join(import.meta.dir, "../../recipes/base/model"), null, 256);
    for (const count of SLOW ? [150, 128, 129] : [150]) {
      const prompt = randomIds(count, count, config.vocabSize);
      const length = count + (SLOW ? 24 : 8);
      expect(continued(prompt, length, decoder.feed)).toEqual(continued(prompt, length, full.logits));
    }
  });
});

describe("the text in the cache", () => {
  test.each(["llama", "lfm2", "qwen3.5"] as const)(
    "%s: another text keeps what it shares with the last one, and gives what a fresh decoder gives",
    async (family) => {
      const { config, full, decoder } = await pair(modelFolder(family), null, 64);
      const [a, b] = [randomIds(1, 40, config.vocabSize), randomIds(2, 30, config.vocabSize)];
      decoder.feed(a);
      for (const text of [[...a.slice(0, 20), ...b], a.slice(0, 33), a.slice(0, 33), b]) {
        expect(relativeError(decoder.feed(text), full.logits(text))).toBeLessThan(1e-5);
        expect(decoder.ids).toEqual(text);
      }
    },
  );

  test("a text that grows longer than LongRoPE's limit, and a shorter one after it, are computed anew", async () => {
    const { config, full, decoder } = await pair(modelFolder("phi4-mini"), null, 64);
    const text = randomIds(3, 20, config.vocabSize);
    for (const length of [11, 12, 13, 20, 12, 9, 14]) {
      const part = text.slice(0, length);
      expect(relativeError(decoder.feed(part), full.logits(part))).toBeLessThan(1e-5);
      expect(decoder.ids).toEqual(part);
    }
  });

  test("a text that has no room is refused; generation ends where the room ends", async () => {
    const { config, decoder } = await pair(modelFolder("qwen3"), null, 20);
    expect(() => decoder.feed(randomIds(1, 21, config.vocabSize))).toThrow(/21 tokens, more than the 20/);
    expect(() => decoder.feed([])).toThrow(/no tokens/);
    const options = { limit: 100, stop: new Set<number>(), sampler: createSampler(GREEDY) };
    expect([...generate(decoder, [1, 2, 3, 4, 5], options)].length).toBe(16);
    expect([...generate(decoder, [1, 2, 3], { ...options, limit: 4 })].length).toBe(4);
    expect(() => [...generate(decoder, randomIds(1, 25, 50), options)]).toThrow(/more than the 20/);
  });
});

describe("many prompts: the tokens of each are those of a new decoder, to the bit of the logits", () => {
  /** The tokens of each prompt, and all logits that they were chosen by, in the order of the prompts. */
  function answers(
    folder: string,
    executor: WasmExecutor,
    prompts: readonly (readonly number[])[],
    options: { readonly decoders: number; readonly temperature: number },
  ) {
    const config = loadConfig(folder);
    const source = openModelWeights(folder, config);
    const maxTokens = Math.max(...prompts.map(({ length }) => length)) + 12;
    const seen: string[][] = prompts.map(() => []);
    const optionsOf = (prompt: number) => {
      const sampler = createSampler({ ...GREEDY, temperature: options.temperature, seed: prompt });
      const recorded: Sampler = (logits, text) => {
        seen[prompt]!.push(Bun.hash(logits).toString());
        return sampler(logits, text);
      };
      // Answers of many lengths, one stop token among them.
      return { limit: 3 + ((7 * prompt) % 17), stop: new Set([5]), sampler: recorded };
    };
    const ids: (readonly number[])[] = [];
    if (options.decoders === 0) {
      const decoder = createDecoder(executor, { config, source, maxTokens });
      prompts.forEach((prompt, i) => {
        decoder.startAnew([-1]);
        ids[i] = [...generate(decoder, prompt, optionsOf(i))];
      });
    } else {
      const decoders = createDecoders(executor, { config, source, maxTokens }, options.decoders);
      for (const ended of generateAll(decoders, prompts, optionsOf)) if (ended) ids[ended[0]] = ended[1];
    }
    source.close();
    return { ids, seen };
  }

  test.each(
    SLOW
      ? (["llama", "gemma3", "phi4-mini", "qwen3", "lfm2", "lfm2-moe", "qwen3.5"] as const)
      : (["llama", "phi4-mini", "qwen3.5"] as const),
  )("%s, by 1, 3 and 8 decoders, on 1 and 2 threads", async (family) => {
    const folder = modelFolder(family);
    const { vocabSize } = loadConfig(folder);
    const system = randomIds(1, 9, vocabSize);
    const prompts = Array.from({ length: 11 }, (_, i) => [
      ...(i % 3 ? system : []),
      ...randomIds(i, 1 + ((5 * i) % 13), vocabSize),
    ]);
    const [one, two] = await Promise.all([1, 2].map((threads) => createWasmExecutor({ threads })));
    closers.push(() => (one!.close(), two!.close()));
    const expected = [0, 1].map((temperature) => answers(folder, one!, prompts, { decoders: 0, temperature }));
    for (const [decoders, temperature] of combinations([1, 3, 8], [0, 1])) {
      const executor = decoders === 3 ? one! : two!;
      expect(answers(folder, executor, prompts, { decoders, temperature })).toEqual(expected[temperature]!);
    }
  });

  test("the bundled model, prompts with a common beginning of more than a chunk", async () => {
    const folder = join(import.meta.dir, "../../recipes/base/model");
    const { vocabSize } = loadConfig(folder);
    const system = randomIds(1, 140, vocabSize);
    const prompts = Array.from({ length: 5 }, (_, i) => [...system, ...randomIds(i, 3 * i, vocabSize)]);
    const executor = await createWasmExecutor({ threads: THREADS });
    closers.push(() => executor.close());
    const expected = answers(folder, executor, prompts, { decoders: 0, temperature: 1 });
    for (const decoders of [1, 2]) expect(answers(folder, executor, prompts, { decoders, temperature: 1 })).toEqual(expected);
  });
});
