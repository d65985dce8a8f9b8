import { dirname } from "node:path";
import { createRandom } from "../base/random.ts";
import { UserError } from "../base/errors.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import type { TensorEntry, TensorSource } from "../hf/weights/safetensors.ts";
import type { ModelConfig } from "../models/config.ts";
import { TEXT_HEAD_WEIGHT } from "../models/names.ts";

/** How far the first values of a new head are from 0: Transformers' `initializer_range`. */
const DEVIATION = 0.02;

/** A checkpoint with a new head for texts beside its own tensors, drawn from the seed. */
export function withNewHead(source: TensorSource, outputs: number, columns: number, seed: number): TensorSource {
  const random = createRandom(seed, TEXT_HEAD_WEIGHT);
  const values = Float32Array.from({ length: outputs * columns }, () => DEVIATION * random.normal());
  const bytes = new Uint8Array(values.buffer);
  const entry: TensorEntry = {
    name: TEXT_HEAD_WEIGHT,
    stored: "F32",
    dtype: "f32",
    shape: [outputs, columns],
    path: "a new head",
    offset: 0,
    bytes: bytes.length,
  };
  return {
    ...source,
    tensors: new Map([...source.tensors, [TEXT_HEAD_WEIGHT, entry]]),
    read(wanted, target, from = 0) {
      if (wanted.path === entry.path) target.set(bytes.subarray(from, from + target.length));
      else source.read(wanted, target, ...(from === 0 && target.length === wanted.bytes ? [] : [from]));
    },
  };
}

/** A model's configuration with the head that an adapter brings along; as it is where it brings none. */
export function withHeadOf(config: ModelConfig, adapter: Adapter | null): ModelConfig {
  const entry = adapter?.whole.get(TEXT_HEAD_WEIGHT);
  return entry ? { ...config, textHead: { outputs: entry.shape[0]!, padId: config.padTokenId } } : config;
}

/** The name of a model for messages: its adapter's folder, where it has one. */
export function nameOf({ name, adapter }: { readonly name: string; readonly adapter: Adapter | null }): string {
  return adapter === null ? name : dirname(adapter.path);
}

/** @throws {UserError} a model that judges texts, where tokens are to be predicted */
export function expectTokens({ textHead }: Pick<ModelConfig, "textHead">, name: string): void {
  if (textHead === null) return;
  throw new UserError(
    `${name} judges whole texts (a classifier or reward model) and predicts no tokens; remat classify runs it, and remat eval with --objective classify or reward measures it`,
  );
}
