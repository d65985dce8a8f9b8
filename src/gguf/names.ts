import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "../models/config.ts";
import type { GgufFacts } from "../models/families/family.ts";
import { familyOf, modulesOf } from "../models/families/index.ts";
import type { RopeScaling } from "../models/rope.ts";
import { groupRows, interleaveRows } from "./encode.ts";

/** How llama.cpp has a model's family. @throws {UserError} no file of this kind is written */
export function ggufFacts(config: ModelConfig): GgufFacts {
  const { gguf, models } = familyOf(config);
  if (gguf === null)
    throw new UserError(
      `GGUF files are not written of ${models.join(" and ")}; write them of a Llama, a Qwen or another decoder`,
    );
  return gguf;
}

/** llama.cpp's architecture of a model. */
export function architectureOf(config: ModelConfig): string {
  return ggufFacts(config).architecture;
}

/** A tensor of a GGUF file, made of rows of a module's. */
export interface GgufPart {
  /** Without `.weight` or `.bias`. */
  readonly name: string;
  /** How many of so many rows it has. */
  count(rows: number): number;
  /** Its values, of those of all rows; null: it has all of them, in their order. */
  readonly take: ((values: Float32Array, columns: number) => Float32Array) | null;
}

/** The tensors that a module becomes; none when the format has no place for it. */
export function ggufParts(module: string, config: ModelConfig): GgufPart[] {
  const whole = (name: string): GgufPart[] => [{ name, count: (rows) => rows, take: null }];
  const { embedding, norm = "norm", head } = modulesOf(config);
  if (module === head) return whole("output");
  if (!module.startsWith(config.modulePrefix)) return [];
  const local = module.slice(config.modulePrefix.length);
  if (local === embedding) return whole("token_embd");
  if (local === norm) return whole(outputNorm(config));
  const [, layer, inner = ""] = /^layers\.(\d+)\.(.+)$/.exec(local) ?? [];
  const { modules } = ggufFacts(config);
  const names = Object.hasOwn(modules, inner) ? modules[inner]! : [];
  if (typeof names !== "string")
    return names.map((name, i) =>
      names.length === 2 ? halfPart(`blk.${layer}.${name}`, i) : groupedPart(`blk.${layer}.${name}`, i, config),
    );
  const heads = interleavedHeads(inner, config);
  if (heads === 0) return whole(`blk.${layer}.${names}`);
  return [{ ...whole(`blk.${layer}.${names}`)[0]!, take: (values, columns) => interleaveRows(values, heads, columns) }];
}

/** The first (0) or second (1) half of the rows: gate and up of a Granite 4. */
function halfPart(name: string, part: number): GgufPart {
  return {
    name,
    count: (rows) => rows / 2,
    take: (values) => values.slice((part * values.length) / 2, ((part + 1) * values.length) / 2),
  };
}

/** Queries (0), keys (1) or values (2) of an InternLM2: in each group of rows, those of its query heads, of key and value. */
function groupedPart(name: string, part: number, config: ModelConfig): GgufPart {
  const { heads, kvHeads, headDim } = config;
  const perKey = heads / kvHeads;
  const size = (part === 0 ? perKey : 1) * headDim;
  const from = (part === 0 ? 0 : perKey + part - 1) * headDim;
  const group = (perKey + 2) * headDim;
  return {
    name,
    count: (rows) => (rows / group) * size,
    take(values, columns) {
      const rows = groupRows(values, columns, group, from, size);
      return part === 2 || !reorders(config) ? rows : interleaveRows(rows, part === 0 ? heads : kvHeads, columns);
    },
  };
}

/** GGUF's name of the final norm. */
export function outputNorm(config: ModelConfig): string {
  return ggufFacts(config).outputNorm ?? "output_norm";
}

/** GGUF names of the modules that block `layer` has. */
export function blockModules(config: ModelConfig, layer: number): string[] {
  const optional = config.qkNorm ? [] : ["attn_q_norm", "attn_k_norm"];
  const absent = config.convolution?.layers[layer] ? "self_attn." : "conv.";
  return Object.entries(ggufFacts(config).modules)
    .filter(([module]) => !module.startsWith(absent))
    .flatMap(([, names]) => names)
    .filter((name) => !optional.includes(name));
}

/** llama.cpp adds nothing to the weights of norms: what the model adds is in the file. */
export function normOffset(module: string, config: ModelConfig): number {
  return module.endsWith("norm") ? config.normOffset : 0;
}

/** Tells whether llama.cpp rotates other pairs of features than the model, so that rows of queries and keys change places. */
function reorders(config: ModelConfig): boolean {
  return ggufFacts(config).rotatesNeighbours && !config.rotatesNeighbours;
}

/** The heads of a block's module whose rows are to be interleaved (see `interleaveRows`), or 0. */
function interleavedHeads(module: string, config: ModelConfig): number {
  if (!reorders(config)) return 0;
  if (module === "self_attn.q_proj") return config.heads;
  return module === "self_attn.k_proj" ? config.kvHeads : 0;
}

/** Tells whether llama.cpp has the model's sliding window; in the other families every token sees the whole text there. */
export function hasWindows(config: ModelConfig): boolean {
  return ggufFacts(config).window === "applied" && config.slidingWindow !== null;
}

/** The window that the file names, in tokens, 0 for none; null: it names nothing. */
export function windowInFile(config: ModelConfig): number | null {
  return ggufFacts(config).window === "named" ? (config.slidingWindow ?? 0) : hasWindows(config) ? config.slidingWindow : null;
}

/** llama.cpp reads no betas of YaRN from these architectures' files: it has the usual ones, rounded to whole dimensions. */
export function isUsualYarn({ betaFast, betaSlow, truncate }: Extract<RopeScaling, { type: "yarn" }>): boolean {
  return betaFast === 32 && betaSlow === 1 && truncate;
}

/** @throws {UserError} what llama.cpp computes otherwise */
export function checkExportable(config: ModelConfig): void {
  const { scaling } = config.rope;
  const { architecture, activation, scalings, check } = ggufFacts(config);
  if (config.hiddenAct !== activation)
    throw new UserError(`GGUF's ${architecture} models have the activation ${activation}, not ${config.hiddenAct}`);
  check?.(config);
  if (scaling.type === "longrope" && !scalings.includes("longrope"))
    throw new UserError(`llama.cpp's ${architecture} models have no longrope scaling`);
  if (scaling.type === "yarn" && !isUsualYarn(scaling) && !scalings.includes("yarn-betas")) {
    throw new UserError(
      `llama.cpp's ${architecture} models have YaRN with beta_fast 32, beta_slow 1 and truncate, ` +
        `not beta_fast ${scaling.betaFast}, beta_slow ${scaling.betaSlow}, truncate ${scaling.truncate}`,
    );
  }
}
