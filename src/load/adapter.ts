import { UserError } from "../base/errors.ts";
import { createRandom } from "../base/random.ts";
import { GraphBuilder } from "../graph/builder.ts";
import { byteLength } from "../graph/types.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { storedEntry } from "../hf/peft/check-adapter.ts";
import { readFloat32, type TensorSource } from "../hf/weights/safetensors.ts";
import { adapterKind, isConstant, isTransposed, PART_SUFFIXES } from "../models/adapters/index.ts";
import type { AdapterKind, Site } from "../models/adapters/kind.ts";
import { transpose } from "../models/adapters/low-rank.ts";
import { isAdapter, parameterOf, partName, withoutPrefix } from "../models/adapters/names.ts";
import type { ModelConfig } from "../models/config.ts";
import { isLinear, modulesOf } from "../models/families/index.ts";
import { ParamScope } from "../models/linear.ts";
import { layerOf } from "../models/names.ts";
import { type AdapterTuning, hasAdapters, NO_TUNING, type Tuning } from "../models/tuning.ts";
import { formatOfCodes } from "../ops/dequantize.ts";
import type { Executor } from "../runtime/executor.ts";
import type { ParamInfo, Resident } from "../runtime/resident.ts";
import { bindWindow } from "../runtime/streaming/weight-window.ts";
import type { StreamedWeights } from "./streamed-weights.ts";
import { shapeOf } from "./weights.ts";

/** A model in an executor's memory whose base weights are loaded. */
export interface LoadedModel {
  readonly executor: Executor;
  readonly resident: Pick<Resident, "params" | "param">;
  /** The weights that lie in their files; null: all are in memory. */
  readonly streamed: StreamedWeights | null;
  readonly source: TensorSource;
  readonly config: ModelConfig;
  readonly tuning: Tuning;
}

/**
 * Returns what runs a model with an adapter beside its weights; without one, what runs the model alone.
 * @throws {UserError} an adapter of modules that it can only be merged into
 */
export function adapterTuning(adapter: Adapter | null, config: ModelConfig): AdapterTuning {
  if (adapter === null) return NO_TUNING;
  checkModules(adapter, config, "can only be used merged: see remat merge");
  const { method, modules } = adapter;
  return { method, dropout: 0, adapts: (module) => modules.get(module)?.setup ?? null, frozen: true };
}

/** @throws {UserError} an adapter of other modules than those that its kind runs in */
export function checkModules(
  { modules, method }: Pick<Adapter, "modules" | "method">,
  model: Pick<ModelConfig, "family" | "layers" | "modulePrefix" | "experts">,
  what: string,
): void {
  const { head, embedding } = modulesOf(model);
  const kind = adapterKind(method);
  for (const [name, { layer: site }] of modules) {
    const layer = layerOf(name, model);
    const isTable = name === head || name === model.modulePrefix + embedding;
    const hasExperts = layer !== null && layer < model.layers && model.experts?.layers[layer] === true;
    const isKnown = isTable || (site === "experts" ? hasExperts : isLinear(name, model));
    if (isKnown && kind.sites.includes(site)) continue;
    throw new UserError(`an adapter (${method}) that changes ${name} ${what}`);
  }
}

/**
 * The base model with the weights that an adapter holds in place of its own. Where the base's head is its embedding and the adapter has
 * one of them whole, the two are different matrices from then on.
 */
export function withReplacedWeights<M extends { readonly config: ModelConfig; readonly source: TensorSource }>(
  model: M,
  adapter: Adapter | null,
): M {
  if (adapter === null || adapter.whole.size + adapter.copies.size === 0) return model;
  const { config, source } = model;
  const tensors = new Map([...source.tensors, ...adapter.copies]);
  const { head, embedding } = modulesOf(config);
  const [headName, embeddingName] = [`${head}.weight`, `${config.modulePrefix}${embedding}.weight`];
  const unties = config.tieWordEmbeddings && (adapter.whole.has(headName) || adapter.whole.has(embeddingName));
  if (unties) tensors.set(headName, { ...tensors.get(embeddingName)!, name: headName });
  for (const [name, entry] of adapter.whole) tensors.set(name, entry);
  const read: TensorSource["read"] = (entry, target, from) =>
    (entry.path === adapter.source.path ? adapter.source : source).read(entry, target, from);
  const files = [...source.files, ...adapter.source.files];
  return {
    ...model,
    config: unties ? { ...config, tieWordEmbeddings: false } : config,
    source: { ...source, tensors, files, read },
  };
}

