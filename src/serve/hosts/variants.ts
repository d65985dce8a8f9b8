import { statSync } from "node:fs";
import { join } from "node:path";
import { type DecoderPlan, type Decoders, placeDecoders, planDecoder, startDecoders } from "../../generate/decoders.ts";
import { type AdapterEntries, adapterEntries, type Mixed, planMixed, startMixed } from "../../generate/mixed.ts";
import { byteLength, sameType } from "../../graph/types.ts";
import { CHECKPOINT_FILE, TENSOR_FILE } from "../../hf/peft/adapter-folder.ts";
import type { Adapter } from "../../hf/peft/peft.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../../load/adapter.ts";
import { openAdapterOf, type OpenModel } from "../../load/open-model.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../../load/weights.ts";
import { isAdapter } from "../../models/adapters/names.ts";
import { isScales, scalesOf } from "../../models/linear.ts";
import { createPrograms, type Programs } from "../../runtime/chain.ts";
import { type Address, align, type Executor } from "../../runtime/executor.ts";
import { collectParams, type ParamInfo } from "../../runtime/resident.ts";
import { ApiError } from "../http/errors.ts";
import { createPool, type Pool } from "./pool.ts";
import type { Group, RoundText } from "./rounds.ts";
import type { Slots } from "./slots.ts";
import { openStreamedBase, type StreamedBase } from "./streamed-base.ts";
import type { SharedWeights } from "../../load/shared-weights.ts";
import type { StreamedWeights } from "../../load/streamed-weights.ts";
import type { StoredWeightsOptions } from "../../load/stored/stored-weights.ts";

/** A model in memory: the base alone, or with an adapter. */
export interface Variant {
  /** Tells a folder's files apart from those that were in it before. */
  readonly stamp: string;
  readonly decoders: Decoders;
  /** Where its adapter lies, as texts of several adapters are decoded together; null: its texts are decoded by themselves. */
  readonly entries: AdapterEntries | null;
  /** The memory that it does not share with the base model. */
  readonly own: Address | null;
  /** Answers that are made with it. */
  users: number;
  /** Nothing new is begun with it, and it goes with the last answer. */
  isDropped: boolean;
}

export interface VariantsOptions {
  readonly model: OpenModel & WeightStorage;
  readonly maxTokens: number;
  readonly slots: Slots;
  /** Caches: the number of texts that are kept. */
  readonly texts: number;
  /** Adapters that are in memory at a time. */
  readonly most: number;
  /** Places of the base model's weights, which others on it have in the same memory; absent: nobody has. */
  readonly weights?: SharedWeights | undefined;
  /** Tells whether so many more bytes may be taken for an adapter. */
  hasRoom(bytes: number): boolean;
}

/** A base model in an executor's memory, with the adapters that were asked for last. */
export interface Variants {
  /**
   * The base model (null), or the one with the adapter of a folder. It stays until `leave`.
   * @throws {UserError} an adapter that does not fit
   * @throws {ApiError} a folder that is gone, memory that others hold
   */
  enter(folder: string | null): Variant;
  leave(variant: Variant): void;
  /** Frees what an adapter takes, when no answer is made with it any more. */
  drop(folder: string): void;
  /** Divides texts of variants, each of which has one more token: those of different adapters are decoded together where they can be. */
  groups(texts: ReadonlyMap<number, RoundText<Variant>>): readonly Group<Variant>[];
  /** True if the adapter of a folder is in memory. */
  holds(folder: string): boolean;
  /** Adapters in memory. */
  readonly adapters: number;
  /** Ends what reads weights. */
  close(): void;
}

/** The part of the executor's memory that is there for all variants. */
interface Loaded {
  readonly executor: Executor;
  readonly programs: Programs;
  readonly pool: Pool;
  /** Weights of the base model, by name. */
  readonly shared: Map<string, { readonly type: ParamInfo["type"]; readonly address: Address }>;
  readonly shapes: Map<string, Shape>;
  /** Weights of the base model that are read for each pass; null: all are in memory. */
  readonly streaming: StreamedBase | null;
  /** Caches, inputs, boundaries and workspace. */
  region: { readonly address: Address; readonly bytes: number } | null;
  /** Decodes texts of several adapters in the region, once that has been asked for; null: it cannot be done here. */
  mixed: { readonly mixed: Mixed; readonly table: Address } | null | undefined;
  /** Answers that are made with any variant. */
  users: number;
  /** Frees all variants. */
  clear(): void;
}

