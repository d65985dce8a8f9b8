import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import { toFloat32 } from "../../base/float16.ts";
import { DTYPE_BYTES, type FloatType } from "../../base/dtype.ts";
import { wholeName, partName } from "../../models/adapters/names.ts";
import { expertParameters, isTargetParameter } from "../../models/adapters/expert-parameters.ts";
import { adapterKind } from "../../models/adapters/index.ts";
import type { ModelConfig } from "../../models/config.ts";
import { modulesOf, textHeadShapes } from "../../models/families/index.ts";
import { isVision } from "../weights/model-weights.ts";
import { type TensorEntry, type TensorSource } from "../weights/safetensors.ts";
import { type Adapter, isWhole, openAdapter } from "./peft.ts";
import { isNamed } from "./peft-modules.ts";

type Base = Pick<TensorSource, "tensors" | "path" | "read">;
type Model = Pick<ModelConfig, "family" | "modulePrefix" | "tieWordEmbeddings" | "storedTransposed" | "experts" | "hiddenSize">;

const FLOATS = ["f32", "bf16", "f16"];

/** Opens an adapter and checks it against its base model. @throws {UserError} as `openAdapter` and `checkAdapter` */
export function openAdapterFor(base: Base, folder: string, model: Model): Adapter {
  const adapter = openAdapter(folder, model);
  try {
    return checkAdapter(adapter, base, model);
  } catch (error) {
    adapter.source.close();
    throw error;
  }
}

/**
 * Checks an adapter against its base model: every matrix that its configuration names is there, and has the shape that the base's asks
 * for. The adapter that is returned has of its copies of base weights those that differ from the base's, by the base's names.
 * @throws {UserError} names the tensor
 */
export function checkAdapter(adapter: Adapter, base: Base, model: Model): Adapter {
  const parameters = expertParameters(base.tensors.keys());
  for (const [module, { shape, layer }] of adapter.modules) {
    if (layer === "experts") {
      checkExperts(adapter, base, model, module, parameters, shape);
      continue;
    }
    const stored = model.storedTransposed && layer === "linear" ? shape.toReversed() : shape;
    checkShape(adapter, base, model, `${module}.weight`, stored);
  }
  for (const [parameter, { shape }] of [...adapter.whole, ...adapter.copies]) checkShape(adapter, base, model, parameter, shape);
  checkComplete(adapter, base, model);
  const names = [...adapter.modules.keys(), ...Array.from(adapter.whole.keys(), moduleOf)];
  const { head, embedding } = tablesOf(model);
  if (adapter.tied && model.tieWordEmbeddings && names.some((name) => name === head || name === embedding)) {
    throw new UserError(
      `${adapter.path}: ensure_weight_tying keeps ${head} and ${embedding} one matrix, which is not supported; train without it`,
    );
  }
  const copies = new Map<string, TensorEntry>();
  for (const [parameter, entry] of adapter.copies) {
    // Where the head is the embedding, PEFT writes a copy of the one over both.
    const shared = base.tensors.has(parameter) ? parameter : `${embedding}.weight`;
    if (!isSame(adapter.source, entry, base, base.tensors.get(shared)!)) copies.set(shared, entry);
  }
  return { ...adapter, copies };
}

const moduleOf = (parameter: string): string => parameter.slice(0, parameter.lastIndexOf("."));

function tablesOf(model: Model): { readonly head: string; readonly embedding: string } {
  const { head, embedding } = modulesOf(model);
  return { head, embedding: model.modulePrefix + embedding };
}

/** The base model's tensor of a parameter; a head that is the embedding has the embedding's. */
export function storedEntry(base: Pick<TensorSource, "tensors">, model: Model, parameter: string): TensorEntry | undefined {
  const { head, embedding } = tablesOf(model);
  const own = base.tensors.get(parameter);
  return own ?? (model.tieWordEmbeddings && parameter === `${head}.weight` ? base.tensors.get(`${embedding}.weight`) : undefined);
}

/** @param parameters those of experts that the base model has */
function checkExperts(
  { source }: Adapter,
  base: Base,
  { experts, hiddenSize }: Model,
  module: string,
  parameters: readonly string[],
  shape: readonly (number | null)[],
): void {
  if (!parameters.includes(module))
    throw new UserError(
      `${base.path} has no experts ${show(module)}, which the adapter changes; is it the adapter's base model?`,
    );
  const { count, width } = experts!;
  const expected = module.endsWith(".down_proj") ? [hiddenSize, width] : [2 * width, hiddenSize];
  if (shape.join() === expected.join()) return;
  throw new UserError(
    `${source.path}: ${module} of the base model is [${[count, ...expected].join(", ")}], the adapter's update of each expert ` +
      `[${shape.map((size) => size ?? "any").join(", ")}]; is it the adapter's base model?`,
  );
}

