import { statSync } from "node:fs";
import { join } from "node:path";
import type { Device } from "../../device.ts";
import { cacheBytes, type DecoderPlan, type Decoders, planDecoder, startDecoders } from "../../generate/decoders.ts";
import { stopTokens } from "../../generate/generate.ts";
import { roomOf } from "../../generate/open-decoder.ts";
import { byteLength, sameType } from "../../graph/types.ts";
import { CHECKPOINT_FILE, TENSOR_FILE } from "../../hf/peft/adapter-folder.ts";
import type { Adapter } from "../../hf/peft/peft.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../../load/adapter.ts";
import { openAdapterOf, type OpenModel, tokenizerWith } from "../../load/open-model.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../../load/weights.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { isAdapter } from "../../models/adapters/names.ts";
import { isScales, scalesOf } from "../../models/linear.ts";
import { createPrograms, type Programs } from "../../runtime/chain.ts";
import { type Address, align, type Executor } from "../../runtime/executor.ts";
import { collectParams, type ParamInfo } from "../../runtime/resident.ts";
import type { AnsweringModel } from "../answer-orders.ts";
import type { NamedModel } from "../completions.ts";
import { createEncoder } from "../encoder.ts";
import { ApiError, refusing } from "../http/errors.ts";
import { createPool, type Pool } from "./pool.ts";
import { createSlots } from "./slots.ts";

export interface HostOptions {
  /** As clients call it. */
  readonly name: string;
  readonly model: OpenModel;
  readonly storage: WeightStorage;
  /** The longest text, in tokens (default: the model's context, at most 4096). */
  readonly maxTokens?: number | undefined;
  /** Texts whose keys and values are kept, of the base and all adapters together. */
  readonly conversations: number;
  /** Adapters that are in memory at a time. */
  readonly adapters: number;
  readonly sampling: AnsweringModel["sampling"];
  /** Tells whether so many more bytes may be taken; asked for adapters (default: any number). */
  readonly hasRoom?: ((bytes: number) => boolean) | undefined;
  openDevice(): Promise<Device>;
}

/** A base model that answers, alone and with adapters: its weights are in memory once, from the first answer on. */
export interface Host {
  readonly name: string;
  readonly model: OpenModel;
  /**
   * The base model (null) or one with the adapter of a folder, under a name.
   * @throws {ApiError} a folder that is no adapter; one that does not fit is told when it is to answer
   */
  named(name: string, adapter: string | null): NamedModel;
  /** Frees what an adapter takes. */
  drop(adapter: string): void;
  /** Bytes that the model takes in memory: about, until it is loaded, exactly from then on. */
  bytes(): number;
  readonly isLoaded: boolean;
  /** Adapters in memory. */
  readonly adapters: number;
  close(): void;
}

/** A model in memory: the base alone, or with an adapter. */
interface Variant {
  /** Tells a folder's files apart from those that were in it before. */
  readonly stamp: string;
  readonly decoders: Decoders;
  /** The memory that it does not share with the base model. */
  readonly own: Address | null;
}

/** The part of the executor's memory that is there for all variants. */
interface Loaded {
  readonly device: Device;
  readonly executor: Executor;
  readonly programs: Programs;
  readonly pool: Pool;
  /** Weights of the base model, by name. */
  readonly shared: Map<string, { readonly type: ParamInfo["type"]; readonly address: Address }>;
  readonly shapes: Map<string, Shape>;
  /** Frees all variants. */
  clear(): void;
  /** Caches, inputs, boundaries and workspace. */
  region: { readonly address: Address; readonly bytes: number } | null;
  /** By folder; "" is the base model. The one that was used longest ago is first. */
  readonly variants: Map<string, Variant>;
}

/** Bytes that adapters may need for their workspace beside the base model's. */
const HEADROOM = 4 << 20;
/** Bytes of an executor besides its model: threads, programs. */
const EXECUTOR_BYTES = 64 << 20;

