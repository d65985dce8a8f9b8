import { basename, resolve } from "node:path";
import { isRecord, show } from "../base/json.ts";
import { UserError } from "../base/errors.ts";
import { toFloat32 } from "../base/float16.ts";
import type { Shape } from "../graph/types.ts";
import { expectTensor, readBytes, type TensorSource } from "../hf/weights/safetensors.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { ModelConfig, Pooling } from "../models/config.ts";
import { contextLimit } from "../models/context.ts";
import { familyOf, modulesOf } from "../models/families/index.ts";
import { encode, typeFor } from "./encode.ts";
import { WORDPIECE } from "./tokenizer.ts";
import { GGUF_TYPES, type GgufTensor, type GgufType, type GgufValue, writeGguf } from "./write.ts";

/** llama.cpp's numbers for "mostly this type". */
const FILE_TYPES: Readonly<Record<GgufType, number>> = { f32: 0, f16: 1, q4_0: 2, q8_0: 7, bf16: 32 };

/** llama.cpp's numbers of how an embedding is made of a text's tokens. */
const POOLING: Readonly<Record<Pooling, number>> = { mean: 1, cls: 2, last: 3 };

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
  readonly pooling: Pooling;
}

/**
 * Writes a BERT that makes embeddings, with its WordPiece vocabulary. llama.cpp computes the hidden states, pools them as the file says, and brings embeddings to length 1
 * if it is asked to.
 * @throws {UserError} another kind of tokenizer, a full disk
 */
export function exportEncoder(path: string, model: EncoderToExport, type: GgufType): void {
  writeGguf(path, new Map([...metadataOf(model, type), ...vocabularyOf(model)]), tensorsOf(model, type));
}

/** @throws {UserError} an encoder that llama.cpp does not know, or computes otherwise */
export function checkEncoder({ config }: Pick<EncoderToExport, "config">): void {
  if (familyOf(config).ggufEncoder === undefined)
    throw new UserError(
      `GGUF files are not written of ${familyOf(config).models.join(" and ")}; of text encoders they are of BERT, and with it MiniLM, BGE and E5. export onnx writes the others`,
    );
  if (config.textHead) throw new UserError("GGUF files are not written of models that judge texts; export onnx writes them");
  if (config.hiddenAct !== "gelu")
    throw new UserError(`GGUF's bert models have the activation gelu, not ${config.hiddenAct}; export onnx writes this one`);
}

function metadataOf({ folder, config, pooling }: EncoderToExport, type: GgufType): Map<string, GgufValue> {
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
    [`${kind}.pooling_type`, { u32: POOLING[pooling] }],
    ["tokenizer.ggml.token_type_count", { u32: config.encoder!.typeRows }],
  ]);
}

/** The mark that llama.cpp has in front of tokens that begin a word, in the place of the one behind which others stand. */
const BEGIN = "\u2581";

/** llama.cpp's types of tokens. */
const [NORMAL, CONTROL, UNUSED] = [1, 3, 5];

