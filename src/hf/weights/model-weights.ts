import { UserError } from "../../base/errors.ts";
import type { DType } from "../../base/dtype.ts";
import { show } from "../../base/json.ts";
import { elements } from "../../graph/types.ts";
import type { ModelConfig } from "../../models/config.ts";
import { blocksPrefix } from "../../models/names.ts";
import { FAMILIES, modulesOf, textHeadShapes, WRAPPERS } from "../../models/families/index.ts";
import { withSingleExperts } from "./fused-experts.ts";
import type { TensorEntry, TensorSource } from "./safetensors.ts";

const RENAMED = [...WRAPPERS, ...FAMILIES].flatMap(({ renamed = [] }) => renamed);
const VISION = WRAPPERS.flatMap(({ vision }) => vision);

/**
 * A model's weights under the names of the modules, whatever those in the files: an entry's own name is that of the file. Models that
 * were saved without a head have names without what those of modules begin with.
 * @throws {UserError} also for a configuration of a larger model, before anything of its size is built; the source is closed
 */
export function modelWeights(source: TensorSource, config: ModelConfig): TensorSource {
  try {
    checkTypes(source);
    checkSizes(config, source);
  } catch (error) {
    source.close();
    throw error;
  }
  const tensors = new Map<string, TensorEntry>();
  const { embedding, head, encoder } = modulesOf(config);
  const { modulePrefix } = config;
  // Some files name the modules of a text part as a model of text does.
  const nameOf = (stored: string) => {
    const name = encoder ? withTodaysNorm(stored) : moduleName(stored);
    const isPlain = name.startsWith("model.") && !name.startsWith(modulePrefix) && !isVision(name);
    return isPlain ? modulePrefix + name.slice("model.".length) : name;
  };
  const tops = new Set(textHeadShapes(config, 0).keys());
  const isTop = (name: string) => tops.has(name) || name.startsWith(`${head}.`) || name.startsWith(modulePrefix);
  // A new part of a head may have the only name that begins so.
  const isBare =
    source.tensors.has(`${embedding}.weight`) ||
    ![...source.tensors.keys()].some((name) => nameOf(name).startsWith(modulePrefix));
  for (const [stored, entry] of source.tensors) {
    const name = nameOf(stored);
    tensors.set(isBare && !isTop(name) ? modulePrefix + name : name, entry);
  }
  // Of two names of one matrix a file may hold either; written is the embedding's.
  const [shared, other] = [`${modulePrefix}${embedding}.weight`, `${head}.weight`];
  const entry = config.tieWordEmbeddings && !tensors.has(shared) ? tensors.get(other) : undefined;
  if (entry) {
    tensors.delete(other);
    tensors.set(shared, { ...entry, name: shared });
  }
  if (encoder) useOneName(tensors, encoder.transform.bias, `${head}.bias`);
  return { ...source, tensors: config.experts ? singleExperts(source, tensors, config) : tensors };
}

/** The tensors with those of experts one by one. @throws {UserError} closes the source */
function singleExperts(
  source: TensorSource,
  tensors: ReadonlyMap<string, TensorEntry>,
  config: ModelConfig,
): Map<string, TensorEntry> {
  try {
    return withSingleExperts(tensors, config);
  } catch (error) {
    source.close();
    throw error;
  }
}

/** BERT's first checkpoints have TensorFlow's names for the parameters of norms. */
function withTodaysNorm(stored: string): string {
  return stored.replace(/\.LayerNorm\.gamma$/, ".LayerNorm.weight").replace(/\.LayerNorm\.beta$/, ".LayerNorm.bias");
}

/** Finds a parameter under one of its two names, of which a file may hold either, or both. */
function useOneName(tensors: Map<string, TensorEntry>, name: string, other: string): void {
  const entry = tensors.get(other);
  if (entry === undefined || name === other) return;
  tensors.delete(other);
  if (!tensors.has(name)) tensors.set(name, entry);
}

