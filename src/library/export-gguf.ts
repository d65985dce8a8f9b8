import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { expectNoFile, makeFolder, writeTextAtomic } from "../base/files/files.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { stopTokens } from "../generate/generate.ts";
import { readGenerationConfig } from "../generate/sampling.ts";
import { exportAdapter } from "../gguf/adapter.ts";
import { checkEncoder, encoderDifferences, exportEncoder } from "../gguf/encoder.ts";
import { exportModel } from "../gguf/model.ts";
import type { GgufType } from "../gguf/write.ts";
import { modelfile } from "../gguf/modelfile.ts";
import { approximatesGelu, hasWindows, roundsYarn } from "../gguf/names.ts";
import { spaceTaking } from "../gguf/tokenizer.ts";
import { embeddingOf } from "../load/embedder.ts";
import { checkPrediction, type OpenModel, openModel } from "../load/open-model.ts";
import { nameOf } from "../load/text-head.ts";
import { withMerged } from "../hf/peft/merge.ts";
import type { ModelConfig } from "../models/config.ts";
import { contextLimit } from "../models/context.ts";
import { type CallOptions, validateOptions } from "./options.ts";

export const exportGgufOptionsSchema = z.strictObject({
  model: z.string().min(1).optional().describe("model folder, GGUF file or hub name (default: the adapter's base model)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder: merged in, or with --adapter-only written alone"),
  out: z.string().min(1).describe("file to write; NAME.Modelfile for Ollama is written beside NAME.gguf"),
  type: z.enum(["f16", "bf16", "q8_0", "q4_0", "f32"]).default("f16").describe("type of the matrices"),
  adapterOnly: z.boolean().default(false).describe("write the adapter without its base model"),
  overwrite: z.boolean().default(false).describe("replace files that are there"),
});

export type ExportGgufOptions = z.input<typeof exportGgufOptionsSchema>;

export interface ExportGgufResult {
  /** The GGUF file, and the Modelfile for Ollama beside it. */
  readonly out: string;
  readonly modelfile: string;
  readonly type: z.output<typeof exportGgufOptionsSchema>["type"];
  readonly content: "model" | "merged model" | "adapter";
}

/**
 * Writes a model for llama.cpp and Ollama, with its tokenizer and chat template, an adapter merged in or alone; of text encoders BERT, RoBERTa and XLM-RoBERTa, for embeddings or as they judge texts.
 * @throws {UserError} files that are in the way, a model that llama.cpp does not know
 */
export async function exportGguf(
  options: ExportGgufOptions,
  { sink = () => {} }: Pick<CallOptions, "sink"> = {},
): Promise<ExportGgufResult> {
  const { out, type, adapterOnly, overwrite, ...named } = validateOptions(exportGgufOptionsSchema, options);
  // A folder may hold several models.
  const companion = join(dirname(out), `${basename(out, ".gguf")}.Modelfile`);
  for (const path of [out, companion]) expectNoFile(path, overwrite);
  const note = (text: string) => sink({ type: "note", text });
  const model = await openModel(named, { onNote: note, check: "fresh", predicts: "anything" });
  try {
    const { config, tokenizer, adapter } = model;
    if (adapterOnly && adapter === null) throw new UserError("--adapter-only needs --adapter");
    if (config.encoder === null) checkPrediction(config, nameOf(model));
    else checkEncoder(model);
    makeFolder(dirname(out));
    if (config.encoder) {
      if (adapterOnly)
        throw new UserError("--adapter-only: llama.cpp takes no adapters of a text encoder; leave it away to merge it in");
      writeEncoder(out, model, type);
      encoderDifferences(model).forEach(note);
      writeTextAtomic(companion, `FROM ./${basename(out)}\n`);
      return { out, modelfile: companion, type, content: adapter ? "merged model" : "model" };
    }
    if (adapterOnly) exportAdapter(out, adapter!, config, type);
    else exportModel(out, model, type);
    const ids = stopTokens(config, tokenizer);
    const stop = [...tokenizer.addedTokens].filter(([, id]) => ids.has(id)).map(([token]) => token);
    const file = `./${basename(out)}`;
    const { values: sampling } = readGenerationConfig(model.folder);
    const [from, alone] = adapterOnly ? [model.folder, file] : [file, null];
    writeTextAtomic(companion, modelfile(from, alone, tokenizer, stop, sampling));
    differences(config, tokenizer).forEach(note);
    return { out, modelfile: companion, type, content: adapterOnly ? "adapter" : adapter ? "merged model" : "model" };
  } finally {
    model.close();
  }
}

/** Writes a text encoder, with its head for texts, or with the pooling that its folder says, or the usual one. */
function writeEncoder(out: string, model: OpenModel, type: GgufType): void {
  const { folder, config, tokenizer, adapter, classifier } = model;
  const gives = classifier ? { classifier } : { pooling: embeddingOf(model).pooling };
  withMerged({ base: folder, adapter: adapter && dirname(adapter.path), beside: out }, ({ source }) =>
    exportEncoder(out, { folder, config, tokenizer, source, gives }, type),
  );
}

/** Returns what llama.cpp does otherwise, though not so much that it could not be used. */
function differences(config: ModelConfig, tokenizer: Tokenizer): string[] {
  const { slidingWindow } = config;
  const found: string[] = [];
  if (slidingWindow !== null && !hasWindows(config) && contextLimit(config) > slidingWindow)
    found.push(`llama.cpp lets every token see the whole text; this model sees ${slidingWindow} tokens, so keep to that length`);
  if (approximatesGelu(config)) found.push("llama.cpp approximates GELU by tanh; this model does not");
  if (roundsYarn(config))
    found.push(
      "llama.cpp rounds the dimensions between which YaRN goes from original to interpolated positions; this model does not",
    );
  if (spaceTaking(tokenizer) === "unknown")
    found.push("llama.cpp keeps white space behind special tokens, which this tokenizer takes away: begin no message with any");
  return found;
}