/** Gives the parameters of adapters their first values, each from the seed and its name; what is trained whole begins as the base's. */
export function initialiseAdapter(model: LoadedModel, seed: number): void {
  const { tuning } = model;
  if (!hasAdapters(tuning)) return;
  const kind = adapterKind(tuning.method);
  const sweep = sweeper();
  for (const param of model.resident.params.filter(isAdapter)) {
    if (isConstant(param)) continue;
    sweep(byteLength(param.type));
    const values = firstValues(model, param, seed);
    if (values !== null) writeFile(model, param, values);
  }
  if (kind.computed) compute(model, kind, kind.computed.begins);
}

/** Returns the first values of a parameter of adapters, in the order of PEFT's files; null: they are computed of others (`AdapterKind.computed`). */
export function firstValues(
  model: Pick<LoadedModel, "source" | "config" | "tuning">,
  param: ParamInfo,
  seed: number,
): Float32Array<ArrayBuffer> | null {
  const kind = adapterKind(model.tuning.method);
  const part = partOf(param, kind);
  if (part === null) return baseValues(model, param);
  return kind.initialise({ suffix: part.suffix, shape: fileShape(param) }, createRandom(seed, param.name));
}

/** Reads an adapter into its places. @throws {UserError} wrong shape or dtype */
export function writeAdapterWeights(model: LoadedModel, adapter: Adapter): void {
  const { tuning } = model;
  if (!hasAdapters(tuning)) return;
  const kind = adapterKind(tuning.method);
  const sweep = sweeper();
  for (const param of model.resident.params.filter(isAdapter)) {
    const part = partOf(param, kind);
    if (isConstant(param)) continue;
    sweep(byteLength(param.type));
    const entry =
      part === null
        ? adapter.whole.get(parameterOf(withoutPrefix(param.name)!).parameter)
        : adapter.modules.get(part.module)?.parts.get(part.suffix);
    if (!entry) throw new Error(`${adapter.source.path} has no ${param.name}`);
    writeFile(model, param, readFloat32(adapter.source, entry.name, fileShape(param)));
  }
  if (tuning.frozen) computeConstants(model);
}

/** Garbage that may come of writing parameters, in bytes. */
const MOST_GARBAGE = 32 << 20;

/** Collects what earlier parameters were made in, before the process has grown by all of them: told of each before it is made. */
function sweeper(): (bytes: number) => void {
  let made = 0;
  return (bytes) => {
    made += bytes;
    if (made < MOST_GARBAGE) return;
    made = bytes;
    Bun.gc(true);
  };
}

/** Computes what programs take as constants, of the parameters as they are now. */
export function computeConstants(model: LoadedModel): void {
  const { tuning } = model;
  const computed = hasAdapters(tuning) ? adapterKind(tuning.method).computed : undefined;
  if (computed) compute(model, adapterKind(tuning.method), computed.constant);
}

/** The module and suffix of a part's name; null for a parameter that is trained whole. */
function partOf({ name }: ParamInfo, kind: AdapterKind): { readonly module: string; readonly suffix: string } | null {
  const plain = withoutPrefix(name)!;
  const suffixes = kind.computed ? [...PART_SUFFIXES, kind.computed.constant] : PART_SUFFIXES;
  const suffix = suffixes.find((candidate) => plain.endsWith(`.${candidate}`));
  return suffix === undefined ? null : { suffix, module: plain.slice(0, -suffix.length - 1) };
}

