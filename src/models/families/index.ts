import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { isRecord, show } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import type { ModelConfig } from "../config.ts";
import { layerOf } from "../names.ts";
import type { Family, FamilyModules, Raw, TextHeadModules, Wrapper } from "./family.ts";
import { bert } from "./bert/bert.ts";
import { distilbert } from "./bert/distilbert.ts";
import { modernBert } from "./bert/modernbert.ts";
import { roberta, xlmRoberta } from "./bert/roberta.ts";
import { gemma } from "./gemma/gemma.ts";
import { gemma2 } from "./gemma/gemma2.ts";
import { gemma3 } from "./gemma/gemma3.ts";
import { gemma4 } from "./gemma/gemma4.ts";
import { cohere2 } from "./cohere/cohere2.ts";
import { ernie45 } from "./ernie/ernie45.ts";
import { exaone4 } from "./exaone/exaone4.ts";
import { glm } from "./glm/glm.ts";
import { glm4 } from "./glm/glm4.ts";
import { hunyuan } from "./hunyuan/hunyuan.ts";
import { granite4 } from "./llama/granite4.ts";
import { gptNeox } from "./neox/gpt-neox.ts";
import { stableLm } from "./neox/stablelm.ts";
import { nemotron } from "./nemotron/nemotron.ts";
import { olmo2 } from "./olmo/olmo2.ts";
import { olmo3 } from "./olmo/olmo3.ts";
import { olmoe } from "./olmo/olmoe.ts";
import { internlm2 } from "./internlm/internlm2.ts";
import { internlm3 } from "./internlm/internlm3.ts";
import { lfm2 } from "./lfm/lfm2.ts";
import { lfm2Moe } from "./lfm/lfm2-moe.ts";
import { cwm } from "./llama/cwm.ts";
import { granite } from "./llama/granite.ts";
import { llama } from "./llama/llama.ts";
import { ministral } from "./mistral/ministral.ts";
import { ministral3 } from "./mistral/ministral3.ts";
import { mistral } from "./mistral/mistral.ts";
import { gpt2 } from "./gpt/gpt2.ts";
import { gptOss } from "./gpt/gpt-oss.ts";
import { opt } from "./gpt/opt.ts";
import { phi } from "./phi/phi.ts";
import { phi3 } from "./phi/phi3.ts";
import { qwen2 } from "./qwen/qwen2.ts";
import { qwen3 } from "./qwen/qwen3.ts";
import { qwen3Moe } from "./qwen/qwen3-moe.ts";
import { qwen35 } from "./qwen/qwen3.5.ts";
import { qwen35Moe, qwen3Next } from "./qwen/qwen3.5-moe.ts";
import { seedOss } from "./llama/seed-oss.ts";
import { starcoder2 } from "./starcoder/starcoder2.ts";
import { smollm3 } from "./llama/smollm3.ts";

/** All families, in the order in which the README lists them. */
export const FAMILIES: readonly Family[] = [
  llama,
  smollm3,
  cwm,
  seedOss,
  granite,
  granite4,
  mistral,
  ministral,
  ministral3,
  qwen2,
  qwen3,
  qwen3Moe,
  qwen3Next,
  qwen35,
  qwen35Moe,
  gemma,
  gemma2,
  gemma3,
  gemma4,
  phi,
  phi3,
  internlm2,
  internlm3,
  lfm2,
  lfm2Moe,
  olmo2,
  olmo3,
  olmoe,
  exaone4,
  hunyuan,
  ernie45,
  glm,
  glm4,
  cohere2,
  gptOss,
  gpt2,
  opt,
  gptNeox,
  stableLm,
  starcoder2,
  nemotron,
  bert,
  roberta,
  xlmRoberta,
  distilbert,
  modernBert,
];

const last = (module: string): string => module.split(".").at(-1)!;

const BY_TYPE: ReadonlyMap<string, Family> = new Map(FAMILIES.map((family) => [family.type, family]));

/** The family of a configuration that `parseConfig` has read. */
export function familyOf({ family }: Pick<ModelConfig, "family">): Family {
  const found = BY_TYPE.get(family);
  if (!found) throw new Error(`no family ${family}`);
  return found;
}

export function modulesOf(model: Pick<ModelConfig, "family">): FamilyModules {
  return familyOf(model).modules;
}

/** Tells whether a module is a linear layer that may have an adapter: of a block, or the one that makes of embeddings what blocks are told. */
export function isLinear(module: string, model: Pick<ModelConfig, "family" | "layers" | "modulePrefix">): boolean {
  const { linear, layerInputs } = modulesOf(model);
  const layer = layerOf(module, model);
  if (layer === null) return layerInputs !== undefined && module === model.modulePrefix + layerInputs.projection;
  return layer < model.layers && linear.includes(last(module));
}

/** The head of all causal models of Transformers that judge texts. */
const DECODER_TEXT_HEAD: TextHeadModules = { output: "score", bias: false, dense: null, saved: "score" };

export function textHeadOf(model: Pick<ModelConfig, "family">): TextHeadModules {
  return modulesOf(model).encoder?.textHead ?? DECODER_TEXT_HEAD;
}

