import { dirname } from "node:path";
import { createRandom } from "../base/random.ts";
import { UserError } from "../base/errors.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import type { TensorEntry, TensorSource } from "../hf/weights/safetensors.ts";
import type { ModelConfig } from "../models/config.ts";
import { textHeadOf, textHeadShapes } from "../models/families/index.ts";
import { elements } from "../graph/types.ts";

/** How far the first values of a new head are from 0: Transformers' `initializer_range`. */
const DEVIATION = 0.02;

/** The path of the tensors that are in no file. */
const NEW = "a new head";

/** A checkpoint with what it lacks of a head for texts beside its own tensors: matrices are drawn from the seed, biases are 0, norms 1. */
export function withNewHead(
  source: TensorSource,
  model: Pick<ModelConfig, "family" | "hiddenSize">,
  outputs: number,
  seed: number,
): TensorSource {
  const made = new Map<string, Uint8Array>();
  const tensors = new Map(source.tensors);
  const norm = `${textHeadOf(model).dense?.norm}.weight`;
  for (const [name, shape] of textHeadShapes(model, outputs)) {
    if (tensors.has(name)) continue;
    const random = createRandom(seed, name);
    const first = name === norm ? 1 : 0;
    const values = Float32Array.from({ length: elements(shape) }, () =>
      shape.length === 1 ? first : DEVIATION * random.normal(),
    );
    const bytes = new Uint8Array(values.buffer);
    made.set(name, bytes);
    const entry: TensorEntry = { name, stored: "F32", dtype: "f32", shape, path: NEW, offset: 0, bytes: bytes.length };
    tensors.set(name, entry);
  }
  return {
    ...source,
    tensors,
    read(wanted, target, from = 0) {
      if (wanted.path === NEW) target.set(made.get(wanted.name)!.subarray(from, from + target.length));
      else source.read(wanted, target, ...(from === 0 && target.length === wanted.bytes ? [] : [from]));
    },
  };
}

/** A model's configuration with the head that an adapter brings along; as it is where it brings none. */
export function withHeadOf(config: ModelConfig, adapter: Adapter | null): ModelConfig {
  const entry = adapter?.whole.get(`${textHeadOf(config).output}.weight`);
  return entry ? { ...config, textHead: { outputs: entry.shape[0]!, padId: config.padTokenId } } : config;
}

/** A model's configuration with its own head as one that picks among tokens. */
export function withOptions(config: ModelConfig, options: readonly number[]): ModelConfig {
  return { ...config, textHead: { outputs: options.length, padId: null, options } };
}

/** The name of a model for messages: its adapter's folder, where it has one. */
export function nameOf({ name, adapter }: { readonly name: string; readonly adapter: Adapter | null }): string {
  return adapter === null ? name : dirname(adapter.path);
}

/** @throws {UserError} a model that judges texts, where tokens are to be predicted */
export function expectTokens({ textHead }: Pick<ModelConfig, "textHead">, name: string): void {
  if (textHead === null || textHead.options) return;
  throw new UserError(
    `${name} judges whole texts (a classifier, reward model or reranker) and predicts no tokens; remat classify or rerank runs it, and remat eval with --objective classify, reward or rerank measures it`,
  );
}
