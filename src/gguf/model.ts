import { basename, resolve } from "node:path";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { UserError } from "../base/errors.ts";
import { readGenerationConfig } from "../generate/sampling.ts";
import { elements } from "../graph/types.ts";
import { type FloatType } from "../base/dtype.ts";
import type { ModelConfig } from "../models/config.ts";
import { type RopeConfig } from "../models/rope.ts";
import { contextLimit } from "../models/context.ts";
import { toFloat32 } from "../base/float16.ts";
import { mergedModel } from "../hf/peft/merge.ts";
import type { Adapter } from "../hf/peft/peft.ts";
import { inverseFrequencies, longRopeAttentionFactor, yarnAttentionFactor } from "../load/rotary-tables.ts";
import { isVision, moduleName } from "../hf/weights/model-weights.ts";
import { modulesOf } from "../models/families/index.ts";
import { tensorBytes, type TensorSource } from "../hf/weights/safetensors.ts";
import { type TensorData } from "../hf/weights/safetensors-write.ts";
import { encode, headType, typeFor } from "./encode.ts";
import {
  architectureOf,
  blockModules,
  checkExportable,
  ggufFacts,
  ggufParts,
  isUsualYarn,
  normOffset,
  outputNorm,
  windowInFile,
} from "./names.ts";
import { spaceTaking, tokenizerMetadata } from "./tokenizer.ts";
import { samplingMetadata } from "./sampling.ts";
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
  const { config, tensors } = adapter
    ? mergedModel(source, adapter, model.config)
    : { config: model.config, tensors: storedTensors(source) };
  writeGguf(path, metadata, modelTensors(config, tensors, source, type));
}

function modelMetadata({ folder, config, tokenizer }: GgufModel, type: GgufType): Map<string, GgufValue> {
  const architecture = architectureOf(config);
  const { theta } = config.rope;
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
    ["rope.dimension_count", { u32: config.rotaryDim }],
    ["rope.freq_base", { f32: theta }],
    ["vocab_size", { u32: config.vocabSize }],
  ];
  if (config.convolution) own.push(["shortconv.l_cache", { u32: config.convolution.width }]);
  own.push(...ropeMetadata(config.rope));
  if (config.attentionSoftCap !== null) own.push(["attn_logit_softcapping", { f32: config.attentionSoftCap }]);
  if (config.logitSoftCap !== null) own.push(["final_logit_softcapping", { f32: config.logitSoftCap }]);
  const settings = ggufFacts(config).settings?.(config) ?? {};
  own.push(...Object.entries(settings).map(([key, value]): [string, GgufValue] => [key, { f32: value }]));
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

/** Rotary scaling that is not among the tensors (`ropeFactors`). */
function ropeMetadata({ scaling }: RopeConfig): [string, GgufValue][] {
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
      if (!isUsualYarn(scaling)) return [attention(factor)];
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

function storedTensors(source: TensorSource): TensorData[] {
  return Array.from(source.tensors.values(), (entry) => ({
    ...entry,
    dtype: entry.dtype ?? "u8",
    data: { pieces: () => tensorBytes(source, entry) },
  }));
}

/** @param source has the modules' names of the tensors; a head that an adapter has made another matrix has its own already */
function modelTensors(config: ModelConfig, stored: readonly TensorData[], source: TensorSource, type: GgufType): GgufTensor[] {
  const { embedding, head } = modulesOf(config);
  const logits = config.tieWordEmbeddings ? `${config.modulePrefix}${embedding}` : head;
  const names = new Map(Array.from(source.tensors, ([name, entry]) => [entry.name, name]));
  const tensors = stored.flatMap((tensor): GgufTensor[] => {
    const name = names.get(tensor.name) ?? moduleName(tensor.name);
    const [, module, kind] = /^(.+)\.(weight|bias)$/.exec(name) ?? [];
    if (isVision(name)) return [];
    if (tensor.name.endsWith(".rotary_emb.inv_freq") || (module === head && config.tieWordEmbeddings)) return [];
    const parts = module === undefined ? [] : ggufParts(module, config);
    if (parts.length === 0 || !["f32", "f16", "bf16"].includes(tensor.dtype)) {
      throw new UserError(`${source.path}: tensor ${tensor.name} has no place in a GGUF ${architectureOf(config)} model`);
    }
    const offset = kind === "weight" ? normOffset(module!, config) : 0;
    const to = typeFor(module === logits ? headType(type) : type, tensor.shape);
    const [rows, ...columns] = tensor.shape as [number, ...number[]];
    // A filter [channels, 1, width] is a matrix there.
    const inner = columns.length === 2 && columns[0] === 1 ? columns.slice(1) : columns;
    return parts.map(({ name, count, take }) => ({
      name: `${name}.${kind}`,
      type: to,
      shape: [count(rows), ...inner],
      *data() {
        if (take) yield encode(take(joined(valuesOf(tensor, offset)), elements(inner)), to, tensor.name);
        else for (const values of valuesOf(tensor, offset)) yield encode(values, to, tensor.name);
      },
    }));
  });
  checkComplete(tensors, config, source.path);
  return [...tensors, ...ropeFactors(config)];
}

/** The values of a tensor plus `offset`, piece by piece; pieces have whole blocks of every type. */
function* valuesOf(tensor: TensorData, offset: number): Iterable<Float32Array> {
  const { data } = tensor;
  const pieces = typeof data === "function" ? [data()] : "pieces" in data ? data.pieces() : [data];
  for (const { buffer, byteOffset, byteLength } of pieces) {
    const values = toFloat32(new Uint8Array(buffer, byteOffset, byteLength), tensor.dtype as FloatType);
    if (offset !== 0) values.forEach((value, i) => (values[i] = value + offset));
    yield values;
  }
}

function joined(pieces: Iterable<Float32Array>): Float32Array {
  // A piece is gone when the next one comes.
  const all = Array.from(pieces, (piece) => piece.slice());
  if (all.length === 1) return all[0]!;
  const values = new Float32Array(all.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of all) {
    values.set(piece, at);
    at += piece.length;
  }
  return values;
}

function checkComplete(tensors: readonly GgufTensor[], config: ModelConfig, from: string): void {
  const names = new Set(tensors.map(({ name }) => name));
  const needed = [
    "token_embd",
    outputNorm(config),
    ...(config.tieWordEmbeddings ? [] : ["output"]),
    ...Array.from({ length: config.layers }, (_, layer) =>
      blockModules(config, layer).map((module) => `blk.${layer}.${module}`),
    ).flat(),
  ];
  const missing = needed.find((module) => !names.has(`${module}.weight`));
  if (missing !== undefined) throw new UserError(`${from} holds no tensor for ${missing}.weight; it is not a whole model`);
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
  if (scaling.type === "longrope") {
    const { longFactors, shortFactors } = scaling;
    return [
      tensor("rope_factors_long", Float32Array.from(longFactors)),
      tensor("rope_factors_short", Float32Array.from(shortFactors)),
    ];
  }
  if (scaling.type !== "llama3" && (scaling.type !== "yarn" || isUsualYarn(scaling))) return [];
  const scaled = inverseFrequencies(config).inverse;
  const plain = inverseFrequencies({ ...config, rope: { ...config.rope, scaling: { type: "default" } } }).inverse;
  return [
    tensor(
      "rope_freqs",
      plain.map((value, i) => value / scaled[i]!),
    ),
  ];
}