export function createHost(options: HostOptions): Host {
  const { model, conversations, storage, sampling } = options;
  const maxTokens = roomOf(model.config, options.maxTokens);
  const slots = createSlots(conversations);
  let loaded: Loaded | null = null;
  let loading: Promise<Loaded> | null = null;
  let isClosed = false;
  let encoder: ReturnType<typeof createEncoder> | null = null;

  const load = async (): Promise<Loaded> => {
    const device = await options.openDevice();
    const { executor } = device;
    const programs = createPrograms(executor);
    const made: Loaded = {
      device,
      executor,
      programs,
      pool: createPool(executor),
      shared: new Map(),
      shapes: new Map(),
      clear: () => [...made.variants.keys()].forEach(drop),
      region: null,
      variants: new Map(),
    };
    if (isClosed) device.close();
    else loaded = made;
    return made;
  };
  const ready = async (): Promise<Loaded> => loaded ?? (await (loading ??= load().finally(() => (loading = null))));

  const drop = (key: string): void => {
    const variant = loaded?.variants.get(key);
    if (!variant) return;
    loaded!.variants.delete(key);
    slots.forget(variant);
    if (variant.own !== null) loaded!.pool.give(variant.own);
  };

  const variantOf = (here: Loaded, folder: string | null): Variant => {
    const key = folder ?? "";
    const stamp = stampOf(folder);
    let variant = here.variants.get(key);
    if (variant && variant.stamp !== stamp) {
      drop(key);
      variant = undefined;
    }
    if (!variant) {
      const adapter = folder === null ? null : openAdapterOf(model, folder);
      const dropOldest = (): boolean => {
        const oldest = [...here.variants.keys()].find((name) => name !== "");
        if (oldest !== undefined) drop(oldest);
        return oldest !== undefined;
      };
      try {
        if (folder !== null && adaptersOf(here) >= options.adapters) dropOldest();
        const makeRoom = (bytes: number) => {
          while (here.pool.grows(bytes) && options.hasRoom?.(bytes) === false) {
            if (dropOldest()) continue;
            throw new ApiError(503, "the adapter has to wait for memory that jobs hold; come back later", {
              code: "no_memory",
              headers: { "retry-after": "30" },
            });
          }
        };
        variant = {
          stamp,
          ...startVariant(here, { ...model, ...storage }, adapter, { maxTokens, texts: conversations, makeRoom }),
        };
      } finally {
        adapter?.source.close();
      }
    }
    here.variants.delete(key);
    here.variants.set(key, variant);
    return variant;
  };

  return {
    name: options.name,
    model,
    named(name, adapter) {
      const tokenizer =
        adapter === null ? model.tokenizer : refusing("model", "invalid_model", () => tokenizerWith(model, adapter));
      encoder ??= createEncoder(model.tokenizer);
      const answering: AnsweringModel = {
        name,
        tokenizer,
        vocabSize: model.config.vocabSize,
        stop: stopTokens(model.config, tokenizer),
        sampling,
        maxTokens,
        async decoderFor(prompt) {
          const here = await ready();
          const variant = refusing("model", "invalid_model", () => variantOf(here, adapter));
          return slots.choose(variant, variant.decoders.each, prompt);
        },
      };
      return { model: answering, encoder };
    },
    drop,
    bytes() {
      if (loaded) return loaded.executor.reserved + EXECUTOR_BYTES;
      const weights = [...model.source.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
      return weights + conversations * cacheBytes(model.config, maxTokens) + EXECUTOR_BYTES;
    },
    get isLoaded() {
      return loaded !== null;
    },
    get adapters() {
      return loaded === null ? 0 : adaptersOf(loaded);
    },
    close() {
      isClosed = true;
      encoder?.close();
      loaded?.device.close();
      model.close();
    },
  };
}

const adaptersOf = ({ variants }: Loaded): number => variants.size - (variants.has("") ? 1 : 0);

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
  base: OpenModel & WeightStorage,
  adapter: Adapter | null,
  { maxTokens, texts, makeRoom }: { readonly maxTokens: number; readonly texts: number; makeRoom(bytes: number): void },
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
      here.clear();
      if (here.region) pool.give(here.region.address);
      const size = plan.bytes + HEADROOM;
      here.region = { address: pool.take(size), bytes: size };
    }
    const decoders = startDecoders(executor, programs, plan, { param, gradient: new Map() }, here.region!.address, { isClean });
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