/** Shape of a parameter in PEFT's files. */
export function fileShape({ name, type }: Pick<ParamInfo, "name" | "type">): readonly number[] {
  return isTransposed(name) ? type.shape.toReversed() : type.shape;
}

/** Writes values that are in the order of PEFT's files. */
function writeFile({ executor, resident }: LoadedModel, param: ParamInfo, values: Float32Array<ArrayBuffer>): void {
  const [rows, columns] = fileShape(param) as [number, number];
  const ordered = isTransposed(param.name) ? transpose(values, rows, columns) : values;
  executor.write(resident.param.get(param.name)!, new Uint8Array(ordered.buffer, ordered.byteOffset, ordered.byteLength));
}

/** Returns what the base model has of a parameter that is trained whole. */
function baseValues(
  { source, config }: Pick<LoadedModel, "source" | "config">,
  { name, type }: ParamInfo,
): Float32Array<ArrayBuffer> {
  const { parameter } = parameterOf(withoutPrefix(name)!);
  const entry = storedEntry(source, config, parameter);
  if (!entry) throw new Error(`${source.path} has no tensor ${parameter}`);
  return readFloat32({ ...source, tensors: new Map([[parameter, entry]]) }, parameter, type.shape);
}

/** Runs what a kind computes once of base weights and parts, for all modules that have a place for it. */
function compute(model: LoadedModel, kind: AdapterKind, suffix: string): void {
  const { executor, resident, streamed, tuning } = model;
  const byName = new Map(resident.params.map((param) => [param.name, param]));
  const programs = new Map<string, ReturnType<Executor["prepare"]>>();
  for (const param of resident.params.filter(isAdapter)) {
    const part = partOf(param, kind);
    if (part?.suffix !== suffix) continue;
    const { module } = part;
    const weight = byName.get(`${module}.weight`)!;
    const setup = (tuning as AdapterTuning).adapts(module)!;
    const { builder, scope, result } = computation(tuning, kind, setup, weight);
    const key = JSON.stringify([weight.type, setup]);
    const program = programs.get(key) ?? executor.prepare(builder.build());
    programs.set(key, program);
    const names = new Map([...scope.names].map(([input, name]) => [input, rename(name, module)]));
    const addresses = new Map([[result, resident.param.get(param.name)!]]);
    for (const [input, name] of names) {
      const address = resident.param.get(name);
      if (address !== undefined) addresses.set(input, address);
    }
    const workspace = program.workspace > 0 ? executor.reserve(program.workspace) : 0;
    const sequence = streamed && bindWindow(executor, streamed.window, [{ program, params: names, gathered: new Map() }]);
    const call = executor.bind(program, addresses, workspace, sequence?.places(0));
    sequence?.begin();
    if (sequence) sequence.run(0, call);
    else executor.run(call);
  }
}

/** The module's name in programs that all modules of one shape share. */
const SHARED = "module";

const rename = (name: string, module: string): string =>
  withoutPrefix(name) === null ? name.replace(SHARED, module) : partName(module, withoutPrefix(name)!.slice(SHARED.length + 1));

/** The graph of `AdapterKind.computed`, of a weight as it lies in memory. */
function computation(tuning: Tuning, kind: AdapterKind, setup: object, weight: ParamInfo) {
  const builder = new GraphBuilder(kind.name);
  const format = formatOfCodes(weight.type);
  const scope = new ParamScope(builder, "", frozen(tuning), () => format ?? (weight.type.dtype as "f32"));
  const [rows, columns] = shapeOf(weight) as [number, number];
  const site: Site = { layer: "linear", rows, columns };
  const value = scope.matrix(`${SHARED}.weight`, [rows, columns]);
  const parameter = scope.parametersOf(SHARED);
  const result = kind.computed!.value({ builder, module: SHARED, site, weight: value, parameter }, setup);
  builder.output({ name: result, role: "boundary" });
  return { builder, scope, result };
}

/** Nothing of a program that only computes is trained, and no module of it has a setup of its own. */
const frozen = (tuning: Tuning): Tuning => ({ ...NO_TUNING, method: tuning.method });
