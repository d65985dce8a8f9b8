import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../../base/json.ts";
import { kindOf, type LoadedTexts, type ModelKind, openTexts } from "../../generate/texts/open-texts.ts";
import { EMBEDDING_TASK } from "../../hf/peft/adapter-config.ts";
import { readOptions } from "../../hf/config/classifier.ts";
import { CONFIG_FILE } from "../../hf/peft/adapter-folder.ts";
import { openFound, type OpenModel } from "../../load/open-model.ts";
import type { ReadWeightsOptions } from "../../load/open-weights.ts";
import type { WeightStorage } from "../../load/weights.ts";
import { refusing, refusingLater } from "../http/errors.ts";
import type { HostMemory } from "./host-memory.ts";
import { bytesOfAdapter, noMemory } from "./variants.ts";

export interface TextModelsOptions {
  /** The base model. */
  readonly model: OpenModel;
  readonly storage: WeightStorage;
  readonly maxTokens?: number | undefined;
  readonly reading: ReadWeightsOptions;
  /** Models that are in memory at a time. */
  readonly most: number;
  /** Bytes that each takes beside its weights. */
  readonly spare: number;
  hasRoom(bytes: number): boolean;
  makeRoom(bytes: number): Promise<(() => void) | null>;
  /** Holds the base model's weights, and is shared with what answers. */
  readonly memory: HostMemory;
}

/** The models that read whole texts on a base model: itself (null), or with adapters. The base's weights are in memory once, from the first request on. */
export interface TextModels {
  /** What the base model, or an adapter of a folder, is for. @throws {ApiError} files that are damaged */
  kindOf(adapter: string | null): ModelKind;
  /** Runs with a model in memory. @throws {ApiError} one that does not fit, memory that others hold */
  use<T>(adapter: string | null, run: (texts: LoadedTexts) => Promise<T>): Promise<T>;
  drop(adapter: string): void;
  /** Bytes that those in memory take beside the host's memory, about. */
  spareBytes(): number;
  readonly isLoaded: boolean;
  readonly isLoading: boolean;
  /** Adapters in memory. */
  readonly adapters: number;
  /** Frees those that nobody has used for so many milliseconds. */
  unload(idleMs: number): void;
  close(): void;
}

interface Loaded {
  readonly texts: LoadedTexts;
  readonly stamp: string;
  free(): void;
  users: number;
  lastUse: number;
  isDropped: boolean;
}

export function createTextModels(options: TextModelsOptions): TextModels {
  const { model, hasRoom, makeRoom, memory } = options;
  const own = kindOf(model);
  /** By the adapter's folder; "" is the base model. The one that was used longest ago is first. */
  const all = new Map<string, Loaded>();
  const loading = new Map<string, Promise<Loaded>>();
  const free = (each: Loaded): void => {
    if (each.users === 0) each.free();
    else each.isDropped = true;
  };
  const drop = (key: string): void => {
    const each = all.get(key);
    if (!each) return;
    all.delete(key);
    free(each);
  };
  const dropOldest = (): boolean => {
    const oldest = [...all].find(([, { users }]) => users === 0);
    if (oldest) drop(oldest[0]);
    return oldest !== undefined;
  };
  const load = async (key: string, stamp: string): Promise<Loaded> => {
    const adapter = key === "" ? null : key;
    const beside = (adapter === null ? 0 : bytesOfAdapter(adapter)) + options.spare;
    const needed = () => beside + (memory.reserved === 0 ? weightsOf(model) : 0);
    while (all.size >= options.most && dropOldest());
    while (!hasRoom(needed()) && dropOldest());
    const take = await makeRoom(needed());
    if (!take) throw noMemory("the model has to wait for memory that jobs hold; come back later", 30);
    const found = { name: model.name, folder: model.folder, adapter };
    const opened = refusing("model", "invalid_model", () => openFound(found, { predicts: "anything" }));
    try {
      take();
      try {
        const here = await memory.enter();
        const lent = here.lend();
        try {
          const wanted = { model: { ...opened, ...options.storage, tokenizer: opened.tokenizer }, maxTokens: options.maxTokens };
          const reading = { ...options.reading, shared: here.weights };
          const { texts, close } = await refusingLater("model", "invalid_model", openTexts(lent.executor, wanted, reading));
          const release = () => (close(), lent.free(), opened.close(), memory.leave());
          return { texts, stamp, free: release, users: 0, lastUse: performance.now(), isDropped: false };
        } catch (error) {
          lent.free();
          throw error;
        }
      } catch (error) {
        memory.leave();
        throw error;
      }
    } catch (error) {
      opened.close();
      throw error;
    }
  };
  const ready = async (key: string): Promise<Loaded> => {
    const stamp = key === "" ? "" : stampOf(key);
    if (all.has(key) && all.get(key)!.stamp !== stamp) drop(key);
    const known = all.get(key);
    if (known) return known;
    let coming = loading.get(key);
    if (!coming) {
      coming = load(key, stamp).finally(() => loading.delete(key));
      loading.set(key, coming);
      coming.then((each) => all.set(key, each)).catch(() => {});
    }
    return coming;
  };

  return {
    kindOf: (adapter) => (adapter === null ? own : kindOfAdapter(adapter, model, own)),
    async use(adapter, run) {
      const key = adapter ?? "";
      const each = await ready(key);
      each.users++;
      // The one that was used last is last.
      if (all.delete(key)) all.set(key, each);
      try {
        return await run(each.texts);
      } finally {
        each.users--;
        each.lastUse = performance.now();
        if (each.isDropped && each.users === 0) each.free();
      }
    },
    drop,
    spareBytes: () => options.spare * (all.size + loading.size),
    get isLoaded() {
      return all.size > 0;
    },
    get isLoading() {
      return loading.size > 0;
    },
    get adapters() {
      return all.size - (all.has("") ? 1 : 0);
    },
    unload(idleMs) {
      const now = performance.now();
      for (const [key, { users, lastUse }] of all) if (users === 0 && now - lastUse >= idleMs) drop(key);
    },
    close() {
      for (const key of all.keys()) drop(key);
    },
  };
}

/** Bytes of a model's weights in its files. */
export function weightsOf({ source }: Pick<OpenModel, "source">): number {
  return [...source.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
}

/** PEFT's words for what an adapter is for. */
const KINDS: Readonly<Record<string, ModelKind>> = { [EMBEDDING_TASK]: "embeds", SEQ_CLS: "judges", CAUSAL_LM: "answers" };

function kindOfAdapter(folder: string, { config }: Pick<OpenModel, "config">, base: ModelKind): ModelKind {
  if (refusing("model", "invalid_model", () => readOptions(folder, config.vocabSize)) !== null) return "judges";
  const path = join(folder, CONFIG_FILE);
  const task = existsSync(path) ? refusing("model", "invalid_model", () => readJsonObject(path))["task_type"] : null;
  return (typeof task === "string" ? KINDS[task] : undefined) ?? base;
}

/** Changes when the files of an adapter do. */
function stampOf(folder: string): string {
  const stat = statSync(join(folder, CONFIG_FILE), { throwIfNoEntry: false });
  return stat ? `${stat.ino} ${stat.size} ${stat.mtimeMs}` : "";
}