/** Bytes that adapters may need for their workspace beside the base model's. */
const HEADROOM = 4 << 20;

/** As `createVariants`, with the base model's weights left in their files: each pass reads them. @throws {UserError} see `openStreamedBase` */
export async function openStreamedVariants(
  executor: Executor,
  options: VariantsOptions,
  stored: StoredWeightsOptions,
): Promise<Variants> {
  const programs = createPrograms(executor);
  const { plan, params } = shapeOf(programs, executor, options, null, options.model);
  const { source } = options.model;
  const streaming = await openStreamedBase({ executor, programs, source, plan, params, texts: options.texts }, stored);
  return createVariants(executor, options, { programs, streaming });
}

export function createVariants(
  executor: Executor,
  options: VariantsOptions,
  { programs, streaming }: Pick<Loaded, "programs" | "streaming"> = { programs: createPrograms(executor), streaming: null },
): Variants {
  const { model, slots, most } = options;
  /** By folder; "" is the base model. The one that was used longest ago is first. */
  const variants = new Map<string, Variant>();
  const here: Loaded = {
    executor,
    programs,
    streaming,
    pool: createPool(executor),
    shared: new Map(),
    shapes: new Map(),
    region: null,
    mixed: undefined,
    users: 0,
    clear: () => [...variants.keys()].forEach(drop),
  };

  const drop = (key: string): void => {
    const variant = variants.get(key);
    if (!variant) return;
    variants.delete(key);
    variant.isDropped = true;
    free(variant);
  };
  /** Frees what a variant takes, when no answer is made with it. */
  const free = (variant: Variant): void => {
    if (variant.users > 0) return;
    slots.forget(variant);
    if (variant.own !== null) here.pool.give(variant.own);
  };
  const dropOldest = (): boolean => {
    const oldest = [...variants].find(([name, { users }]) => name !== "" && users === 0);
    if (oldest) drop(oldest[0]);
    return oldest !== undefined;
  };
  const makeRoom = (bytes: number): void => {
    while (here.pool.grows(bytes) && !options.hasRoom(bytes)) {
      if (dropOldest()) continue;
      throw noMemory("the adapter has to wait for memory that jobs hold; come back later", 30);
    }
  };
  const adapters = () => variants.size - (variants.has("") ? 1 : 0);
  const load = (folder: string | null): Pick<Variant, "decoders" | "entries" | "own"> => {
    const adapter = folder === null ? null : openAdapterOf(model, folder);
    try {
      if (folder !== null && adapters() >= most) dropOldest();
      return startVariant(here, options, adapter, makeRoom);
    } finally {
      adapter?.source.close();
    }
  };

  return {
    enter(folder) {
      const key = folder ?? "";
      const stamp = stampOf(folder);
      if (variants.get(key)?.stamp !== stamp) drop(key);
      const variant = variants.get(key) ?? { stamp, users: 0, isDropped: false, ...load(folder) };
      variants.delete(key);
      variants.set(key, variant);
      variant.users++;
      here.users++;
      return variant;
    },
    leave(variant) {
      variant.users--;
      here.users--;
      if (variant.isDropped) free(variant);
    },
    drop,
    holds: (folder) => variants.has(folder),
    groups(texts) {
      const ready = [...texts].filter(
        ([text, { model: variant, ids }]) => variant.entries !== null && variant.decoders.lacksOne(text, ids),
      );
      const isMixed = new Set(ready.map(([, { model: variant }]) => variant)).size > 1 && ready.length > options.texts / 2;
      if (isMixed && here.mixed === undefined) here.mixed = startMixing(here, options);
      const mixed = isMixed ? here.mixed?.mixed : undefined;
      const left = new Map(texts);
      const groups: Group<Variant>[] = [];
      if (mixed) {
        const parts = ready.map(([text, { model: variant, ids }]) => {
          left.delete(text);
          return [text, { decoders: variant.decoders, entries: variant.entries!, ids }] as const;
        });
        groups.push({ texts: new Map(ready), feed: () => mixed.feed(new Map(parts)) });
      }
      for (const [variant, own] of Map.groupBy(left, ([, { model: variant }]) => variant)) {
        const ids = new Map(own.map(([text, each]) => [text, each.ids]));
        groups.push({ texts: new Map(own), feed: () => variant.decoders.feed(ids) });
      }
      return groups;
    },
    get adapters() {
      return adapters();
    },
    close: () => streaming?.close(),
  };
}

