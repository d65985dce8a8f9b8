/** Text from a model, drawn from its distribution: shows what it has learned better than its likeliest words do. */
import type { Tokenizer } from "../../src/data/tokens/tokenizer.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import { createEngine, type Engine } from "../../src/train/step/engine.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";

const LENGTH = 96;

/** Continues each prompt to at most 96 tokens, prompt included, or to the end of the text. */
export async function sampleTexts(
  folder: string,
  prompts: readonly string[],
  temperature: number,
  seed: number,
): Promise<string[]> {
  const executor = await createWasmExecutor();
  const source = openSafetensors(folder);
  try {
    const config = loadConfig(folder);
    const tokens = [LENGTH];
    const engine = createEngine(executor, {
      config,
      source,
      tuning: { method: "full" },
      strategy: { name: "per-segment" },
      tokens,
      logits: { tokens, rows: 1 },
      optimizer: null,
    });
    const tokenizer = loadTokenizer(folder);
    return prompts.map((prompt) => continueText(engine, tokenizer, prompt, temperature, createRandom(seed, prompt)));
  } finally {
    source.close();
    executor.close();
  }
}

function continueText(engine: Engine, tokenizer: Tokenizer, prompt: string, temperature: number, random: Random): string {
  const ids = [...tokenizer.prefix, ...tokenizer.encode(prompt)];
  const start = ids.length;
  while (ids.length < LENGTH) {
    const next = draw(engine.logits(padded(ids), Int32Array.of(ids.length - 1)), temperature, random);
    if (engine.config.eosTokenIds.includes(next)) break;
    ids.push(next);
  }
  return ids.length === start ? "" : tokenizer.decode(ids.slice(start));
}

function padded(ids: readonly number[]) {
  const own = (t: number) => t < ids.length;
  return {
    ids: Int32Array.from({ length: LENGTH }, (_, t) => ids[t] ?? 0),
    labels: new Int32Array(LENGTH).fill(-100),
    starts: Int32Array.from({ length: LENGTH }, (_, t) => (own(t) ? 0 : t)),
    positions: Int32Array.from({ length: LENGTH }, (_, t) => (own(t) ? t : 0)),
  };
}

/** An index with probability proportional to exp(logit / temperature). */
function draw(logits: Float32Array, temperature: number, random: Random): number {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const weights = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  let left = random.uniform() * weights.reduce((a, b) => a + b);
  const index = weights.findIndex((weight) => (left -= weight) < 0);
  return index < 0 ? weights.length - 1 : index;
}
