import { rmSync } from "node:fs";
import { join, resolve } from "node:path";
import { verifyChecksums, writeChecksums } from "../../base/files/checksums.ts";
import { UserError } from "../../base/errors.ts";
import type { FloatType } from "../../base/dtype.ts";
import { readClassifier, readOptions } from "../config/classifier.ts";
import { loadConfig } from "../config/config.ts";
import type { Shape } from "../../graph/types.ts";
import type { ModelConfig } from "../../models/config.ts";
import { fileIo, writeTextAtomic, type FileIo } from "../../base/files/files.ts";
import { temporaryPath } from "../../base/files/drafts.ts";
import { expectFree, writeFolder } from "../../base/files/folders.ts";
import { isRecord, readJsonObject, show } from "../../base/json.ts";
import { fromFloat32, toFloat32 } from "../../base/float16.ts";
import { examineWeights } from "../weights/examine.ts";
import { copyCompanions, type Learned, NOTHING_LEARNED, MAX_SHARD_BYTES, writeWeights } from "../weights/model-folder.ts";
import { adapterKind } from "../../models/adapters/index.ts";
import { expertColumns, type ExpertMatrix, expertMatrix, expertRows } from "../../models/adapters/expert-parameters.ts";
import { transpose } from "../../models/adapters/low-rank.ts";
import { openAdapterFor } from "./check-adapter.ts";
import type { Adapter, AdapterModule } from "./peft.ts";
import { fuseExperts, storedTensors } from "../weights/fused-experts.ts";
import { withOwnHead } from "../weights/model-weights.ts";
import { openModelWeights } from "../../gguf/read/open-weights.ts";
import { classifierOf, familyOf, modulesOf, textHeadOf, textHeadShapes } from "../../models/families/index.ts";
import { readBytes, readFloat32, tensorBytes, type TensorEntry, type TensorSource } from "../weights/safetensors.ts";
import { type TensorData } from "../weights/safetensors-write.ts";

export interface MergeOptions {
  readonly base: string;
  readonly adapter: string;
  /** A folder that is new or empty. */
  readonly output: string;
  readonly maxShardBytes?: number;
  readonly learned?: Omit<Learned, "textHead">;
  readonly io?: FileIo;
}

/**
 * Writes the base model with the adapter added to its weights, each computed in f32 and rounded once to the weight's own dtype. One tensor is in memory at a time. The output folder appears whole or not at all.
 * @throws {UserError} an adapter of another model, an output folder in use, a full disk
 */
export function mergeAdapter(options: MergeOptions): void {
  const { base, maxShardBytes = MAX_SHARD_BYTES, io = fileIo } = options;
  expectFree(options.output, "the merged model");
  const declared = loadConfig(base);
  const source = openModelWeights(base, declared);
  try {
    const config = withOwnHead(declared, source);
    const adapter = openAdapterFor(source, options.adapter, config);
    try {
      // What is damaged must not get checksums of its own.
      for (const folder of [base, options.adapter]) verifyChecksums(folder, { fresh: true });
      for (const { tensors } of [source, adapter.source]) examineWeights({ tensors }, { fresh: true });
      const body = options.learned?.embedder ? withoutTokenHead(source, config) : source;
      const { tensors, config: merged } = mergedModel(body, adapter, config);
      writeFolder(resolve(options.output), (draft) => {
        const learned = { ...(options.learned ?? NOTHING_LEARNED), textHead: learnedHead(adapter, options, config) };
        const companions = copyCompanions(base, draft, io, learned);
        if (merged.tieWordEmbeddings !== config.tieWordEmbeddings) untieConfig(draft, io);
        const weights = writeWeights(draft, tensors, maxShardBytes, io);
        writeChecksums(draft, [...companions, ...weights], io);
      });
    } finally {
      adapter.source.close();
    }
  } finally {
    source.close();
  }
}

/**
 * Runs `use` with the weights of a base model, or, with an adapter, with those of both together, which are in a folder as long as it runs.
 * @param beside where that folder may be
 */
export function withMerged<T>(
  { base, adapter, beside }: { readonly base: string; readonly adapter: string | null; readonly beside: string },
  use: (weights: { readonly folder: string; readonly source: TensorSource }) => T,
): T {
  const merged = temporaryPath(`${resolve(beside)}-merged`);
  try {
    if (adapter !== null)
      mergeAdapter({ base, adapter, output: merged, learned: { stopIds: null, chatTemplate: null, embedder: null } });
    const folder = adapter === null ? base : merged;
    const source = openModelWeights(folder, loadConfig(folder));
    try {
      return use({ folder, source });
    } finally {
      source.close();
    }
  } finally {
    rmSync(merged, { recursive: true, force: true });
  }
}