/** Shapes of the parameters of a head that gives a text so many numbers, by name. */
export function textHeadShapes(
  model: Pick<ModelConfig, "family" | "hiddenSize">,
  outputs: number,
): ReadonlyMap<string, readonly number[]> {
  const { output, bias, dense } = textHeadOf(model);
  const { hiddenSize } = model;
  return new Map<string, readonly number[]>([
    ...(dense ? ([[`${dense.module}.weight`, [hiddenSize, hiddenSize]]] as const) : []),
    ...(dense?.bias ? ([[`${dense.module}.bias`, [hiddenSize]]] as const) : []),
    ...(dense?.norm ? ([[`${dense.norm}.weight`, [hiddenSize]]] as const) : []),
    [`${output}.weight`, [outputs, hiddenSize]],
    ...(bias ? ([[`${output}.bias`, [outputs]]] as const) : []),
  ]);
}

/** Embeddings and heads of all families, by the last part of their names. */
export const TABLE_MODULES: readonly string[] = [
  ...new Set(FAMILIES.flatMap(({ modules: { embedding, head } }) => [last(embedding), last(head)])),
];

/** The same with the tables of positions, of types and of what blocks are told. */
export const ALL_TABLES: ReadonlySet<string> = new Set([
  ...TABLE_MODULES,
  ...FAMILIES.flatMap(({ modules: { positions, layerInputs, encoder } }) =>
    [positions, layerInputs?.table, encoder?.types].flatMap((table) => (table ? [last(table)] : [])),
  ),
]);

/** The linear layers of all families. */
export const LINEAR_MODULES: readonly string[] = [...new Set(FAMILIES.flatMap(({ modules }) => modules.linear))];

/** All larger models that hold one of a family. */
export const WRAPPERS: readonly Wrapper[] = FAMILIES.flatMap(({ wrappers = [] }) => wrappers);

/** Returns what the names of the modules that see images begin with; none in a model of text. */
export function visionPrefixes(config: ModelConfig): readonly string[] {
  const { wrappers = [] } = familyOf(config);
  return wrappers.find(({ modulePrefix }) => modulePrefix === config.modulePrefix)?.vision ?? [];
}

/** The models of all families of decoders as a list in words: "Llama, Mistral and Qwen2". */
export function supportedModels(): string {
  const names = FAMILIES.filter(({ modules }) => !modules.encoder).flatMap(({ models }) => models);
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}

/**
 * Reads a `config.json` that is in memory.
 * @param where names the file in errors
 * @param generation `generation_config.json`, or an empty object
 * @throws {UserError} unknown architecture, missing or wrong values, features that are not supported
 */
export function parseConfig(raw: Raw, where = "config.json", generation: Raw = {}): ModelConfig {
  for (const { wrappers = [], read } of FAMILIES) {
    const wrapper = wrappers.find((one) => isWrapper(one, raw));
    if (wrapper) return { ...read(wrapper.text(raw, where), where, generation), modulePrefix: wrapper.modulePrefix };
  }
  const family = findFamily(raw, where);
  const config = family.read(raw, where, generation);
  const { architectures } = raw;
  const judges = Array.isArray(architectures) && architectures.includes(classifierOf(family));
  return judges ? { ...config, textHead: { outputs: outputsOf(raw, where), padId: config.padTokenId } } : config;
}

/** The class of a family that judges whole texts; null: Transformers has none. */
export function classifierOf({ architecture, classifier }: Pick<Family, "architecture" | "classifier">): string | null {
  if (classifier !== undefined) return classifier;
  const classifies = architecture.replace(/For(?:Causal|Masked)LM$/, "ForSequenceClassification");
  return classifies === architecture ? null : classifies;
}

const headSchema = z.object({
  id2label: z.record(z.string(), z.string()).nullish(),
  num_labels: z.int().positive().nullish(),
});

/** How many numbers a head for texts gives; 2 as in Transformers where the file is silent. */
function outputsOf(raw: Raw, where: string): number {
  const { id2label, num_labels: count } = parseWith(headSchema, raw, where);
  return count ?? (id2label ? Object.keys(id2label).length : 2);
}

function isWrapper({ type, textType }: Wrapper, { model_type: given, text_config: text }: Raw): boolean {
  return given === type && (textType === undefined || (isRecord(text) && text["model_type"] === textType));
}

function findFamily({ model_type: type, architectures }: Raw, where: string): Family {
  const names = Array.isArray(architectures) ? architectures.filter((name) => typeof name === "string") : [];
  const isOne = (family: Family) => classesOf(family).some((name) => names.includes(name));
  const found = typeof type === "string" ? BY_TYPE.get(type) : FAMILIES.find(isOne);
  if (!found) {
    throw new UserError(`${where}: architecture ${show(names[0] ?? type)} is not supported; supported are ${supportedModels()}`);
  }
  if (names.length > 0 && !isOne(found)) {
    throw new UserError(`${where}: architecture ${show(names[0])} is not supported; expected ${found.architecture}`);
  }
  return found;
}

/** The class without a head. */
export function bareOf({ architecture, bare }: Pick<Family, "architecture" | "bare">): string {
  return bare ?? architecture.replace(/For(?:Causal|Masked)LM$/, "Model");
}

/** The classes in `architectures` that are the family's. */
function classesOf(family: Family): string[] {
  const { architecture, aliases = [] } = family;
  const classifier = classifierOf(family);
  return [architecture, bareOf(family), ...aliases, ...(classifier === null ? [] : [classifier])];
}
