import { byteLength, formatType } from "../graph/types.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { matrixOf } from "../models/linear.ts";
import type { Address, Executor } from "../runtime/executor.ts";
import { type ParamInfo } from "../runtime/resident.ts";

/** Weights of one base model in an executor's memory, each once for all models on it. */
export interface SharedWeights {
  /** Bytes of a model's weights that are there already. */
  held(source: TensorSource, params: readonly ParamInfo[]): number;
  /** Finds a place for each frozen weight that a model has from the base's files; those of its own have none. */
  place(source: TensorSource, params: readonly ParamInfo[]): SharedPlaces;
}

export interface SharedPlaces {
  readonly param: ReadonlyMap<string, Address>;
  /** Names of those that are there already; the others are to be loaded. */
  readonly loaded: ReadonlySet<string>;
  /** The others are loaded now. */
  done(): void;
}

/** @param files the base model's own, which do not change while it is open */
export function createSharedWeights(executor: Pick<Executor, "reserve">, files: TensorSource["files"]): SharedWeights {
  const paths = new Set(files.map(({ path }) => path));
  const all = new Map<string, Address>();
  /** Tells weights apart by where they lie in a file, and what they are in memory; null: it is none of the base's. */
  const keyOf = ({ tensors }: TensorSource, { name, type, trainable }: ParamInfo): string | null => {
    const entry = tensors.get(name) ?? tensors.get(matrixOf(name));
    if (trainable || !entry || !paths.has(entry.path)) return null;
    return JSON.stringify([name, formatType(type), entry.path, entry.offset]);
  };
  return {
    held: (source, params) =>
      params.reduce((sum, param) => {
        const key = keyOf(source, param);
        return key !== null && all.has(key) ? sum + byteLength(param.type) : sum;
      }, 0),
    place(source, params) {
      const param = new Map<string, Address>();
      const loaded = new Set<string>();
      const fresh = new Map<string, Address>();
      for (const info of params) {
        const key = keyOf(source, info);
        if (key === null) continue;
        const known = all.get(key);
        if (known !== undefined) loaded.add(info.name);
        else fresh.set(key, executor.reserve(byteLength(info.type)));
        param.set(info.name, known ?? fresh.get(key)!);
      }
      return { param, loaded, done: () => fresh.forEach((address, key) => all.set(key, address)) };
    },
  };
}
