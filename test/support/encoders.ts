import { copyFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { makeFolder } from "../../src/base/files/files.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { collectParams } from "../../src/runtime/resident.ts";
import { root } from "./cli.ts";
import { writeRandomWeights } from "./random-weights.ts";

/** A random encoder with a tokenizer of the fixtures. */
export function writeRandomEncoder(path: string, config: Record<string, unknown>, tokenizer: string): string {
  makeFolder(path);
  writeFileSync(join(path, "config.json"), JSON.stringify(config));
  const options = { tokens: 1, tuning: { method: "full" }, weightType: () => "f32" as const } as const;
  const model = parseConfig(config);
  const judging = { ...model, textHead: model.textHead ?? { outputs: 2, padId: null } };
  const segments = model.encoder!.predictsTokens
    ? buildSegments(model, options)
    : buildSegments(judging, { ...options, head: "logits", texts: 1 });
  // Unless the class has it, what judges texts is not there yet.
  const isThere = (parameter: string) => model.textHead !== null || !/^(head|classifier)\./.test(parameter);
  const params = collectParams(segments).filter(({ name: parameter }) => isThere(parameter));
  writeRandomWeights(path, params, () => 1);
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(root, "test/golden/encoder_tokenizers", tokenizer, file), join(path, file));
  return path;
}

/** A random BERT of two small blocks, which hides and predicts tokens. */
export const writeTinyBert = (path: string): string =>
  writeRandomEncoder(
    path,
    {
      architectures: ["BertForMaskedLM"],
      model_type: "bert",
      vocab_size: 800,
      hidden_size: 16,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      intermediate_size: 24,
      max_position_embeddings: 96,
      torch_dtype: "float32",
    },
    "bert-uncased",
  );