/** Weights are numbers with a fraction; integers and bytes are what other systems quantise them to. */
function checkTypes({ tensors }: TensorSource): void {
  const strange = [...tensors.values()].filter(
    ({ name, dtype }) => name.endsWith(".weight") && !isVision(moduleName(name)) && !FLOATS.includes(dtype),
  );
  const first = strange[0];
  if (first === undefined) return;
  const others = strange.length > 1 ? ` (and ${strange.length - 1} more)` : "";
  throw new UserError(
    `${first.path}: tensor ${show(first.name)}${others} is ${first.stored}, a weight that another system has quantised; expected F32, BF16 or F16: use the original model`,
  );
}

const FLOATS: readonly (DType | null)[] = ["f32", "bf16", "f16"];

/** Every block has a tensor of its own, and the matrices of a model are within its tensors, fused or not. */
function checkSizes(config: ModelConfig, { path, tensors }: TensorSource): void {
  const { layers, hiddenSize, intermediateSize, vocabSize, heads, headDim } = config;
  if (layers > tensors.size)
    throw new UserError(
      `${path} holds ${tensors.size} tensors, too few for the ${layers} layers of config.json; do the files belong together?`,
    );
  let largest = 0;
  for (const { shape } of tensors.values()) largest = Math.max(largest, elements(shape));
  const matrices = [
    ["embedding", vocabSize],
    ["query projection", heads * headDim],
    ["MLP", intermediateSize],
  ] as const;
  for (const [name, rows] of matrices) {
    if (rows * hiddenSize <= largest) continue;
    throw new UserError(
      `${path} holds no tensor as large as the ${name} of config.json, [${rows}, ${hiddenSize}]; do the files belong together?`,
    );
  }
}

/** The module's name of a tensor in a file. */
export function moduleName(stored: string): string {
  const found = RENAMED.find(([prefix]) => stored.startsWith(prefix));
  return found ? found[1] + stored.slice(found[0].length) : stored;
}

/**
 * The module of a model with that prefix that an adapter's file names. Adapters of a model with images that were trained on its text
 * part alone name that part's modules as a model of text does, and those of a model without a head leave out `model.`.
 */
export function adapterModule(stored: string, modulePrefix: ModelConfig["modulePrefix"] = "model."): string {
  const name = moduleName(stored);
  if (name.startsWith(blocksPrefix({ modulePrefix }).slice(modulePrefix.length))) return modulePrefix + name;
  return name.startsWith("model.layers.") ? modulePrefix + name.slice("model.".length) : name;
}

/** Tells whether a tensor, or a module, belongs to the parts that see images, which are neither trained nor run. */
export function isVision(name: string): boolean {
  return VISION.some((prefix) => name.startsWith(prefix));
}

/** A sentence that says which part of a model with images is used; null for a model of text. */
export function visionNote({ tensors }: TensorSource): string | null {
  const others = [...tensors.keys()].filter(isVision);
  const hears = others.some((name) => name.includes("audio"));
  return others.length === 0
    ? null
    : `only the text part of this model is used; its ${others.length} ${hears ? "vision and audio" : "vision"} tensors stay as they are`;
}

/**
 * Unties a model whose checkpoint has a head of its own although its configuration says that the head is the embedding: Transformers 5
 * loads both and lets them differ.
 */
export function withOwnHead(config: ModelConfig, source: TensorSource): ModelConfig {
  if (!config.tieWordEmbeddings) return config;
  const { embedding, head } = modulesOf(config);
  const [a, b] = [`${config.modulePrefix}${embedding}.weight`, `${head}.weight`].map((name) => source.tensors.get(name));
  if (a === undefined || b === undefined || isSame(source, a, b)) return config;
  return { ...config, tieWordEmbeddings: false };
}

/** Bytes that are compared at a time. */
const PIECE = 1 << 20;

function isSame(source: TensorSource, a: TensorEntry, b: TensorEntry): boolean {
  if (a.stored !== b.stored || a.bytes !== b.bytes) return false;
  for (let at = 0; at < a.bytes; at += PIECE) {
    const [left, right] = [a, b].map((entry) => {
      const piece = Buffer.alloc(Math.min(PIECE, a.bytes - at));
      source.read(entry, piece, at);
      return piece;
    }) as [Buffer, Buffer];
    if (!left.equals(right)) return false;
  }
  return true;
}