export const noMemory = (message: string, seconds: number) =>
  new ApiError(503, message, { code: "no_memory", headers: { "retry-after": String(seconds) } });

/** Bytes that an adapter takes in memory, at most: its files may have half types. */
export function bytesOfAdapter(folder: string): number {
  const sizes = [TENSOR_FILE, CHECKPOINT_FILE].map((name) => statSync(join(folder, name), { throwIfNoEntry: false })?.size ?? 0);
  return 2 * Math.max(...sizes);
}

/** Changes when the files of an adapter do. @throws {ApiError} a folder that is gone */
function stampOf(folder: string | null): string {
  if (folder === null) return "";
  const stat = [TENSOR_FILE, CHECKPOINT_FILE]
    .map((name) => statSync(join(folder, name), { throwIfNoEntry: false }))
    .find((found) => found !== undefined);
  if (!stat) throw new ApiError(404, "the model's files are not there any more", { param: "model", code: "model_not_found" });
  return `${stat.ino} ${stat.size} ${stat.mtimeMs}`;
}

/** Programs and sizes of all variants of one shape. */
interface Shape {
  readonly plan: DecoderPlan;
  readonly params: readonly ParamInfo[];
  /** The window of its programs, once they are needed; null: all weights are in memory. */
  streamed: StreamedWeights | null | undefined;
}

function shapeOf(
  programs: Programs,
  executor: Executor,
  { model: base, maxTokens, texts }: VariantsOptions,
  adapter: Adapter | null,
  { config, source }: Pick<OpenModel, "config" | "source">,
): Shape {
  const options = { tuning: adapterTuning(adapter, config), ...typesOf(executor, source, base) };
  const plan = planDecoder(programs, config, options, maxTokens, texts);
  return { plan, params: collectParams([...plan.chains.values()][0]!), streamed: undefined };
}

/** What decides the programs of a variant: adapters of the same ranks and modules have the same ones. */
function shapeKey(adapter: Adapter | null): string {
  if (adapter === null) return "";
  const { method, modules, whole, copies } = adapter;
  const replaced = [...whole, ...copies].map(([name, { dtype, shape }]) => [name, dtype, shape]);
  const adapted = [...modules].map(([name, { layer, setup, parts }]) => [
    name,
    layer,
    setup,
    [...parts].map(([part, { shape }]) => [part, shape]),
  ]);
  return JSON.stringify([method, adapted, replaced]);
}

/** Types of weights and of what is computed, of all variants. */
function typesOf(executor: Executor, source: TensorSource, base: VariantsOptions["model"]) {
  return { weightType: weightTypeOf(executor, source, base), compute: computeType(executor, base.dtype) };
}

/** Starts what decodes texts of several adapters, beside the decoders of variants that are there; null: it cannot be done here. */
function startMixing(here: Loaded, { model: base, maxTokens, texts, slots }: VariantsOptions): (Loaded["mixed"] & {}) | null {
  const { executor, programs, region, shared, pool } = here;
  if (executor.reach.kind !== "shared" || region === null) return null;
  const options = { tuning: adapterTuning(null, base.config), ...typesOf(executor, base.source, base) };
  const decoder = planDecoder(programs, base.config, options, maxTokens, texts);
  const plan = planMixed(programs, decoder, options);
  // An untied head of an adapter is in memory in place of the base's own.
  if (collectParams(plan.segments).some(({ name }) => !shared.has(name))) return null;
  const param = new Map([...shared].map(([name, { address }]) => [name, address]));
  const places = placeDecoders(executor, decoder, { param, gradient: new Map() }, region.address);
  if (places.arena + plan.extent > region.address + region.bytes) return null;
  const table = pool.take(plan.table);
  return { mixed: startMixed(executor, programs, decoder, plan, places, table, slots.endOf), table };
}

