import { UserError } from "../../base/errors.ts";
import { isRecord } from "../../base/json.ts";
import type { Family, GgufGiven, Raw } from "../../models/families/family.ts";
import { FAMILIES } from "../../models/families/index.ts";
import type { GgufFile } from "../read/container.ts";
import { type Facts, factsOf, shortest } from "./facts.ts";
import { type Factors, ropeKeys } from "./rope.ts";
import { SAMPLING_NAMES } from "./sampling-names.ts";

/** The contents of the files of a model's folder that describe it. */
export interface ModelFiles {
  /** `config.json`. */
  readonly config: Raw;
  /** `generation_config.json`. */
  readonly generation: Raw;
}

/**
 * A model's configuration as Transformers has it.
 * @throws {UserError} an architecture that is not read, keys that are missing
 */
export function configOf(file: GgufFile, factors: Factors): ModelFiles {
  const facts = factsOf(file);
  const candidates = candidatesOf(facts);
  const embedding = file.tensors.get("token_embd.weight");
  if (!embedding)
    throw new UserError(`${file.path} holds no tensor token_embd.weight; is it a model, and no adapter or vocabulary?`);
  const given = givenOf(facts, file, embedding.shape[0] ?? 0, factors);
  const { family, keys } = familyOf(candidates, given);
  const { activation, scalings } = family.gguf!;
  const { vocabSize, heads, headDim, hiddenSize, layers, rotaryDim, epsilon } = given;
  const key = (name: string) => `${facts.architecture}.${name}`;
  const rotation = {
    rotaryDim,
    theta: shortest(facts.number(key("rope.freq_base")) ?? 10_000),
    context: facts.expectNumber(key("context_length")),
  };
  const { eos, ends } = endsOf(facts);
  const rope = saysRotation(keys)
    ? { max_position_embeddings: rotation.context }
    : ropeKeys(facts, rotation, factors, !scalings.includes("yarn-rounded"));
  return {
    config: {
      architectures: [family.architecture],
      model_type: family.type,
      dtype: dtypeOf(file),
      vocab_size: vocabSize,
      hidden_size: hiddenSize,
      ...(!("intermediate_size" in keys) && { intermediate_size: widthOf(facts) }),
      num_hidden_layers: layers,
      num_attention_heads: heads,
      ...(!("num_key_value_heads" in keys) && { num_key_value_heads: keyHeads(facts, given) }),
      head_dim: headDim,
      hidden_act: activation,
      rms_norm_eps: epsilon,
      tie_word_embeddings: !file.tensors.has("output.weight"),
      ...rope,
      bos_token_id: facts.number("tokenizer.ggml.bos_token_id"),
      eos_token_id: eos,
      pad_token_id: facts.number("tokenizer.ggml.padding_token_id"),
      ...keys,
      ...(isRecord(keys["rope_scaling"]) && { rope_scaling: { ...rope.rope_scaling, ...keys["rope_scaling"] } }),
    },
    generation: { ...(ends.length > 0 && { eos_token_id: ends }), ...samplingOf(facts) },
  };
}

/** Tells whether a family's keys say how the layers without a window are rotated. */
const saysRotation = ({ rope_parameters: rope }: Raw): boolean => isRecord(rope) && "full_attention" in rope;

/** The families whose files are read, by llama.cpp's name of the architecture. */
const READ = Map.groupBy(
  FAMILIES.filter(({ gguf }) => gguf !== null && gguf.keys !== null),
  ({ gguf }) => gguf!.architecture,
);

/** llama.cpp's names of the architectures that are read. */
export const GGUF_ARCHITECTURES: readonly string[] = [...READ.keys()];

/** The families that a file may be of. @throws {UserError} an architecture that is not read */
function candidatesOf({ architecture, path }: Facts): readonly Family[] {
  const found = READ.get(architecture);
  if (found) return found;
  throw new UserError(
    `${path} holds a model of the architecture ${architecture}, which is not read from GGUF files; expected one of ${GGUF_ARCHITECTURES.join(", ")}: use the folder that it was made of`,
  );
}

/** The first family that takes the file for one of its own, and the keys that it makes of it. */
function familyOf(candidates: readonly Family[], given: GgufGiven): { readonly family: Family; readonly keys: Raw } {
  for (const family of candidates) {
    const keys = family.gguf!.keys!(given);
    if (keys !== null) return { family, keys };
  }
  throw given.refusal("a model of no family that is known here");
}

