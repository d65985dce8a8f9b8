import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { readText } from "../../base/files/files.ts";
import { parseJson, readJsonObject, show } from "../../base/json.ts";
import { parseWith, size } from "../../base/schema.ts";
import type { DenseLayer, Pooling } from "../../models/config.ts";

/** Describes a model that gives texts embeddings, as sentence-transformers is told of it. */
export interface Embedder {
  readonly pooling: Pooling;
  /** Numbers of an embedding. */
  readonly width: number;
  /** Tokens of a text, at most. */
  readonly maxLength: number;
  /** True if texts are put into lower case first. */
  readonly lowerCase: boolean;
  /** True if the tokenizer has a chat template, which newer versions of sentence-transformers would put around plain texts. */
  readonly hasTemplate: boolean;
  /** The class of Transformers without a head. */
  readonly architecture: string;
  /** Layers behind the pooling. */
  readonly dense: readonly DenseLayer[];
}

/** The modules of sentence-transformers, with the folders that hold their settings. */
const modulesOf = (dense: readonly DenseLayer[]): readonly (readonly [path: string, type: string])[] => [
  ["", "Transformer"],
  ["1_Pooling", "Pooling"],
  ...dense.map(({ module }) => [module, "Dense"] as const),
  [`${2 + dense.length}_Normalize`, "Normalize"],
];

/** The files beside a model that make a folder of sentence-transformers of it, with their texts, by path; all its versions read this form, but for chat templates. */
export function embedderFiles({
  pooling,
  dense,
  width,
  maxLength,
  lowerCase,
  hasTemplate,
}: Embedder): ReadonlyMap<string, string> {
  const all = modulesOf(dense);
  const modules = all.map(([path, type], idx) => ({
    idx,
    name: String(idx),
    path,
    type: `sentence_transformers.models.${type}`,
  }));
  const modes = {
    word_embedding_dimension: dense[0]?.inputs ?? width,
    pooling_mode_cls_token: pooling === "cls",
    pooling_mode_mean_tokens: pooling === "mean",
    pooling_mode_max_tokens: false,
    pooling_mode_mean_sqrt_len_tokens: false,
    pooling_mode_weightedmean_tokens: false,
    pooling_mode_lasttoken: pooling === "last",
    include_prompt: true,
  };
  const text = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  return new Map([
    [MODULES_FILE, text(modules)],
    ["sentence_bert_config.json", text({ max_seq_length: maxLength, do_lower_case: lowerCase, ...(hasTemplate && PLAIN_TEXTS) })],
    ["1_Pooling/config.json", text(modes)],
    ...dense.map((layer) => [`${layer.module}/config.json`, text(denseSettings(layer))] as const),
    [`${all.at(-1)![0]}/config.json`, text({})],
  ]);
}

/** Has texts read as they are; older versions, which know of no chats, do not know these keys either. */
const PLAIN_TEXTS = {
  transformer_task: "feature-extraction",
  modality_config: { text: { method: "forward", method_output_name: "last_hidden_state" } },
  module_output_name: "token_embeddings",
};

const ACTIVATIONS = { identity: "torch.nn.modules.linear.Identity", tanh: "torch.nn.modules.activation.Tanh" } as const;

const denseSettings = ({ inputs, outputs, bias, activation }: DenseLayer) => ({
  in_features: inputs,
  out_features: outputs,
  bias,
  activation_function: ACTIVATIONS[activation],
});

const MODULES_FILE = "modules.json";

/** All files of such a folder that are not the model's; the first one is always there. */
export const EMBEDDER_FILES = [
  MODULES_FILE,
  "sentence_bert_config.json",
  "config_sentence_transformers.json",
  "1_Pooling/config.json",
  "2_Normalize/config.json",
] as const;

/** The poolings of sentence-transformers by their keys in older versions, with their names in newer ones. */
const MODES: Readonly<Record<string, Pooling>> = {
  pooling_mode_cls_token: "cls",
  pooling_mode_mean_tokens: "mean",
  pooling_mode_lasttoken: "last",
  cls: "cls",
  mean: "mean",
  lasttoken: "last",
};

/** Describes the way from a text to its embedding that a folder of sentence-transformers says. */
export interface SaidEmbedder {
  readonly pooling: Pooling;
  /** Layers behind the pooling. */
  readonly dense: readonly DenseLayer[];
  /** True if embeddings are brought to length 1. */
  readonly normalizes: boolean;
  /** Tokens of a text, at most; null: the files say nothing of it. */
  readonly maxLength: number | null;
  /** True if texts are put into lower case first. */
  readonly lowerCase: boolean;
  /** Texts that are put in front of texts, by name. */
  readonly prompts: Readonly<Record<string, string>>;
  /** The name of the one that is put there unasked; null: none. */
  readonly defaultPrompt: string | null;
  /** False if the tokens of a prompt are no part of the mean. */
  readonly poolsPrompt: boolean;
  /** Numbers that are kept of an embedding; null: all. */
  readonly dimensions: number | null;
}