/**
 * Puts a model into memory: of its weights only those that are not there yet for another variant.
 * @throws {UserError} an adapter that does not fit
 */
function startVariant(
  here: Loaded,
  options: VariantsOptions,
  adapter: Adapter | null,
  makeRoom: (bytes: number) => void,
): Pick<Variant, "decoders" | "entries" | "own"> {
  const { executor, programs, shapes, pool } = here;
  const { model: base, slots } = options;
  const { config, source } = withReplacedWeights({ config: base.config, source: base.source }, adapter);
  const tuning = adapterTuning(adapter, config);
  const key = shapeKey(adapter);
  let shape = shapes.get(key);
  if (!shape) shapes.set(key, (shape = shapeOf(programs, executor, options, adapter, { config, source })));
  const { plan, params } = shape;
  const replaced = replacedNames(adapter, params, base.source);
  const own = params.filter((param) => isAdapter(param) || replaced.has(param.name));
  const streamed = (shape.streamed ??= here.streaming?.open(plan, params, own) ?? null);
  const inFiles = streamed?.window.streamed ?? new Set();
  const bytes = own.reduce((sum, { type }) => sum + align(byteLength(type)), 0);
  if (bytes > 0) makeRoom(bytes);
  const address = bytes === 0 ? null : pool.take(bytes);
  try {
    const param = new Map<string, Address>();
    let at = address ?? 0;
    for (const { name, type } of own) {
      param.set(name, at);
      at += align(byteLength(type));
    }
    const wanted = params.filter((info) => !own.includes(info) && !inFiles.has(info.name));
    const fresh = shareWeights(here, wanted, param);
    const places = options.weights?.place(source, fresh);
    for (const { name, type } of fresh) param.set(name, places?.param.get(name) ?? executor.reserve(byteLength(type)));
    const absent = fresh.filter(({ name }) => !places?.loaded.has(name));
    loadWeights(executor, { params: [...absent, ...own.filter((info) => !isAdapter(info))], param }, source);
    places?.done();
    for (const { name, type } of fresh) here.shared.set(name, { type, address: param.get(name)! });
    if (adapter) writeAdapterWeights({ executor, resident: { params, param }, streamed, source, config, tuning }, adapter);
    const isClean = here.region !== null && here.region.bytes >= plan.bytes;
    if (!isClean) {
      if (here.users > 0) throw noMemory("the adapter needs more workspace than there is while others answer; come back soon", 1);
      here.clear();
      if (here.region) pool.give(here.region.address);
      if (here.mixed) pool.give(here.mixed.table);
      here.mixed = undefined;
      const size = plan.bytes + HEADROOM;
      here.region = { address: pool.take(size), bytes: size };
    }
    const others = { areThere: isClean, endOf: slots.endOf };
    const decoders = startDecoders(executor, programs, plan, { param, gradient: new Map() }, here.region!.address, {
      others,
      streamed,
    });
    return { decoders, entries: adapterEntries(config, adapter, param), own: address };
  } catch (error) {
    if (address !== null) pool.give(address);
    throw error;
  }
}

/** The weights of the base model that a variant has others of, with their scales: those of the adapter, and a head that was the embedding. */
function replacedNames(adapter: Adapter | null, params: readonly ParamInfo[], source: TensorSource): ReadonlySet<string> {
  if (adapter === null || adapter.whole.size + adapter.copies.size === 0) return new Set();
  const names = [...adapter.whole.keys(), ...adapter.copies.keys()];
  const untied = params.map(({ name }) => name).filter((name) => !source.tensors.has(name));
  const all = [...names, ...untied.filter((name) => !isScales({ name }))];
  return new Set([...all, ...all.map(scalesOf)]);
}

/** Finds the places of weights that variants share. Returns those that have none yet. */
function shareWeights({ shared }: Loaded, params: readonly ParamInfo[], places: Map<string, Address>): ParamInfo[] {
  return params.filter(({ name, type }) => {
    const known = shared.get(name);
    if (known && !sameType(known.type, type)) throw new Error(`${name} lies in memory as another type`);
    if (known) places.set(name, known.address);
    return !known;
  });
}