/** @param shape null in it fits any size */
function checkShape(adapter: Adapter, base: Base, model: Model, parameter: string, shape: readonly (number | null)[]): void {
  const entry = storedEntry(base, model, parameter);
  if (!entry) {
    if (checkTextHead(adapter, base, model, parameter, shape)) return;
    throw new UserError(
      `${base.path} has no tensor ${show(parameter)}, which the adapter changes; is it the adapter's base model?`,
    );
  }
  const isShape = entry.shape.length === shape.length && shape.every((size, i) => size === null || size === entry.shape[i]);
  const fits = isShape && FLOATS.includes(entry.dtype ?? "");
  if (fits) return;
  const { head, embedding } = tablesOf(model);
  const [rows, columns] = shape;
  if ([head, embedding].includes(moduleOf(parameter)) && columns === entry.shape[1] && rows !== entry.shape[0]) {
    throw new UserError(
      `${adapter.source.path}: the adapter has ${rows} rows of ${parameter}, its base model ${entry.shape[0]}: it was trained with another vocabulary. ` +
        `Save the base model with that one (resize_token_embeddings(${rows}) in Transformers, then save_pretrained with the tokenizer) and give it as --model`,
    );
  }
  throw new UserError(
    `${entry.path}: tensor ${show(entry.name)} is ${entry.stored}[${entry.shape.join(", ")}], the adapter's update is ` +
      `[${shape.map((size) => size ?? "any").join(", ")}]; is it the adapter's base model?`,
  );
}

/** A head for texts is the adapter's own; its base model has none. Returns false for a parameter of something else. */
function checkTextHead(
  { source }: Adapter,
  base: Base,
  model: Model,
  parameter: string,
  shape: readonly (number | null)[],
): boolean {
  const hiddenSize = base.tensors.get(`${tablesOf(model).embedding}.weight`)?.shape[1] ?? 0;
  // Its numbers are as many as it likes.
  const expected = textHeadShapes({ family: model.family, hiddenSize }, 0).get(parameter);
  if (!expected) return false;
  if (shape.length === expected.length && expected.every((size, i) => size === 0 || size === shape[i])) return true;
  throw new UserError(
    `${source.path}: ${parameter} is [${shape.join(", ")}], its base model wants [${expected.map((size) => size || "outputs").join(", ")}]; is it the adapter's base model?`,
  );
}

/** Tells whether the file holds what the configuration names, of the base model's text part. */
function checkComplete(adapter: Adapter, base: Base, model: Model): void {
  const { modules, whole, source, path, rules } = adapter;
  const { head } = tablesOf(model);
  const parameters = [...base.tensors.keys()].filter((name) => !isVision(name));
  if (model.tieWordEmbeddings && !base.tensors.has(`${head}.weight`)) parameters.push(`${head}.weight`);
  const missing = (name: string) =>
    new UserError(`${source.path} lacks ${name}, which adapter_config.json names; copy or download the file again`);
  const ofExperts = expertParameters(base.tensors.keys()).find(
    (name) => !modules.has(name) && isTargetParameter(name, rules.target_parameters ?? []),
  );
  if (ofExperts !== undefined) throw missing(`the matrices of ${ofExperts}`);
  for (const parameter of parameters) {
    const module = moduleOf(parameter);
    const isMatrix = parameter.endsWith(".weight") && storedEntry(base, model, parameter)!.shape.length === 2;
    if (isMatrix && !isOfExpert(module) && !modules.has(module) && isNamed(module, rules, path)) {
      const layer = module === tablesOf(model).embedding ? "embedding" : "linear";
      const { names } = adapterKind(adapter.method);
      throw missing(partName(module, (names[layer][0] ?? names.linear[0]!).suffix));
    }
    const isAdapted = modules.has(module);
    if (isWhole(parameter, adapter, (name) => modules.has(name)) && !whole.has(parameter)) {
      throw missing(wholeName(parameter, isAdapted));
    }
  }
}

/** Tells whether a matrix is that of one expert of many: in Transformers all of them are parameters of one module, which no name of a layer means. */
const isOfExpert = (module: string): boolean => /\.experts\.\d+\.\w+$/.test(module);

/** Elements that are compared at a time. */
const PIECE = 1 << 18;

/** The elements of a tensor of floats as f32, piece by piece. */
function* floats(source: Pick<TensorSource, "read">, entry: TensorEntry): Generator<Float32Array> {
  const dtype = entry.dtype as FloatType;
  for (let from = 0; from < entry.bytes; from += PIECE * DTYPE_BYTES[dtype]) {
    const bytes = new Uint8Array(Math.min(PIECE * DTYPE_BYTES[dtype], entry.bytes - from));
    source.read(entry, bytes, from);
    yield toFloat32(bytes, dtype);
  }
}

/** Tells whether two tensors of one shape hold the same numbers, in whatever types. */
function isSame(source: TensorSource, entry: TensorEntry, base: Base, other: TensorEntry): boolean {
  const others = floats(base, other);
  for (const piece of floats(source, entry)) {
    const expected = others.next().value as Float32Array;
    if (!piece.every((value, i) => value === expected[i])) return false;
  }
  return true;
}
