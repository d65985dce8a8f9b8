import { basename, resolve } from "node:path";
import { UserError } from "../base/errors.ts";
import { toFloat32 } from "../base/float16.ts";
import type { Shape } from "../graph/types.ts";
import { expectTensor, readBytes, type TensorSource } from "../hf/weights/safetensors.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { ModelConfig, Pooling } from "../models/config.ts";
import { contextLimit } from "../models/context.ts";
import type { Classifier } from "../hf/config/classifier.ts";
import { familyOf, modulesOf, textHeadOf } from "../models/families/index.ts";
import { encode, typeFor } from "./encode.ts";
import { encoderVocabulary } from "./encoder-vocabulary.ts";
import { GGML_TYPES } from "./blocks/types.ts";
import { type GgufTensor, type GgufType, type GgufValue, writeGguf } from "./write.ts";

/** llama.cpp's numbers for "mostly this type". */
const FILE_TYPES: Readonly<Record<GgufType, number>> = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, bf16: 32 };

/** llama.cpp's numbers of how an embedding, or the numbers of a head (rank), are made of a text's tokens. */
const POOLING: Readonly<Record<Pooling | "rank", number>> = { mean: 1, cls: 2, last: 3, rank: 4 };

/** Names of a block's modules in a BERT, with those that llama.cpp has for them; both have a weight and a bias. */
const BLOCK: readonly (readonly [module: string, name: string, kind: keyof Widths])[] = [
  ["attention.self.query", "attn_q", "square"],
  ["attention.self.key", "attn_k", "square"],
  ["attention.self.value", "attn_v", "square"],
  ["attention.output.dense", "attn_output", "square"],
  ["attention.output.LayerNorm", "attn_output_norm", "norm"],
  ["intermediate.dense", "ffn_up", "up"],
  ["output.dense", "ffn_down", "down"],
  ["output.LayerNorm", "layer_output_norm", "norm"],
];

/** Shapes of the weights of a kind of module. */
interface Widths {
  readonly square: Shape;
  readonly norm: Shape;
  readonly up: Shape;
  readonly down: Shape;
}

export interface EncoderToExport {
  readonly folder: string;
  readonly config: ModelConfig;
  readonly tokenizer: Tokenizer;
  /** An adapter is merged into it already. */
  readonly source: TensorSource;
  /** How embeddings are made, or what the numbers of a head for texts mean. */
  readonly gives: { readonly pooling: Pooling } | { readonly classifier: Classifier };
}

/**
 * Writes a BERT, RoBERTa or XLM-RoBERTa with its vocabulary. llama.cpp computes the hidden states, pools them as the file says, and brings embeddings to length 1
 * if it is asked to; of one that judges texts it gives the numbers of the head.
 * @throws {UserError} another kind of tokenizer, a full disk
 */
export function exportEncoder(path: string, model: EncoderToExport, type: GgufType): void {
  writeGguf(path, new Map([...metadataOf(model, type), ...encoderVocabulary(model)]), tensorsOf(model, type));
}

/** @throws {UserError} an encoder that llama.cpp does not know, or computes otherwise */
export function checkEncoder({
  config,
  classifier,
}: Pick<EncoderToExport, "config"> & { readonly classifier: Classifier | null }): void {
  if (familyOf(config).ggufEncoder === undefined)
    throw new UserError(
      `GGUF files are not written of ${familyOf(config).models.join(" and ")}; of text encoders they are of BERT, and with it MiniLM, BGE and E5, of RoBERTa and XLM-RoBERTa. export onnx writes the others`,
    );
  if (classifier?.activation && hasTypes(config))
    throw new UserError(
      "llama.cpp knows no types of tokens, by which this model tells a query from a text, and would rank otherwise; export onnx writes the model",
    );
  if (config.hiddenAct !== "gelu")
    throw new UserError(`GGUF's bert models have the activation gelu, not ${config.hiddenAct}; export onnx writes this one`);
}

/** Tells whether the second of two texts has a type of its own, which llama.cpp gives the first one's. */
const hasTypes = ({ encoder }: ModelConfig): boolean => encoder!.typeRows > 1;

/** Returns what llama.cpp does otherwise, though not so much that the file could not be used. */
export function encoderDifferences({ config, classifier }: Parameters<typeof checkEncoder>[0]): string[] {
  if (classifier === null || !hasTypes(config)) return [];
  return ["llama.cpp knows no types of tokens: it judges texts as this model does, but not two texts that belong together"];
}

