import type { Device } from "../../device.ts";
import { cacheBytes } from "../../generate/decoders.ts";
import { stopTokens } from "../../generate/generate.ts";
import { roomOf } from "../../generate/open-decoder.ts";
import { kindOf } from "../../generate/texts/open-texts.ts";
import { type ReadWeightsOptions, SPARE } from "../../load/open-weights.ts";
import { type OpenModel, tokenizerWith } from "../../load/open-model.ts";
import type { StoredWeightsOptions } from "../../load/stored/stored-weights.ts";
import type { WeightStorage } from "../../load/weights.ts";
import { contextLimit } from "../../models/context.ts";
import type { AnsweringModel } from "../answer-orders.ts";
import type { NamedModel } from "../completions.ts";
import { expectAnswers } from "../classifiers/text-turns.ts";
import { createEncoder } from "../encoder.ts";
import { refusing } from "../http/errors.ts";
import type { Executor } from "../../runtime/executor.ts";
import { createRounds } from "./rounds.ts";
import { createSlots, type Slots } from "./slots.ts";
import {
  bytesOfAdapter,
  createVariants,
  noMemory,
  openStreamedVariants,
  type Variant,
  type Variants,
  type VariantsOptions,
} from "./variants.ts";
import { streamedBytes } from "./streamed-base.ts";
import { createHostMemory, type HostMemory, type LentExecutor } from "./host-memory.ts";
import { createTextModels, type TextModels, weightsOf } from "./text-models.ts";

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
  /** Weights stay in their files and are read for each pass; by default only where the executor has no addresses for them. */
  readonly isStreamed?: boolean | undefined;
  /** How weights are prepared that stay in their files; null: they never do. */
  readonly stored?: StoredWeightsOptions | null | undefined;
  /** How the weights of models that read whole texts are read. */
  readonly reading?: ReadWeightsOptions | undefined;
  readonly sampling: AnsweringModel["sampling"];
  /** Tells whether so many more bytes may be taken; asked for adapters (default: any number). */
  readonly hasRoom?: ((bytes: number) => boolean) | undefined;
  /**
   * Has others give way before so many more bytes are taken, and returns what is called right before they are; null: they do not. The model
   * itself is in `bytes` when it is asked for.
   */
  readonly makeRoom?: ((bytes: number) => Promise<(() => void) | null>) | undefined;
  openDevice(): Promise<Device>;
}

/** A base model that answers, alone and with adapters: its weights are in memory once, from the first answer on. */
export interface Host {
  readonly name: string;
  readonly model: OpenModel;
  /** The models on the base model that read whole texts, and which they are. */
  readonly texts: TextModels;
  /** The longest text, in tokens. */
  readonly maxTokens: number;
  /**
   * The base model (null) or one with the adapter of a folder, under a name.
   * @throws {ApiError} one that generates no text
   * @throws {ApiError} a folder that is no adapter; one that does not fit is told when it is to answer
   */
  named(name: string, adapter: string | null): NamedModel;
  /** Frees what an adapter takes. */
  drop(adapter: string): void;
  /** Bytes that the model takes in memory: about, until it is loaded, exactly from then on. */
  bytes(): number;
  readonly isLoaded: boolean;
  /** True from when it is first needed. */
  readonly isLoading: boolean;
  /** Adapters in memory. */
  readonly adapters: number;
  /** Frees the model and its adapters where no answer has been made for so many milliseconds: it is loaded again by the next one. */
  unload(idleMs: number): void;
  close(): void;
}

/** Bytes of an executor besides its model: threads, programs. */
const EXECUTOR_BYTES = 64 << 20;