/** Returns what an adapter with a head for texts makes of its base model; null: it has none. */
function learnedHead({ whole }: Adapter, { base, adapter }: MergeOptions, config: ModelConfig): Learned["textHead"] {
  const head = whole.get(`${textHeadOf(config).output}.weight`);
  if (!head) {
    const classifier = readOptions(adapter, config.vocabSize);
    return classifier && { classifier, architecture: null };
  }
  const architecture = classifierOf(familyOf(config));
  if (architecture === null)
    throw new UserError(`${adapter} judges texts, for which models of type ${config.family} have no class`);
  return { classifier: readClassifier(base, adapter, head.shape[0]!), architecture };
}

/** Parameters of the head that predicts tokens. */
function tokenHead(model: ModelConfig): string[] {
  const { head, encoder } = modulesOf(model);
  const modules = [head, ...(encoder ? [encoder.transform.dense, encoder.transform.norm] : [])];
  const bias = encoder ? [encoder.transform.bias] : [];
  return [...modules.flatMap((module) => [`${module}.weight`, `${module}.bias`]), ...bias];
}

/** A checkpoint without the head that predicts tokens: embeddings come from before it. */
function withoutTokenHead(source: TensorSource, model: ModelConfig): TensorSource {
  const left = new Set(tokenHead(model));
  return { ...source, tensors: new Map([...source.tensors].filter(([name]) => !left.has(name))) };
}

/** A base model with an adapter in its weights. */
export interface MergedModel {
  /** Its head and embedding are two matrices where the adapter has made them differ. */
  readonly config: ModelConfig;
  /** In the base model's order and dtypes; the adapter is added to each when its turn comes. */
  readonly tensors: TensorData[];
}

/**
 * Merges an adapter that was opened for its base model, with the names that files of the base model have. Where the base's head is its embedding and
 * the adapter changes one of them, both are written, each as the adapter has it.
 * @throws {UserError} a tensor of the base model that cannot be copied
 */
export function mergedModel(source: TensorSource, adapter: Adapter, config: ModelConfig): MergedModel {
  const { entries, dataOf, isChanged, config: merged } = mergedEntries(source, adapter, config);
  // Experts in one tensor are copied as they are, unless the adapter changes one of them.
  const changed = new Set([...entries].flatMap(([key, { fused }]) => (fused && isChanged(key) ? fused : [])));
  const kept = new Map([...entries].filter(([, { fused }]) => !fused?.some((whole) => changed.has(whole))));
  const parts = [...entries].filter(([key]) => !kept.has(key));
  const tensors = fuseExperts([...storedTensors(kept), ...parts].map(dataOf), entries);
  return { config: merged, tensors };
}

/** A parameter of a model, with an adapter in it, by its module's name. */
export interface MergedParameter extends TensorData {
  /** The tensor of the base model; null: the adapter changes it. */
  readonly stored: TensorEntry | null;
}

/**
 * The same by the names of the modules, each matrix of an expert as a tensor; without an adapter, the model as it is.
 * @throws {UserError} a tensor of the base model that cannot be copied
 */
export function mergedParameters(
  source: TensorSource,
  adapter: Adapter | null,
  config: ModelConfig,
): { readonly config: ModelConfig; readonly tensors: MergedParameter[] } {
  const nothing = { entries: new Map(source.tensors), dataOf: copies(source), isChanged: () => false, config };
  const { entries, dataOf, isChanged, config: merged } = adapter ? mergedEntries(source, adapter, config) : nothing;
  const tensors = Array.from(entries, ([key, entry]) => ({
    ...dataOf([key, entry]),
    stored: isChanged(key) ? null : entry,
  }));
  return { config: merged, tensors };
}

type DataOf = (tensor: readonly [key: string, entry: TensorEntry]) => TensorData;

/** Passes a model's tensors on as they are. */
function copies(source: TensorSource): DataOf {
  return ([key, entry]) => {
    const { name, dtype, shape, stored } = entry;
    if (dtype === null) throw new UserError(`${entry.path}: tensor ${show(name)} has dtype ${stored}, which cannot be copied`);
    return { name: key, dtype, shape, data: { pieces: () => tensorBytes(source, entry) } };
  };
}

interface MergedEntries {
  readonly config: ModelConfig;
  readonly entries: Map<string, TensorEntry>;
  readonly dataOf: DataOf;
  isChanged(key: string): boolean;
}

