import { basename, resolve } from "node:path";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { readGenerationConfig } from "../generate/sampling.ts";
import type { HeadShape, ModelConfig } from "../models/config.ts";
import type { RopeScaling } from "../models/rope.ts";
import { UNROTATED } from "../models/families/reading/gguf.ts";
import { contextLimit } from "../models/context.ts";
import { mergedParameters } from "../hf/peft/merge.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { inverseFrequencies, longRopeAttentionFactor, yarnAttentionFactor } from "../models/rotary-tables.ts";
import type { TensorSource } from "../hf/weights/safetensors.ts";
import { encode } from "./encode.ts";
import { architectureOf, checkExportable, ggufFacts, isUsualYarn, windowInFile } from "./names.ts";
import { spaceTaking, tokenizerMetadata } from "./tokenizer.ts";
import { samplingMetadata } from "./sampling.ts";
import { modelTensors } from "./tensors.ts";
import { type GgufTensor, type GgufType, type GgufValue, writeGguf } from "./write.ts";

/** llama.cpp's numbers for "mostly this type". */
const FILE_TYPES: Readonly<Record<GgufType, number>> = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, bf16: 32 };

export interface GgufModel {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  readonly source: TensorSource;
  /** Merged in on the way. */
  readonly adapter: Adapter | null;
}

/** Writes a model, with its tokenizer and chat template. @throws {UserError} what the format has no place for */
export function exportModel(path: string, model: GgufModel, type: GgufType): void {
  checkExportable(model.config);
  const metadata = new Map([...modelMetadata(model, type), ...tokenizerMetadata(model.tokenizer, model.config)]);
  const { source, adapter } = model;
  const { config, tensors } = mergedParameters(source, adapter, model.config);
  writeGguf(path, metadata, [...modelTensors(config, tensors, source, type), ...ropeFactors(config)]);
}

function modelMetadata({ folder, config, tokenizer }: GgufModel, type: GgufType): Map<string, GgufValue> {
  const architecture = architectureOf(config);
  const rotation: [string, GgufValue][] = [
    ["rope.dimension_count", { u32: config.rotaryDim }],
    ["rope.freq_base", { f32: config.rope.theta }],
  ];
  const own: [string, GgufValue][] = [
    ["block_count", { u32: config.layers }],
    ["context_length", { u32: contextLimit(config) }],
    ["embedding_length", { u32: config.hiddenSize }],
    ["feed_forward_length", { u32: config.intermediateSize }],
    ["attention.head_count", { u32: config.heads }],
    ["attention.head_count_kv", keyHeads(config)],
    ["attention.key_length", { u32: config.headDim }],
    ["attention.value_length", { u32: config.headDim }],
    [`attention.layer_norm_${config.norm === "rms" ? "rms_" : ""}epsilon`, { f32: config.normEps }],
    ...(config.positionTable === null ? rotation : []),
    ["vocab_size", { u32: config.vocabSize }],
  ];
  if (config.convolution) own.push(["shortconv.l_cache", { u32: config.convolution.width }]);
  own.push(...ropeMetadata(config));
  if (config.attentionSoftCap !== null) own.push(["attn_logit_softcapping", { f32: config.attentionSoftCap }]);
  if (config.logitSoftCap !== null) own.push(["final_logit_softcapping", { f32: config.logitSoftCap }]);
  own.push(...expertsMetadata(config));
  own.push(...Object.entries(ggufFacts(config).settings?.(config) ?? {}));
  const window = windowInFile(config);
  if (window !== null) own.push(["attention.sliding_window", { u32: window }]);
  return new Map<string, GgufValue>([
    ["general.architecture", { text: architecture }],
    ["general.type", { text: "model" }],
    ["general.name", { text: nameOf(folder, tokenizer) }],
    ["general.file_type", { u32: FILE_TYPES[type] }],
    ...samplingMetadata(readGenerationConfig(folder).values),
    ["general.quantization_version", { u32: 2 }],
    ...own.map(([key, value]): [string, GgufValue] => [`${architecture}.${key}`, value]),
  ]);
}

/** How many key heads there are: in all layers, or, where some do not attend, in each. */
function keyHeads({ kvHeads, convolution }: ModelConfig): GgufValue {
  return convolution ? { i32s: convolution.layers.map((convolves) => (convolves ? 0 : kvHeads)) } : { u32: kvHeads };
}

/** llama.cpp's numbers of what the scores of experts are of a router's logits. */
const SCORES = { softmax: 1, sigmoid: 2 } as const;

