import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { copyAtomic, fileIo, makeFolder, writeTextAtomic, type FileIo } from "../../base/files/files.ts";
import { ADDITIONAL_TEMPLATES, additionalTemplates, CHAT_TEMPLATE_FILE } from "./template-files.ts";
import { denseFiles } from "./dense.ts";
import { type Embedder, embedderFiles } from "../config/embeddings.ts";
import { CLASSIFIER_FILE, type Classifier, classifierKeys, classifierText } from "../config/classifier.ts";
import { readJsonObject } from "../../base/json.ts";
import { storedBytes, writeSafetensors, type TensorData } from "./safetensors-write.ts";

const CONFIG_FILE = "config.json";
const GENERATION_FILE = "generation_config.json";

/** Files of a model folder that go along with its weights. */
const COMPANION_FILES = [
  CONFIG_FILE,
  GENERATION_FILE,
  "tokenizer.json",
  "tokenizer.model",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  CHAT_TEMPLATE_FILE,
  // Prompts of a folder of sentence-transformers.
  "config_sentence_transformers.json",
  // Of models that see images too.
  "chat_template.json",
  "preprocessor_config.json",
  "processor_config.json",
] as const;

/** Tells whether a file is Python code at the top of a model's folder: models that Transformers does not contain bring their own. */
export const isModelCode = (name: string): boolean => /^\w+\.py$/.test(name);

/** Describes what a model has learned that its base's files do not say. */
export interface Learned {
  /** Ids that end a text; `generation_config.json` gets those that it lacks. Null: as the base's files say. */
  readonly stopIds: readonly number[] | null;
  /** Jinja source in the place of the base's chat templates; null: theirs. */
  readonly chatTemplate: string | null;
  /**
   * What a head for texts gives, and the class that has it in Transformers (null: the base's own, whose head for tokens gives it); null: the model
   * predicts tokens, as its base.
   */
  readonly textHead: { readonly classifier: Classifier; readonly architecture: string | null } | null;
  /** The way from its hidden states to embeddings; null: it was not trained to give any. */
  readonly embedder: Embedder | null;
}

export const NOTHING_LEARNED: Learned = { stopIds: null, chatTemplate: null, textHead: null, embedder: null };

/** Copies those that are there, with what the model has learned, and returns their paths within the folder. @throws {UserError} */
export function copyCompanions(from: string, to: string, io: FileIo = fileIo, learned = NOTHING_LEARNED): string[] {
  const { stopIds, chatTemplate, textHead, embedder } = learned;
  const templates = chatTemplate === null ? additionalTemplates(from) : [];
  if (templates.length > 0) makeFolder(join(to, ADDITIONAL_TEMPLATES));
  const names = [...COMPANION_FILES, ...templates, ...readdirSync(from).filter(isModelCode)];
  const written = new Set(names.filter((name) => existsSync(join(from, name))));
  for (const name of written) copyAtomic(join(from, name), join(to, name), io);
  const write = (name: string, text: string) => {
    writeTextAtomic(join(to, name), text, io);
    written.add(name);
  };
  if (chatTemplate !== null) write(CHAT_TEMPLATE_FILE, chatTemplate);
  if (stopIds !== null) {
    const config = written.has(GENERATION_FILE) ? readJsonObject(join(from, GENERATION_FILE)) : {};
    write(GENERATION_FILE, `${JSON.stringify({ ...config, eos_token_id: stopIds }, null, 2)}\n`);
  }
  if (textHead !== null) {
    const { architecture } = textHead;
    const config = architecture !== null && { ...readJsonObject(join(from, CONFIG_FILE)), architectures: [architecture] };
    if (config) write(CONFIG_FILE, `${JSON.stringify({ ...config, ...classifierKeys(textHead.classifier) }, null, 2)}\n`);
    write(CLASSIFIER_FILE, classifierText(textHead.classifier));
  }
  if (embedder !== null) {
    const config = { ...readJsonObject(join(from, CONFIG_FILE)), architectures: [embedder.architecture] };
    write(CONFIG_FILE, `${JSON.stringify(config, null, 2)}\n`);
    for (const name of writeEmbedder(to, embedder, io)) written.add(name);
    for (const name of denseFiles(from, embedder.dense)) {
      copyAtomic(join(from, name), join(to, name), io);
      written.add(name);
    }
  }
  return [...written];
}

/** Writes the files of sentence-transformers into a folder with a model or an adapter; returns their names. @throws {UserError} */
export function writeEmbedder(folder: string, embedder: Embedder | null, io: FileIo = fileIo): string[] {
  if (embedder === null) return [];
  const files = embedderFiles(embedder);
  for (const [name, text] of files) {
    makeFolder(dirname(join(folder, name)));
    writeTextAtomic(join(folder, name), text, io);
  }
  return [...files.keys()];
}

/** Transformers' default for `max_shard_size`. */
export const MAX_SHARD_BYTES = 50e9;

/**
 * Writes weights as Transformers does: `model.safetensors`, or, above `maxShardBytes`, shards in the order given and
 * `model.safetensors.index.json`. The index comes last: a folder without it is not taken for a model. Returns the files' names.
 * @throws {UserError}
 */
export function writeWeights(
  folder: string,
  tensors: readonly TensorData[],
  maxShardBytes = MAX_SHARD_BYTES,
  io: FileIo = fileIo,
): string[] {
  const shards = splitShards(tensors, maxShardBytes);
  if (shards.length === 1) {
    writeSafetensors(join(folder, "model.safetensors"), shards[0]!, { format: "pt" }, io);
    return ["model.safetensors"];
  }
  const map: [name: string, file: string][] = [];
  const count = String(shards.length).padStart(5, "0");
  for (const [i, shard] of shards.entries()) {
    const file = `model-${String(i + 1).padStart(5, "0")}-of-${count}.safetensors`;
    writeSafetensors(join(folder, file), shard, { format: "pt" }, io);
    for (const { name } of shard) map.push([name, file]);
  }
  const size = tensors.reduce((sum, tensor) => sum + storedBytes(tensor), 0);
  const index = { metadata: { total_size: size }, weight_map: Object.fromEntries(map) };
  writeTextAtomic(join(folder, "model.safetensors.index.json"), `${JSON.stringify(index, null, 2)}\n`, io);
  return [...new Set(map.map(([, file]) => file)), "model.safetensors.index.json"];
}

/** Consecutive groups of at most `maxBytes`; a larger tensor stands alone. */
function splitShards(tensors: readonly TensorData[], maxBytes: number): TensorData[][] {
  const shards: TensorData[][] = [[]];
  let bytes = 0;
  for (const tensor of tensors) {
    const size = storedBytes(tensor);
    if (bytes > 0 && bytes + size > maxBytes) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)!.push(tensor);
    bytes += size;
  }
  return shards;
}