/** @throws {UserError} a tokenizer that is not WordPiece as BERT has it */
function vocabularyOf({ tokenizer, config }: EncoderToExport): Map<string, GgufValue> {
  const { json, folder, specialTokens } = tokenizer;
  const { model, normalizer } = json;
  const isWordPiece = isRecord(model) && model["type"] === "WordPiece" && isRecord(model["vocab"]);
  if (!isWordPiece || model["continuing_subword_prefix"] !== "##")
    throw new UserError(`${folder}: of text encoders, only those with a WordPiece tokenizer can be exported to GGUF`);
  // It knows one way of preparing a text: small letters without accents, blanks around Chinese characters.
  const {
    lowercase,
    strip_accents: strip,
    clean_text: cleans,
    handle_chinese_chars: chinese,
  } = isRecord(normalizer) ? normalizer : {};
  if (lowercase !== true || strip === false || cleans === false || chinese === false)
    throw new UserError(
      `${folder}: llama.cpp puts the texts of a BERT into small letters and takes accents away, which this tokenizer does not; export onnx writes the model`,
    );
  const tokens = Array.from({ length: config.vocabSize }, (_, id) => `[unused-${id}]`);
  const types = Array.from({ length: config.vocabSize }, () => UNUSED);
  const special = new Set(specialTokens.values());
  for (const [token, given] of Object.entries(model["vocab"] as Record<string, number>)) {
    const id = Number(given);
    if (id >= config.vocabSize) continue;
    const isMark = special.has(id) || (token.startsWith("[") && token.endsWith("]"));
    tokens[id] = isMark ? token : token.startsWith("##") ? token.slice(2) : BEGIN + token;
    types[id] = special.has(id) ? CONTROL : NORMAL;
  }
  const places = new Map<string, number>();
  for (const [id, token] of tokens.entries()) {
    const other = places.get(token);
    if (other !== undefined)
      throw new UserError(
        `${folder}: llama.cpp could not tell the tokens ${other} and ${id} apart, which are both ${show(token)} there`,
      );
    places.set(token, id);
  }
  const id = (key: string, token: string): [string, GgufValue][] => {
    const value = tokenizer.idOf(tokenizer.namedTokens[`${token}_token`] ?? "");
    return value === null ? [] : [[`tokenizer.ggml.${key}_token_id`, { u32: value }]];
  };
  return new Map<string, GgufValue>([
    ["tokenizer.ggml.model", { text: WORDPIECE }],
    ["tokenizer.ggml.pre", { text: "default" }],
    ["tokenizer.ggml.tokens", { texts: tokens }],
    ["tokenizer.ggml.token_type", { i32s: types }],
    ...id("bos", "cls"),
    ...id("eos", "sep"),
    ...id("unknown", "unk"),
    ...id("seperator", "sep"),
    ...id("padding", "pad"),
    ...id("cls", "cls"),
    ...id("mask", "mask"),
  ]);
}

/** llama.cpp multiplies rows of a single block with more than 32 tokens wrongly (node-llama-cpp 3.22.1): those stay f16. */
function matrixType(type: GgufType, shape: Shape): GgufType {
  const { elements } = GGUF_TYPES[type];
  return typeFor(elements > 1 && shape.at(-1) === elements ? "f16" : type, shape);
}

function tensorsOf({ config, source }: EncoderToExport, type: GgufType): GgufTensor[] {
  const { hiddenSize: width, intermediateSize: inner, vocabSize, layers, modulePrefix: prefix } = config;
  const { typeRows } = config.encoder!;
  const { embedding, positions, encoder } = modulesOf(config);
  const tables = encoder!;
  const widths: Widths = { square: [width, width], norm: [width], up: [inner, width], down: [width, inner] };
  /** Tables of positions and types are added to rows of f32, and small. */
  const tensor = (stored: string, name: string, shape: Shape, to = matrixType(type, shape)): GgufTensor => ({
    name,
    type: to,
    shape,
    *data() {
      const entry = expectTensor(source, stored, shape);
      yield encode(toFloat32(readBytes(source, entry), entry.dtype as "f32"), to, stored);
    },
  });
  const both = (module: string, name: string, shape: Shape) => [
    tensor(`${prefix}${module}.weight`, `${name}.weight`, shape),
    tensor(`${prefix}${module}.bias`, `${name}.bias`, shape.slice(0, 1)),
  ];
  return [
    tensor(`${prefix}${embedding}.weight`, "token_embd.weight", [vocabSize, width]),
    tensor(`${prefix}${tables.types}.weight`, "token_types.weight", [typeRows, width], "f32"),
    tensor(`${prefix}${positions}.weight`, "position_embd.weight", [config.positionTable!.rows, width], "f32"),
    ...both(tables.norm, "token_embd_norm", [width]),
    ...Array.from({ length: layers }, (_, layer) =>
      BLOCK.flatMap(([module, name, kind]) => both(`encoder.layer.${layer}.${module}`, `blk.${layer}.${name}`, widths[kind])),
    ).flat(),
  ];
}