function expertsMetadata({ experts }: ModelConfig): [string, GgufValue][] {
  if (experts === null) return [];
  const { count, perToken, width, score, normalised, scale, sharedWidth, layers } = experts;
  const dense = layers.indexOf(true);
  return [
    ["expert_count", { u32: count }],
    ["expert_used_count", { u32: perToken }],
    ["expert_feed_forward_length", { u32: width }],
    ["expert_gating_func", { u32: SCORES[score] }],
    ["expert_weights_norm", { bool: normalised }],
    ...(scale === 1 ? [] : [["expert_weights_scale", { f32: scale }] satisfies [string, GgufValue]]),
    ...(sharedWidth === null ? [] : [["expert_shared_feed_forward_length", { u32: sharedWidth }] satisfies [string, GgufValue]]),
    ...(dense === 0 ? [] : [["leading_dense_block_count", { u32: dense }] satisfies [string, GgufValue]]),
  ];
}

/** Rotary scaling that is not among the tensors (`ropeFactors`). */
function ropeMetadata(config: ModelConfig): [string, GgufValue][] {
  const { scaling } = config.rope;
  const kind = (factor: number): [string, GgufValue][] => [
    ["rope.scaling.type", { text: scaling.type }],
    ["rope.scaling.factor", { f32: factor }],
  ];
  const attention = (factor: number): [string, GgufValue] => ["rope.scaling.attn_factor", { f32: factor }];
  const original = (length: number): [string, GgufValue] => ["rope.scaling.original_context_length", { u32: length }];
  switch (scaling.type) {
    case "linear":
      return kind(scaling.factor);
    case "yarn": {
      const factor = yarnAttentionFactor(scaling);
      if (!isUsualYarn(scaling, config)) return [attention(factor)];
      // llama.cpp multiplies by the usual factor itself.
      const usual = yarnAttentionFactor({ ...scaling, attentionFactor: null, mscale: null });
      return [
        ...kind(scaling.factor),
        original(scaling.originalMaxPositions),
        ...(factor === usual ? [] : [attention(factor / usual)]),
      ];
    }
    case "longrope":
      return [attention(longRopeAttentionFactor(scaling)), original(scaling.originalMaxPositions)];
    default:
      return [];
  }
}

/**
 * The folder's name. llama.cpp knows by the name of a Phi-3 that its special tokens take the white space behind them: a name
 * that does not say so gets it appended, and one that says so of another tokenizer is changed.
 */
function nameOf(folder: string, tokenizer: Tokenizer): string {
  const name = basename(resolve(folder));
  if (spaceTaking(tokenizer) !== "known") return name.replace(/(phi)-?(3)/gi, "$1 $2");
  return /phi-?3/i.test(name) ? name : `${name} (phi-3)`;
}

/** Llama 3's scaling, LongRoPE and a YaRN with other betas are tensors: what each frequency is divided by. */
function ropeFactors(config: ModelConfig): GgufTensor[] {
  const tensor = (name: string, factors: Float32Array): GgufTensor => ({
    name: `${name}.weight`,
    type: "f32",
    shape: [factors.length],
    data: () => [encode(factors, "f32", name)],
  });
  const { scaling } = config.rope;
  // Layers without a window are told which of their features are rotated.
  if (config.fullHeads) return [tensor("rope_freqs", fullFactors(config.fullHeads, scaling))];
  if (scaling.type === "longrope") {
    const { longFactors, shortFactors } = scaling;
    return [
      tensor("rope_factors_long", Float32Array.from(longFactors)),
      tensor("rope_factors_short", Float32Array.from(shortFactors)),
    ];
  }
  if (scaling.type !== "llama3" && (scaling.type !== "yarn" || isUsualYarn(scaling, config))) return [];
  const scaled = inverseFrequencies(config).inverse;
  const plain = inverseFrequencies({ ...config, rope: { ...config.rope, scaling: { type: "default" } } }).inverse;
  return [
    tensor(
      "rope_freqs",
      plain.map((value, i) => value / scaled[i]!),
    ),
  ];
}

/** The divisors of a Gemma 4's frequencies: as many as rotate are stretched by the factor, the others stand still. */
function fullFactors({ headDim }: HeadShape, scaling: RopeScaling): Float32Array {
  const { share, factor } = scaling.type === "proportional" ? scaling : { share: 1, factor: 1 };
  const rotated = Math.floor((share * headDim) / 2);
  return Float32Array.from({ length: headDim / 2 }, (_, i) => (i < rotated ? factor : UNROTATED));
}
