import { statSync } from "node:fs";
import { join } from "node:path";
import { type DecoderPlan, type Decoders, planDecoder, startDecoders } from "../../generate/decoders.ts";
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
import type { Slots } from "./slots.ts";

/** A model in memory: the base alone, or with an adapter. */
export interface Variant {
  /** Tells a folder's files apart from those that were in it before. */
  readonly stamp: string;
  readonly decoders: Decoders;
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
  /** Adapters in memory. */
  readonly adapters: number;
}

/** The part of the executor's memory that is there for all variants. */
interface Loaded {
  readonly executor: Executor;
  readonly programs: Programs;
  readonly pool: Pool;
  /** Weights of the base model, by name. */
  readonly shared: Map<string, { readonly type: ParamInfo["type"]; readonly address: Address }>;
  readonly shapes: Map<string, Shape>;
  /** Caches, inputs, boundaries and workspace. */
  region: { readonly address: Address; readonly bytes: number } | null;
  /** Answers that are made with any variant. */
  users: number;
  /** Frees all variants. */
  clear(): void;
}

/** Bytes that adapters may need for their workspace beside the base model's. */
const HEADROOM = 4 << 20;

export function createVariants(executor: Executor, options: VariantsOptions): Variants {
  const { model, slots, most } = options;
  /** By folder; "" is the base model. The one that was used longest ago is first. */
  const variants = new Map<string, Variant>();
  const here: Loaded = {
    executor,
    programs: createPrograms(executor),
    pool: createPool(executor),
    shared: new Map(),
    shapes: new Map(),
    region: null,
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
  const load = (folder: string | null): Pick<Variant, "decoders" | "own"> => {
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
    get adapters() {
      return adapters();
    },
  };
}

const noMemory = (message: string, seconds: number) =>
  new ApiError(503, message, { code: "no_memory", headers: { "retry-after": String(seconds) } });

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

/**
 * Puts a model into memory: of its weights only those that are not there yet for another variant.
 * @throws {UserError} an adapter that does not fit
 */
function startVariant(
  here: Loaded,
  { model: base, maxTokens, texts, slots }: VariantsOptions,
  adapter: Adapter | null,
  makeRoom: (bytes: number) => void,
): Pick<Variant, "decoders" | "own"> {
  const { executor, programs, shapes, pool } = here;
  const { config, source } = withReplacedWeights({ config: base.config, source: base.source }, adapter);
  const tuning = adapterTuning(adapter, config);
  const key = shapeKey(adapter);
  let shape = shapes.get(key);
  if (!shape) {
    const types = { weightType: weightTypeOf(executor, source, base), compute: computeType(executor, base.dtype) };
    const plan = planDecoder(programs, config, { tuning, ...types }, maxTokens, texts);
    shapes.set(key, (shape = { plan, params: collectParams([...plan.chains.values()][0]!) }));
  }
  const { plan, params } = shape;
  const replaced = replacedNames(adapter, params, base.source);
  const own = params.filter((param) => isAdapter(param) || replaced.has(param.name));
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
    const fresh = shareWeights(
      here,
      params.filter((info) => !own.includes(info)),
      param,
    );
    loadWeights(executor, { params: [...fresh, ...own.filter((info) => !isAdapter(info))], param }, source);
    for (const { name, type } of fresh) here.shared.set(name, { type, address: param.get(name)! });
    if (adapter) writeAdapterWeights({ executor, resident: { params, param }, streamed: null, source, config, tuning }, adapter);
    const isClean = here.region !== null && here.region.bytes >= plan.bytes;
    if (!isClean) {
      if (here.users > 0) throw noMemory("the adapter needs more workspace than there is while others answer; come back soon", 1);
      here.clear();
      if (here.region) pool.give(here.region.address);
      const size = plan.bytes + HEADROOM;
      here.region = { address: pool.take(size), bytes: size };
    }
    const others = { areThere: isClean, endOf: slots.endOf };
    const decoders = startDecoders(executor, programs, plan, { param, gradient: new Map() }, here.region!.address, { others });
    return { decoders, own: address };
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

/** Finds places for weights that variants share. Returns those that have to be loaded. */
function shareWeights({ shared, executor }: Loaded, params: readonly ParamInfo[], places: Map<string, Address>): ParamInfo[] {
  return params.filter(({ name, type }) => {
    const known = shared.get(name);
    if (known && !sameType(known.type, type)) throw new Error(`${name} lies in memory as another type`);
    places.set(name, known?.address ?? executor.reserve(byteLength(type)));
    return !known;
  });
}