const moduleSchema = z.array(z.looseObject({ path: z.string(), type: z.string() }));
const settingsSchema = z.looseObject({
  prompts: z.record(z.string(), z.string().nullable()).nullish(),
  default_prompt_name: z.string().nullish(),
  truncate_dim: z.int().positive().nullish(),
});
const textSchema = z.looseObject({ max_seq_length: z.int().positive().nullish(), do_lower_case: z.boolean().nullish() });

/**
 * Reads what a folder of sentence-transformers says of embeddings; null: it is no such folder.
 * @throws {UserError} modules that are not supported, files that are damaged
 */
export function readEmbedder(folder: string): SaidEmbedder | null {
  const path = join(folder, MODULES_FILE);
  if (!existsSync(path)) return null;
  const modules = parseWith(moduleSchema, parseJson(readText(path), path), path);
  const kinds = modules.map(({ type }) => type.split(".").at(-1)!);
  if (!/^Transformer,Pooling(,Dense)*(,Normalize)?$/.test(kinds.join()) || modules[0]!.path !== "") {
    const found = modules.map((module, i) => `${kinds[i]!}${module.path === "" ? "" : ` in ${module.path}`}`).join(", ");
    throw new UserError(
      `${path}: the modules ${found} are not supported; expected Transformer in the folder itself, Pooling, and perhaps Dense and Normalize`,
    );
  }
  const pooling = join(folder, modules[1]!.path, "config.json");
  const raw = readJsonObject(pooling);
  const texts = textsOf(folder);
  const settingsPath = join(folder, "config_sentence_transformers.json");
  const settings = existsSync(settingsPath) ? parseWith(settingsSchema, readJsonObject(settingsPath), settingsPath) : {};
  return {
    ...texts,
    pooling: poolingOf(raw, pooling),
    dense: modules.filter((_, i) => kinds[i] === "Dense").map(({ path: module }) => denseOf(folder, module)),
    normalizes: kinds.includes("Normalize"),
    prompts: Object.fromEntries(Object.entries(settings.prompts ?? {}).map(([name, text]) => [name, text ?? ""])),
    defaultPrompt: settings.default_prompt_name ?? null,
    poolsPrompt: raw["include_prompt"] !== false,
    dimensions: settings.truncate_dim ?? null,
  };
}

const denseSchema = z.looseObject({
  in_features: size,
  out_features: size,
  bias: z.boolean().default(true),
  activation_function: z.string().default(ACTIVATIONS.tanh),
  use_residual: z.literal(false).default(false),
  module_input_name: z.literal("sentence_embedding").default("sentence_embedding"),
  module_output_name: z.literal("sentence_embedding").nullish(),
});

/** @throws {UserError} a layer that does something else */
function denseOf(folder: string, module: string): DenseLayer {
  const path = join(folder, module, "config.json");
  const {
    in_features: inputs,
    out_features: outputs,
    bias,
    activation_function: given,
  } = parseWith(denseSchema, readJsonObject(path), path);
  const activation = (["identity", "tanh"] as const).find((name) => given.endsWith(`.${ACTIVATIONS[name].split(".").at(-1)!}`));
  if (activation !== undefined) return { module, inputs, outputs, bias, activation };
  throw new UserError(
    `${path}: activation_function ${show(given)} is not supported; expected ${Object.values(ACTIVATIONS).join(" or ")}`,
  );
}

/** @throws {UserError} several at once, or one that there is not here */
function poolingOf(raw: Readonly<Record<string, unknown>>, where: string): Pooling {
  const flags = Object.keys(raw).filter((key) => key.startsWith("pooling_mode_") && raw[key] === true);
  const said = raw["pooling_mode"] === undefined ? flags : ([raw["pooling_mode"]].flat() as unknown[]);
  // Without a word it is the mean.
  const [mode = "mean", ...more] = said;
  const known = typeof mode === "string" && more.length === 0 && Object.hasOwn(MODES, mode) ? MODES[mode] : undefined;
  if (known !== undefined) return known;
  throw new UserError(
    `${where}: the pooling ${show(said.length === 1 ? mode : said)} is not supported; expected mean, cls or lasttoken`,
  );
}

/** Lengths are in a file with the name of a kind of model in old folders, and in the tokenizer's in new ones. */
function textsOf(folder: string): Pick<SaidEmbedder, "maxLength" | "lowerCase"> {
  const file = readdirSync(folder).find((name) => /^sentence_[\w-]+_config\.json$/.test(name));
  const path = join(folder, file ?? "");
  const { max_seq_length: own, do_lower_case: lowerCase } =
    file === undefined ? {} : parseWith(textSchema, readJsonObject(path), path);
  const tokenizer = join(folder, "tokenizer_config.json");
  const most = existsSync(tokenizer) ? readJsonObject(tokenizer)["model_max_length"] : undefined;
  // Tokenizers without a limit say 10^30.
  const said = typeof most === "number" && Number.isSafeInteger(most) && most > 0 ? most : null;
  return { maxLength: own ?? said, lowerCase: lowerCase ?? false };
}