function givenOf(facts: Facts, { tensors, path }: GgufFile, vocabSize: number, factors: Factors): GgufGiven {
  const key = (name: string) => `${facts.architecture}.${name}`;
  const own = (name: string) => {
    const value = facts.number(key(name));
    return value === null ? null : shortest(value);
  };
  const layers = facts.expectNumber(key("block_count"));
  // What is made of it has an entry for each.
  if (!Number.isInteger(layers) || layers < 1 || layers > tensors.size)
    throw new UserError(`${path} says that it has ${layers} layers, and holds ${tensors.size} tensors; is it cut?`);
  const heads = facts.expectNumber(key("attention.head_count"));
  const hiddenSize = facts.expectNumber(key("embedding_length"));
  const headDim = own("attention.key_length") ?? hiddenSize / heads;
  const values = own("attention.value_length") ?? headDim;
  if (values !== headDim)
    throw new UserError(`${path} has heads of ${headDim} features and values of ${values}, which is not supported`);
  return {
    layers,
    vocabSize,
    heads,
    kvHeads: byLayer(facts, "attention.head_count_kv", layers, heads),
    headDim,
    hiddenSize,
    rotaryDim: own("rope.dimension_count") ?? headDim,
    epsilon: own("attention.layer_norm_rms_epsilon") ?? own("attention.layer_norm_epsilon") ?? 1e-5,
    own,
    need: (name) => shortest(facts.expectNumber(key(name))),
    flag: (name) => facts.flag(key(name)),
    flags: (name) => facts.flags(key(name)),
    numbers: (name) => (isList(facts, key(name)) ? facts.numbers(key(name)) : null),
    factors,
    hasTensor: (name) => tensors.has(name),
    refusal: (what) => new UserError(`${path} (architecture ${facts.architecture}) holds ${what}, which is not supported`),
  };
}

/** A number for all layers, or one for each. @throws {UserError} not as many as layers */
function byLayer(facts: Facts, name: string, layers: number, usual: number): readonly number[] {
  const key = `${facts.architecture}.${name}`;
  if (!isList(facts, key)) return Array<number>(layers).fill(facts.number(key) ?? usual);
  const numbers = facts.numbers(key)!;
  if (numbers.length === layers) return numbers;
  throw new UserError(`${facts.path}: expected ${key} to have one number for each of ${layers} layers, got ${numbers.length}`);
}

/** @throws {UserError} different numbers in layers that attend */
function keyHeads({ path, architecture }: Facts, { kvHeads }: GgufGiven): number {
  const counts = new Set(kvHeads.filter((count) => count !== 0));
  if (counts.size === 1) return [...counts][0]!;
  throw new UserError(
    `${path}: expected ${architecture}.attention.head_count_kv to be one number, the same in all layers that attend, got ${kvHeads.join(", ")}`,
  );
}

/** The width of the MLP. @throws {UserError} different ones */
function widthOf(facts: Facts): number {
  const key = `${facts.architecture}.feed_forward_length`;
  if (!isList(facts, key)) return facts.expectNumber(key);
  const widths = new Set(facts.numbers(key));
  if (widths.size !== 1) throw new UserError(`${facts.path}: expected ${key} to be one number, got ${[...widths].join(", ")}`);
  return [...widths][0]!;
}

const isList = ({ kind }: Facts, key: string): boolean => kind(key) === "list";

/** The token that ends a text, and with it all that end an answer. */
function endsOf({ number }: Facts): { readonly eos: number | null; readonly ends: number[] } {
  const [eos, ...others] = ["eos", "eot", "eom"].map((name) => number(`tokenizer.ggml.${name}_token_id`));
  return { eos: eos ?? null, ends: [...new Set([eos, ...others].filter((id) => id !== null && id !== undefined))] };
}

function samplingOf({ number }: Facts): Raw {
  const values = Object.entries(SAMPLING_NAMES).flatMap(([key, name]): [string, unknown][] => {
    const value = number(`general.sampling.${name}`);
    return value === null ? [] : [[key, shortest(value)]];
  });
  // A temperature of 0 is written for models that do not sample.
  return Object.fromEntries(values.length === 0 ? [] : [["do_sample", number("general.sampling.temp") !== 0], ...values]);
}

/** The type that the matrices have, where it is one of Transformers'; quantised ones are numbers of f32. */
function dtypeOf({ tensors }: GgufFile): string {
  const types = new Set([...tensors.values()].filter(({ shape }) => shape.length > 1).map(({ type }) => type));
  const [only] = types;
  return types.size === 1 && only === "f16" ? "float16" : types.size === 1 && only === "bf16" ? "bfloat16" : "float32";
}