export function createHost(options: HostOptions): Host {
  const { model, conversations, sampling } = options;
  const { makeRoom = () => Promise.resolve(() => {}) } = options;
  const memory = createHostMemory(model, options.openDevice);
  const { texts, maxTokens } = textsOf(options, memory);
  let slots = createSlots(conversations);
  /** Answers that are made or wait for the model, and when the last one ended. */
  let users = 0;
  let lastUse = performance.now();
  let loaded: Answering | null = null;
  const rounds = createRounds<Variant>((texts) => loaded!.variants.groups(texts));
  let loading: Promise<Variants> | null = null;
  let isLoading = false;
  let isClosed = false;
  let encoder: ReturnType<typeof createEncoder> | null = null;

  const load = async (): Promise<Variants> => {
    isLoading = true;
    const take = await makeRoom(0);
    if (!take) throw noMemory("the model has to wait for memory that jobs hold; come back later", 30);
    take();
    loaded = await openAnswering(memory, options, maxTokens, slots);
    const { variants } = loaded;
    if (isClosed) free();
    return variants;
  };
  const free = (): void => {
    loaded?.free();
    loaded = null;
  };
  const begin = () =>
    load().finally(() => {
      loading = null;
      isLoading = false;
    });
  const ready = async (): Promise<Variants> => loaded?.variants ?? (await (loading ??= begin()));

  const left = () => {
    users--;
    lastUse = performance.now();
  };

  return {
    name: options.name,
    model,
    texts,
    maxTokens,
    named(name, adapter) {
      expectAnswers(name, texts.kindOf(adapter));
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
        async seatFor(prompt) {
          users++;
          try {
            const variants = await ready();
            if (adapter !== null && !variants.holds(adapter)) (await makeRoom(bytesOfAdapter(adapter)))?.();
            const variant = refusing("model", "invalid_model", () => variants.enter(adapter));
            const slot = slots.enter(variant, variant.decoders.each, prompt);
            return {
              decoder: slot.decoder,
              next: (ids) => rounds.next(variant, slot.index, ids),
              leave() {
                slot.leave();
                variants.leave(variant);
                left();
              },
            };
          } catch (error) {
            left();
            throw error;
          }
        },
      };
      return { model: answering, encoder };
    },
    drop(adapter) {
      loaded?.variants.drop(adapter);
      texts.drop(adapter);
    },
    bytes: () => bytesOf(options, { texts, maxTokens }, memory.reserved, loaded !== null),
    get isLoaded() {
      return loaded !== null || texts.isLoaded;
    },
    get isLoading() {
      return isLoading || texts.isLoading;
    },
    get adapters() {
      return (loaded?.variants.adapters ?? 0) + texts.adapters;
    },
    unload(idleMs) {
      texts.unload(idleMs);
      if (!loaded || users > 0 || performance.now() - lastUse < idleMs) return;
      free();
      slots = createSlots(conversations);
    },
    close() {
      isClosed = true;
      encoder?.close();
      free();
      texts.close();
      model.close();
    },
  };
}

/** The models on a base model that read whole texts, and the longest text that the base model takes. */
function textsOf(options: HostOptions, memory: HostMemory): Pick<Host, "texts" | "maxTokens"> {
  const { model, adapters, reading = {}, hasRoom = () => true, makeRoom = () => Promise.resolve(() => {}) } = options;
  // What is asked for is a limit of all models; one that reads whole texts may take no longer ones.
  const most = options.maxTokens && Math.min(options.maxTokens, contextLimit(model.config));
  const rest = { hasRoom, makeRoom, reading, most: adapters, spare: EXECUTOR_BYTES, memory };
  return {
    texts: createTextModels({ model, storage: options.storage, maxTokens: most, ...rest }),
    maxTokens: roomOf(model.config, kindOf(model) === "answers" ? options.maxTokens : most),
  };
}

/**
 * @param reserved bytes of the memory that all models on the base have
 * @param answers the model that answers is in it
 */
function bytesOf(
  options: HostOptions,
  { texts, maxTokens }: Pick<Host, "texts" | "maxTokens">,
  reserved: number,
  answers: boolean,
): number {
  const inTexts = reserved === 0 ? 0 : reserved + texts.spareBytes();
  if (texts.kindOf(null) !== "answers") return Math.max(inTexts, weightsOf(options.model) + EXECUTOR_BYTES);
  return inTexts + (answers ? EXECUTOR_BYTES : residentBytes(options, maxTokens));
}

/** A model that answers, in a host's memory. */
interface Answering {
  readonly variants: Variants;
  /** Gives back what it takes there. */
  free(): void;
}

async function openAnswering(memory: HostMemory, options: HostOptions, maxTokens: number, slots: Slots): Promise<Answering> {
  const { model, storage, conversations: texts, adapters: most, hasRoom = () => true } = options;
  let lent: LentExecutor | null = null;
  const leave = () => {
    lent?.free();
    memory.leave();
  };
  try {
    const { weights, lend } = await memory.enter();
    lent = lend();
    const wanted = { model: { ...model, ...storage }, maxTokens, slots, texts, most, weights, hasRoom };
    const variants = await openVariants(lent.executor, wanted, options, residentBytes(options, maxTokens));
    return { variants, free: () => (variants.close(), leave()) };
  } catch (error) {
    leave();
    throw error;
  }
}

/** Leaves weights in their files where that is wanted, or where the executor has no addresses for so many bytes. */
async function openVariants(
  executor: Executor,
  wanted: VariantsOptions,
  { isStreamed, stored = null }: Pick<HostOptions, "isStreamed" | "stored">,
  bytes: number,
): Promise<Variants> {
  const streams = stored !== null && (isStreamed || bytes > executor.capacity - SPARE);
  return streams ? openStreamedVariants(executor, wanted, stored) : createVariants(executor, wanted);
}

/** Bytes that a model takes in memory, about. */
function residentBytes({ model, conversations, isStreamed }: HostOptions, maxTokens: number): number {
  const weights = isStreamed ? streamedBytes(model.source) : weightsOf(model);
  return weights + conversations * cacheBytes(model.config, maxTokens) + EXECUTOR_BYTES;
}
