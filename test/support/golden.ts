import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import { SLOW } from "./slow.ts";

/** The fixtures of test/golden/models; its README describes the files. */
const ROOT = join(import.meta.dir, "../golden/models");

export const FAMILIES = [
  "llama",
  "llama-linear",
  "mistral",
  "ministral",
  "ministral3",
  "mistral3",
  "qwen2",
  "qwen3",
  "qwen3-moe",
  "qwen3-bare",
  "qwen2.5-vl",
  "qwen3-vl",
  "qwen3.5",
  "qwen3.5-text",
  "qwen3.5-moe",
  "qwen3-next",
  "smollm2",
  "smollm3",
  "cwm",
  "seed-oss",
  "granite",
  "gemma",
  "gemma2",
  "gemma3",
  "gemma3-vision",
  "gemma4",
  "gemma4-multimodal",
  "gemma4-moe",
  "phi3",
  "phi4-mini",
  "internlm2",
  "internlm3",
  "lfm2",
  "lfm2-bias",
  "lfm2-moe",
  "olmo2",
  "olmo3",
  "olmoe",
  "exaone4",
  "hunyuan",
  "ernie45",
  "glm",
  "glm4",
  "cohere2",
  "granite4",
  "phi",
  "gpt-oss",
  "gpt-oss-mxfp4",
  "gpt2",
  "opt",
  "gpt-neox",
  "gpt-neox-serial",
  "stablelm",
  "starcoder2",
  "nemotron",
] as const;
/** Families whose tokens attend to both sides. */
export const ENCODERS = ["bert", "roberta", "xlm-roberta", "distilbert", "modernbert"] as const;
export type GoldenFamily = (typeof FAMILIES)[number] | (typeof ENCODERS)[number];

/** Families of parts that others' fixtures have too: their readers and names are new. The plain suite has fewer cases of them. */
const KIN: readonly GoldenFamily[] = [
  "qwen3-bare",
  "qwen2.5-vl",
  "qwen3-vl",
  "cwm",
  "seed-oss",
  "ministral",
  "mistral3",
  "gemma",
  "gemma4-multimodal",
  "gemma4-moe",
  "xlm-roberta",
  "lfm2-bias",
  "lfm2-moe",
  "qwen3.5-text",
  "qwen3.5-moe",
  "qwen3-next",
  "olmo2",
  "olmo3",
  "olmoe",
  "exaone4",
  "hunyuan",
  "ernie45",
  "glm",
  "glm4",
  "cohere2",
  "granite4",
  "phi",
  "gpt-oss-mxfp4",
  "gpt2",
  "opt",
  "gpt-neox",
  "gpt-neox-serial",
  "stablelm",
  "starcoder2",
  "nemotron",
];

export const isFewer = (family: GoldenFamily): boolean => !SLOW && KIN.includes(family);

export const METHODS = ["full", "lora"] as const;
export type GoldenMethod = (typeof METHODS)[number];

export const BATCHES = ["padded", "rows", "packed"] as const;
export type GoldenBatch = (typeof BATCHES)[number];

/** Model folder of a family, and its PEFT adapter. */
export const modelFolder = (family: GoldenFamily): string => join(ROOT, family);
export const adapterFolder = (family: GoldenFamily): string => join(ROOT, family, "adapter");
export const batchFile = (family: GoldenFamily, batch: GoldenBatch): string =>
  join(ROOT, family, "batches", `${batch}.safetensors`);

/** Describes what PyTorch computed for one batch. */
export interface Expected {
  readonly loss: number;
  /** [sequences * length, vocabulary]; zeros at padding. */
  readonly logits: Float32Array;
  /** By parameter name; empty where the fixture holds none. */
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

export function readExpected(family: GoldenFamily, method: GoldenMethod, batch: GoldenBatch): Expected {
  const values = readTensors(join(ROOT, family, "expected", `${method}-${batch}.safetensors`));
  const { loss, logits, ...gradients } = Object.fromEntries(values);
  return { loss: loss![0]!, logits: logits!, gradients: new Map(Object.entries(gradients)) };
}

/** All tensors of a file as f32. */
export function readTensors(path: string): Map<string, Float32Array> {
  const source = openSafetensors(path);
  try {
    return new Map([...source.tensors.values()].map(({ name, shape }) => [name, readFloat32(source, name, shape)]));
  } finally {
    source.close();
  }
}

/** Positions of a batch that are not padding, in the order of the flattened rows. */
export function tokenPositions(family: GoldenFamily, batch: GoldenBatch): Int32Array {
  const source = openSafetensors(batchFile(family, batch));
  try {
    const [rows, length] = source.tensors.get("input_ids")!.shape as [number, number];
    const entry = source.tensors.get("attention_mask");
    const mask = entry && new BigInt64Array(readBytes(source, entry).buffer);
    return Int32Array.from(Array(rows * length).keys()).filter((position) => !mask || mask[position] === 1n);
  } finally {
    source.close();
  }
}

/** The losses before each AdamW step and after the last one, on the padded batch, and the settings that gave them. */
export interface ExpectedAdamW {
  readonly adamw: {
    readonly learning_rate: Readonly<Record<GoldenMethod, number>>;
    readonly betas: readonly [number, number];
    readonly eps: number;
    readonly weight_decay: number;
    readonly clip: number;
    readonly steps: number;
  };
  readonly losses: Readonly<Record<GoldenMethod | `${GoldenMethod}-clipped`, readonly number[]>>;
}

export function readAdamW(family: GoldenFamily): ExpectedAdamW {
  return JSON.parse(readFileSync(join(ROOT, family, "expected/adamw.json"), "utf8")) as ExpectedAdamW;
}

export interface GoldenAdapter {
  readonly rank: number;
  readonly alpha: number;
  readonly targets: readonly string[];
  /** By PEFT name. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
}

/**
 * Tells whether the gradient of a parameter is 0 in exact arithmetic: a bias of keys that are not rotated adds the same to all scores of a query, which softmax
 * does not see.
 */
export const isZero = (parameter: string): boolean => /(\.(key|k_lin)|model\.decoder\..*\.k_proj)\.bias$/.test(parameter);

/** Returns what a family's fixtures train: everything, or its adapter, without dropout. */
export function goldenTuning(family: GoldenFamily, method: GoldenMethod): Tuning {
  if (method === "full") return { method };
  const { rank, alpha, targets, tensors } = readAdapter(family);
  const tuning = uniformAdapters({ rank, scale: alpha / rank, dropout: 0, targets: new Set(targets) });
  if (!ENCODERS.some((encoder) => encoder === family)) return tuning;
  // The last parts of their names tell the modules of blocks from those of heads no more.
  const modules = new Set(Array.from(tensors.keys(), (name) => /^base_model\.model\.(.+)\.lora_[AB]\.weight$/.exec(name)![1]!));
  return { ...tuning, adapts: (module) => (modules.has(module) ? tuning.adapts(module) : null) };
}

export function readAdapter(family: GoldenFamily): GoldenAdapter {
  const folder = adapterFolder(family);
  const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")) as {
    r: number;
    lora_alpha: number;
  };
  const tensors = readTensors(join(folder, "adapter_model.safetensors"));
  return {
    rank: config.r,
    alpha: config.lora_alpha,
    // The configuration may have a regular expression.
    targets: [...new Set(Array.from(tensors.keys(), (name) => /\.(\w+)\.lora_[AB]\.weight$/.exec(name)![1]!))],
    tensors,
  };
}

/** |actual - expected| / |expected|, in the Euclidean norm. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Infinity;
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm);
}