function mergedEntries(source: TensorSource, adapter: Adapter, config: ModelConfig): MergedEntries {
  const { head, embedding } = modulesOf(config);
  const [headName, embeddingName] = [`${head}.weight`, `${config.modulePrefix}${embedding}.weight`];
  const changes = (module: string, name: string) => adapter.modules.has(module) || adapter.whole.has(name);
  const unties = config.tieWordEmbeddings && (changes(head, headName) || changes(config.modulePrefix + embedding, embeddingName));
  const entries = new Map(source.tensors);
  if (unties) {
    const shared = entries.get(embeddingName)!;
    entries.set(headName, { ...shared, name: storedHead(shared.name, headName) });
  }
  const textHead = textHeadShapes(config, 0);
  for (const name of textHead.keys()) {
    const own = adapter.whole.get(name);
    if (!own || entries.has(name)) continue;
    // It stands in the place of the head that predicts tokens, in the model's own dtype.
    const shared = entries.get(embeddingName)!;
    for (const part of tokenHead(config)) if (!textHead.has(part)) entries.delete(part);
    entries.set(name, { ...shared, name, shape: own.shape });
  }
  const replacing = (key: string) =>
    adapter.whole.get(key) ??
    adapter.copies.get(key) ??
    (unties && key === headName ? adapter.copies.get(embeddingName) : undefined);
  const update = (key: string) => updateOf(entries, adapter, key, config);
  const copy = copies(source);
  const dataOf: DataOf = ([key, entry]) => {
    const copied = copy([key, entry]);
    const replaced = replacing(key);
    const addTo = update(key);
    if (!addTo && !replaced) return copied;
    const { shape } = entry;
    const type = copied.dtype as FloatType;
    return {
      ...copied,
      data() {
        const weight = replaced ? readFloat32(adapter.source, replaced.name, shape) : toFloat32(readBytes(source, entry), type);
        addTo?.(weight);
        return fromFloat32(weight, type);
      },
    };
  };
  const merged = unties ? { ...config, tieWordEmbeddings: false } : config;
  return { config: merged, entries, dataOf, isChanged: (key) => !!replacing(key) || update(key) !== null };
}

/** The head's name in a file that has the embedding under this one. */
function storedHead(embedding: string, head: string): string {
  return embedding.startsWith("language_model.") ? `language_model.${head}` : head;
}

/** Returns what adds an adapter to a parameter of the base model in its place; null: it changes nothing of it. */
function updateOf(
  base: TensorSource["tensors"],
  { method, source, modules }: Adapter,
  name: string,
  model: Pick<ModelConfig, "family" | "storedTransposed">,
): ((values: Float32Array) => void) | null {
  const ofExpert = expertMatrix(name);
  const ofAll = ofExpert && modules.get(ofExpert.module);
  const byTurns = familyOf(model).fusedExperts === "columns";
  if (ofAll) return expertUpdate(ofAll, { source, method }, { ...ofExpert, byTurns }, base.get(name)!.shape);
  const at = name.lastIndexOf(".");
  const module = modules.get(name.slice(0, at));
  const kind = adapterKind(method);
  const merge = { weight: kind.merge, bias: kind.mergeBias }[name.slice(at + 1)];
  if (!module || !merge) return null;
  const stored = base.get(`${name.slice(0, at)}.weight`)!.shape as [number, number];
  const isTransposed = model.storedTransposed && module.layer === "linear";
  const [rows, columns] = (isTransposed ? stored.toReversed() : stored) as [number, number];
  const read = (suffix: string) => {
    const entry = module.parts.get(suffix)!;
    return readFloat32(source, entry.name, entry.shape);
  };
  const site = { layer: module.layer, rows, columns };
  if (!isTransposed || !name.endsWith(".weight")) return (values) => merge(values, site, module.setup, read);
  return (values) => {
    const weight = transpose(values, columns, rows);
    merge(weight, site, module.setup, read);
    values.set(transpose(weight, rows, columns));
  };
}

/** The same for a matrix of one expert, which has its part in the pair of all. @param byTurns see `Family.fusedExperts` */
function expertUpdate(
  module: AdapterModule,
  { source, method }: Pick<Adapter, "source" | "method">,
  { expert, matrix, byTurns }: ExpertMatrix & { readonly byTurns: boolean },
  shape: Shape,
): (values: Float32Array) => void {
  const { merge, update } = adapterKind(method);
  const { a, rank } = update!.pair({ layer: "experts" }, module.setup);
  const [rows, columns] = shape as [number, number];
  const part = (suffix: string) => module.parts.get(suffix)!;
  const experts = part(a).shape[0]! / rank;
  const own = (suffix: string): Float32Array => {
    const values = readFloat32(source, part(suffix).name, part(suffix).shape);
    if (suffix === a) return expertRows(values, expert, experts);
    const [ofUp, step] = byTurns && matrix !== "down" ? [1, 2] : [rows, 1];
    return expertColumns(values, { expert, experts, rank, first: matrix === "up" ? ofUp : 0, step, count: rows });
  };
  return (values) => merge(values, { layer: "linear", rows, columns }, module.setup, own);
}

/** Says in a folder's `config.json` that head and embedding are two matrices. @throws {UserError} */
function untieConfig(folder: string, io: FileIo): void {
  const path = join(folder, "config.json");
  const config = readJsonObject(path);
  const text = config["text_config"];
  const changed = {
    ...config,
    ...(isRecord(text) && { text_config: { ...text, tie_word_embeddings: false } }),
    tie_word_embeddings: false,
  };
  writeTextAtomic(path, `${JSON.stringify(changed, null, 2)}\n`, io);
}
