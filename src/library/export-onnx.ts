import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { writeChecksums } from "../base/files/checksums.ts";
import { UserError } from "../base/errors.ts";
import { copyAtomic, makeFolder, writeTextAtomic } from "../base/files/files.ts";
import { expectFree, writeFolder } from "../base/files/folders.ts";
import { readJsonObject } from "../base/json.ts";
import { flagName } from "../base/names.ts";
import { EMBEDDER_FILES } from "../hf/config/embeddings.ts";
import { withMerged } from "../hf/peft/merge.ts";
import { denseFiles, withDense } from "../hf/weights/dense.ts";
import { copyCompanions } from "../hf/weights/model-folder.ts";
import { embeddingOf } from "../load/embedder.ts";
import { openModel } from "../load/open-model.ts";
import { nameOf } from "../load/text-head.ts";
import type { DenseLayer } from "../models/config.ts";
import { familyOf } from "../models/families/index.ts";
import { openEncoder } from "../portable/encoder.ts";
import { writeOpenModel } from "../portable/write.ts";
import { type CallOptions, validateOptions } from "./options.ts";
import { EMBEDDING_OPTIONS } from "./texts/embed.ts";

export const exportOnnxOptionsSchema = z.strictObject({
  model: z.string().min(1).optional().describe("model folder, GGUF file or hub name (default: the adapter's base model)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder, merged in"),
  out: z.string().min(1).describe("folder to write, which is new or empty"),
  ...EMBEDDING_OPTIONS,
});

export type ExportOnnxOptions = z.input<typeof exportOnnxOptionsSchema>;

export interface ExportOnnxResult {
  readonly out: string;
  /** Names of what the model gives: `logits`, or `last_hidden_state` and `sentence_embedding`. */
  readonly outputs: readonly string[];
}

/** The file of the model within the folder, where transformers.js and sentence-transformers look for it. */
const ONNX_FILE = "onnx/model.onnx";

/**
 * Writes a text encoder for ONNX Runtime and transformers.js: one file with its weights, for any number of texts of any length, beside its configuration and
 * tokenizer. An adapter is merged in. The folder appears whole or not at all.
 * @throws {UserError} a model that is no encoder, a folder in use, more than 2 GiB of weights
 */
export async function exportOnnx(
  options: ExportOnnxOptions,
  { sink = () => {} }: Pick<CallOptions, "sink"> = {},
): Promise<ExportOnnxResult> {
  const { out, model: name, adapter: asked, ...wishes } = validateOptions(exportOnnxOptionsSchema, options);
  expectFree(out, "the exported model");
  const onNote = (text: string) => sink({ type: "note", text });
  const model = await openModel({ model: name, adapter: asked }, { onNote, check: "fresh", predicts: "anything" });
  try {
    const { config, adapter } = model;
    if (config.encoder === null)
      throw new UserError(
        `${nameOf(model)} generates text, which ONNX files are not written for; expected a text encoder such as a BERT, or export gguf`,
      );
    const [wish] = Object.keys(wishes).filter((key) => wishes[key as keyof typeof wishes] !== undefined);
    if (config.textHead && wish !== undefined)
      throw new UserError(`${flagName(wish)} is for embeddings; ${nameOf(model)} judges whole texts`);
    const embedding = config.textHead ? null : embeddingOf(model, wishes);
    const dense = embedding?.dense ?? [];
    const opened = openEncoder(config, embedding);
    const own = adapter && dirname(adapter.path);
    withMerged({ base: model.folder, adapter: own, beside: out }, ({ folder, source }) =>
      writeFolder(resolve(out), (draft) => {
        const embedder = copyEmbedder(own, model.folder, dense, draft);
        const files = [...copyCompanions(folder, draft), ...embedder];
        const { tokenizerClass } = familyOf(config);
        if (tokenizerClass !== undefined) nameTokenizer(draft, tokenizerClass);
        makeFolder(dirname(join(draft, ONNX_FILE)));
        const whole = withDense({ ...source, close: () => {} }, model.folder, dense);
        try {
          writeOpenModel(join(draft, ONNX_FILE), opened, whole);
        } finally {
          whole.close();
        }
        writeChecksums(draft, [...files, ONNX_FILE]);
      }),
    );
    return { out, outputs: opened.outputs.map((output) => output.name) };
  } finally {
    model.close();
  }
}

/**
 * Names the class of a tokenizer where its file does not: Transformers knows a BERT's by the model, but transformers.js would not tell the two texts of a
 * pair apart.
 */
function nameTokenizer(folder: string, name: string): void {
  const path = join(folder, "tokenizer_config.json");
  const config = existsSync(path) ? readJsonObject(path) : null;
  if (config === null || config["tokenizer_class"] !== undefined) return;
  writeTextAtomic(path, `${JSON.stringify({ ...config, tokenizer_class: name }, null, 2)}\n`);
}

/** Copies what sentence-transformers is told of a model that makes embeddings: the adapter's files, or else the base model's. Returns their paths. */
function copyEmbedder(adapter: string | null, base: string, dense: readonly DenseLayer[], to: string): string[] {
  const from = [adapter, base].find((folder) => folder !== null && existsSync(join(folder, EMBEDDER_FILES[0])));
  if (!from) return [];
  const layers = dense.flatMap(({ module }) => [`${module}/config.json`, ...denseFiles(from, [{ module }])]);
  const there = [...EMBEDDER_FILES, ...layers].filter((file) => existsSync(join(from, file)));
  for (const file of there) {
    makeFolder(dirname(join(to, file)));
    copyAtomic(join(from, file), join(to, file));
  }
  return there;
}