function metadataOf({ folder, config, gives }: EncoderToExport, type: GgufType): Map<string, GgufValue> {
  const kind = familyOf(config).ggufEncoder!;
  return new Map<string, GgufValue>([
    ["general.architecture", { text: kind }],
    ["general.type", { text: "model" }],
    ["general.name", { text: basename(resolve(folder)) }],
    ["general.file_type", { u32: FILE_TYPES[type] }],
    ["general.quantization_version", { u32: 2 }],
    [`${kind}.block_count`, { u32: config.layers }],
    [`${kind}.context_length`, { u32: contextLimit(config) }],
    [`${kind}.embedding_length`, { u32: config.hiddenSize }],
    [`${kind}.feed_forward_length`, { u32: config.intermediateSize }],
    [`${kind}.attention.head_count`, { u32: config.heads }],
    [`${kind}.attention.layer_norm_epsilon`, { f32: config.normEps }],
    [`${kind}.attention.causal`, { bool: false }],
    [`${kind}.pooling_type`, { u32: POOLING["pooling" in gives ? gives.pooling : "rank"] }],
    ...("classifier" in gives ? ([[`${kind}.classifier.output_labels`, { texts: outputNames(gives.classifier) }]] as const) : []),
    ["tokenizer.ggml.token_type_count", { u32: config.encoder!.typeRows }],
  ]);
}

/** A name for each number of a head. */
const outputNames = ({ kind, labels }: Classifier): readonly string[] => (kind === "number" ? ["LABEL_0"] : labels);

/** llama.cpp multiplies rows of a single block with more than 32 tokens wrongly (node-llama-cpp 3.22.1): those stay f16. */
function matrixType(type: GgufType, shape: Shape): GgufType {
  const { elements } = GGML_TYPES[type];
  return typeFor(elements > 1 && shape.at(-1) === elements ? "f16" : type, shape);
}

function tensorsOf({ config, source, gives }: EncoderToExport, type: GgufType): GgufTensor[] {
  const { hiddenSize: width, intermediateSize: inner, vocabSize, layers, modulePrefix: prefix, positionTable } = config;
  const { typeRows } = config.encoder!;
  const { embedding, positions, encoder } = modulesOf(config);
  const tables = encoder!;
  const widths: Widths = { square: [width, width], norm: [width], up: [inner, width], down: [width, inner] };
  /** Tables of positions and types are added to rows of f32, and small. */
  const tensor = (stored: string, name: string, shape: Shape, to = matrixType(type, shape), skipped = 0): GgufTensor => ({
    name,
    type: to,
    shape: [shape[0]! - skipped, ...shape.slice(1)],
    *data() {
      const entry = expectTensor(source, stored, shape);
      const values = toFloat32(readBytes(source, entry), entry.dtype as "f32");
      yield encode(skipped === 0 ? values : values.subarray(skipped * width), to, stored);
    },
  });
  const named = (module: string, name: string, shape: Shape) => [
    tensor(`${module}.weight`, `${name}.weight`, shape),
    tensor(`${module}.bias`, `${name}.bias`, shape.slice(0, 1)),
  ];
  const both = (module: string, name: string, shape: Shape) => named(`${prefix}${module}`, name, shape);
  const { output, dense } = textHeadOf(config);
  const head =
    "classifier" in gives
      ? [
          ...named(dense!.module, "cls", [width, width]),
          ...named(output, "cls.output", [outputNames(gives.classifier).length, width]),
        ]
      : [];
  return [
    tensor(`${prefix}${embedding}.weight`, "token_embd.weight", [vocabSize, width]),
    tensor(`${prefix}${tables.types}.weight`, "token_types.weight", [typeRows, width], "f32"),
    // llama.cpp counts from 0.
    tensor(`${prefix}${positions}.weight`, "position_embd.weight", [positionTable!.rows, width], "f32", positionTable!.first),
    ...both(tables.norm, "token_embd_norm", [width]),
    ...Array.from({ length: layers }, (_, layer) =>
      BLOCK.flatMap(([module, name, kind]) => both(`encoder.layer.${layer}.${module}`, `blk.${layer}.${name}`, widths[kind])),
    ).flat(),
    ...head,
  ];
}
