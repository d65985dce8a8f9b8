import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { isRecord } from "../../../src/base/json.ts";
import { createTokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { configOf } from "../../../src/gguf/folder/config.ts";
import { tokenizerOf } from "../../../src/gguf/folder/tokenizer.ts";
import { type GgufFile, type GgufTensor, type GgufValue, readGguf } from "../../../src/gguf/read/container.ts";
import { exportGguf } from "../../../src/library/export-gguf.ts";
import { parseConfig } from "../../../src/models/families/index.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { fuzz, INPUTS, mutateJson } from "../../support/fuzz.ts";
import { writeGgufDecoder } from "../../support/gguf-decoders.ts";

setDefaultTimeout(120_000);

const home = temporaryFolder();

/** What a file says, its numbers as JSON has them. */
interface Said {
  readonly metadata: Readonly<Record<string, GgufValue>>;
  readonly tensors: Readonly<Record<string, Pick<GgufTensor, "shape" | "type">>>;
  readonly factors: readonly number[];
}

async function said(name: string, more: object): Promise<string> {
  const model = writeGgufDecoder(join(home, name), name, { ...more });
  const { out } = await exportGguf({ model, out: join(home, `${name}.gguf`), type: "f32" });
  const { metadata, tensors } = readGguf(out);
  const shapes = [...tensors].map(([key, { shape, type }]) => [key, { shape, type }] as const);
  // Most of a vocabulary is of no more interest than the others.
  const short = [...metadata].map(([key, value]) => [key, Array.isArray(value) ? value.slice(0, 300) : value] as const);
  return JSON.stringify({ metadata: Object.fromEntries(short), tensors: Object.fromEntries(shapes), factors: [1, 2, 8] });
}

const LLAMA = { architectures: ["LlamaForCausalLM"], model_type: "llama" };
const MODELS = { llama: LLAMA, "gpt-oss": {}, "lfm2-moe": {}, "qwen3.5": {} };
const seeds = await Promise.all(Object.entries(MODELS).map(([name, more]) => said(name, more)));

function read(text: string): void {
  let given: unknown;
  try {
    given = JSON.parse(text);
  } catch {
    return;
  }
  if (!isRecord(given) || !isRecord(given["metadata"]) || !isRecord(given["tensors"])) return;
  const { metadata, tensors, factors } = given as unknown as Said;
  const isTensor = ([, tensor]: readonly [string, unknown]) =>
    isRecord(tensor) && Array.isArray(tensor["shape"]) && tensor["shape"].every((dim) => Number.isSafeInteger(dim) && dim > 0);
  const file = {
    path: "m.gguf",
    files: ["m.gguf"],
    // A file's values have no null and no objects.
    metadata: new Map(Object.entries(metadata).filter(([, value]) => !isRecord(value) && value !== null)),
    tensors: new Map(Object.entries(tensors).filter(isTensor)) as unknown as GgufFile["tensors"],
  } satisfies GgufFile;
  const { config, generation } = configOf(file, (name) =>
    name === "rope_freqs.weight" && Array.isArray(factors) && factors.every(Number.isFinite) ? Float32Array.from(factors) : null,
  );
  parseConfig(config, "m.gguf", generation);
  createTokenizer(tokenizerOf(file).tokenizer);
}

test("metadata of any content is read or refused", async () => {
  for (const seed of seeds) read(seed.replace('"factors":[1,2,8]', '"factors":null'));
  const counts = await fuzz(
    "gguf metadata",
    (random) => mutateJson(random, seeds[Math.floor(random.uniform() * seeds.length)]!),
    read,
  );
  expect(counts.read + counts.refused).toBe(INPUTS);
  expect(counts.read).toBeGreaterThan(INPUTS / 50);
  expect(counts.refused).toBeGreaterThan(INPUTS / 10);
});
