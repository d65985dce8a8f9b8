import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../../base/json.ts";
import type { Pooling } from "../../models/config.ts";

/** Describes a model that gives texts embeddings, as sentence-transformers is told of it. */
export interface Embedder {
  readonly pooling: Pooling;
  /** Numbers of an embedding. */
  readonly width: number;
  /** Tokens of a text, at most. */
  readonly maxLength: number;
  /** The class of Transformers without a head. */
  readonly architecture: string;
}

/** The modules of sentence-transformers, with the folders that hold their settings. */
const MODULES: readonly (readonly [path: string, type: string])[] = [
  ["", "Transformer"],
  ["1_Pooling", "Pooling"],
  ["2_Normalize", "Normalize"],
];

/** The files beside a model that make a folder of sentence-transformers of it, with their texts, by path; all its versions read this form. */
export function embedderFiles({ pooling, width, maxLength }: Embedder): ReadonlyMap<string, string> {
  const modules = MODULES.map(([path, type], idx) => ({
    idx,
    name: String(idx),
    path,
    type: `sentence_transformers.models.${type}`,
  }));
  const modes = {
    word_embedding_dimension: width,
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
    ["modules.json", text(modules)],
    ["sentence_bert_config.json", text({ max_seq_length: maxLength, do_lower_case: false })],
    ["1_Pooling/config.json", text(modes)],
    ["2_Normalize/config.json", text({})],
  ]);
}

/** The poolings of sentence-transformers by their keys in older versions, with their names in newer ones. */
const MODES: Readonly<Record<string, Pooling>> = {
  pooling_mode_cls_token: "cls",
  pooling_mode_mean_tokens: "mean",
  pooling_mode_lasttoken: "last",
  cls: "cls",
  mean: "mean",
  lasttoken: "last",
};

/** The pooling that a model's folder of sentence-transformers says, in its words where we have none of it; null: it is no such folder. */
export function saidPooling(folder: string): string | null {
  const path = join(folder, "1_Pooling/config.json");
  if (!existsSync(path)) return null;
  const raw = readJsonObject(path);
  const said = Object.keys(raw).filter((key) => key.startsWith("pooling_mode_") && raw[key] === true);
  const modes = typeof raw["pooling_mode"] === "string" ? [raw["pooling_mode"]] : said;
  return modes.length === 0 ? null : modes.map((mode) => MODES[mode] ?? mode).join(" and ");
}
