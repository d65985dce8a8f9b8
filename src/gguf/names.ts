import { UserError } from "../base/errors.ts";
import type { Change } from "./blocks/change.ts";
import type { ModelConfig } from "../models/config.ts";
import type { GgufFacts, GgufPlace } from "../models/families/family.ts";
import { familyOf, modulesOf } from "../models/families/index.ts";
import { neighbours, type Order, run } from "../models/families/orders.ts";
import { blocksPrefix } from "../models/names.ts";
import type { RopeScaling } from "../models/rope.ts";

/** How llama.cpp has a model's family. @throws {UserError} no file of this kind is written */
export function ggufFacts(config: ModelConfig): GgufFacts {
  const { gguf, models } = familyOf(config);
  if (gguf === null) throw new UserError(`GGUF files are not written of ${models.join(" and ")}, which llama.cpp does not know`);
  return gguf;
}

/** llama.cpp's architecture of a model. */
export function architectureOf(config: ModelConfig): string {
  return ggufFacts(config).architecture;
}

/** A tensor of a GGUF file that a parameter becomes, or a part of it. */
export interface GgufPart {
  readonly name: string;
  /** The number among the experts whose parameters the tensor has one behind the other; null: it has this one alone. */
  readonly expert: number | null;
  /** The rows and the columns that it has, by those of the parameter; null: all, in their order. */
  readonly rows: Order | null;
  readonly columns: Order | null;
  readonly isTransposed: boolean;
  /** What its numbers are of the parameter's; null: the same. */
  readonly value: Change | null;
  /** True if it is f32 in files of every type. */
  readonly isFull: boolean;
  /** True if llama.cpp takes no adapter of it beside the file. */
  readonly isMergedOnly: boolean;
}

/** The tensors that a parameter becomes; none when the format has no place for it. */
export function ggufParts(parameter: string, config: ModelConfig): GgufPart[] {
  const [, module = parameter, kind = ""] = /^(.+)(\.(?:weight|bias))$/.exec(parameter) ?? [];
  const whole = (name: string): GgufPart => partOf({ name: name + kind }, kind, null, config);
  const { embedding, norm = "norm", head } = modulesOf(config);
  const { modules, others = {}, hasOwnHead = false } = ggufFacts(config);
  if (module === head) return [whole("output")];
  if (!module.startsWith(config.modulePrefix)) return [];
  const local = module.slice(config.modulePrefix.length);
  if (local === embedding) return [whole("token_embd"), ...(hasOwnHead && config.tieWordEmbeddings ? [whole("output")] : [])];
  if (local === norm) return [{ ...whole(outputNorm(config)), ...offsetOf(kind, config) }];
  const blocks = blocksPrefix(config);
  const [, layer, inner = ""] = (module.startsWith(blocks) && /^(\d+)\.(.+)$/.exec(module.slice(blocks.length))) || [];
  const expert = /\.experts\.(\d+)\./.exec(inner)?.[1];
  const key = expert === undefined ? inner : inner.replace(`.experts.${expert}.`, ".experts.*.");
  const [table, at, block] = layer === undefined ? [others, local, ""] : [modules, key, `blk.${layer}.`];
  const found = Object.hasOwn(table, at) ? table[at]! : [];
  const places = typeof found === "string" ? [{ name: found }] : "name" in found ? [found] : found;
  return places.map((place): GgufPart => {
    const own = { ...place, name: `${block}${place.name}${kind}` };
    const part = partOf(own, kind, expert === undefined ? null : Number(expert), config);
    const heads = interleavedHeads(inner, config);
    if (heads > 0) return { ...part, rows: (count) => neighbours(run(count), heads) };
    return module.endsWith("norm") && !place.isPlainNorm ? { ...part, ...offsetOf(kind, config) } : part;
  });
}

function partOf(place: GgufPlace, kind: string, expert: number | null, config: ModelConfig): GgufPart {
  const { name, isTransposed = false, value = null, isFull = false, isMergedOnly = false } = place;
  return {
    name,
    expert,
    rows: place.rows?.(config) ?? null,
    columns: place.columns?.(config) ?? null,
    // Of a module with a bias, the matrix.
    isTransposed: isTransposed && kind === ".weight",
    value: value && { kind: value },
    isFull: isFull || kind !== ".weight",
    isMergedOnly,
  };
}

/** llama.cpp adds nothing to the weights of norms: what the model adds is in the file. */
function offsetOf(kind: string, { normOffset }: ModelConfig): Partial<GgufPart> {
  return kind === ".weight" && normOffset !== 0 ? { value: { kind: "add", by: normOffset } } : {};
}

/** GGUF's name of the final norm. */
export function outputNorm(config: ModelConfig): string {
  return ggufFacts(config).outputNorm ?? "output_norm";
}

/** Tells whether llama.cpp rotates other pairs of features than the model, so that rows of queries and keys change places. */
function reorders(config: ModelConfig): boolean {
  return ggufFacts(config).rotatesNeighbours && !config.rotatesNeighbours;
}

/** The heads of a block's module whose rows are to be interleaved (see `neighbours`), or 0. */
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

type YarnScaling = Extract<RopeScaling, { type: "yarn" }>;

/**
 * llama.cpp reads no betas of YaRN from these architectures' files: it has the usual ones, rounded to whole dimensions. Models that are not rounded are
 * taken for such ones where they all are ("yarn-rounded").
 */
export function isUsualYarn({ betaFast, betaSlow, truncate }: YarnScaling, config: ModelConfig): boolean {
  return betaFast === 32 && betaSlow === 1 && (truncate || ggufFacts(config).scalings.includes("yarn-rounded"));
}

/** Tells whether llama.cpp rounds what the model does not: the first and the last dimension between interpolated and original frequencies. */
export function roundsYarn(config: ModelConfig): boolean {
  const { scaling } = config.rope;
  return scaling.type === "yarn" && !scaling.truncate && isUsualYarn(scaling, config);
}

/** Tells whether llama.cpp approximates a model's GELU by tanh, which the model does not. */
export function approximatesGelu(config: ModelConfig): boolean {
  return ggufFacts(config).approximatesGelu === true && config.hiddenAct === "gelu";
}

/** @throws {UserError} what llama.cpp computes otherwise */
export function checkExportable(config: ModelConfig): void {
  const { scaling } = config.rope;
  const { architecture, activation, scalings, check } = ggufFacts(config);
  if (config.hiddenAct !== activation && !approximatesGelu(config))
    throw new UserError(`GGUF's ${architecture} models have the activation ${activation}, not ${config.hiddenAct}`);
  check?.(config);
  if (scaling.type === "longrope" && !scalings.includes("longrope"))
    throw new UserError(`llama.cpp's ${architecture} models have no longrope scaling`);
  if (scaling.type === "yarn" && !isUsualYarn(scaling, config) && !scalings.includes("yarn-betas")) {
    throw new UserError(
      `llama.cpp's ${architecture} models have YaRN with beta_fast 32, beta_slow 1 and truncate, ` +
        `not beta_fast ${scaling.betaFast}, beta_slow ${scaling.betaSlow}, truncate ${scaling.truncate}`,
    );
  }
}
