import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { MOST_RANK } from "../../ops/row-norm.ts";
import { BIASES, type PeftFormat } from "./kind.ts";
import { type Pattern, patternValue } from "./patterns.ts";

/** Settings of low-rank adapters: as flags, as PEFT's `LoraConfig` has them, and for one module. */
export interface LowRankSettings {
  readonly rank: number;
  readonly alpha: number;
  readonly rslora: boolean;
  readonly dropout: number;
  /** Rank and alpha of modules that have others. */
  readonly rankPattern: Pattern;
  readonly alphaPattern: Pattern;
}

/** Settings of one module's adapter. */
export interface LowRankSetup {
  readonly rank: number;
  /** Factor of the update: alpha / rank, or alpha / sqrt(rank) with rsLoRA. */
  readonly scale: number;
}

const DEFAULT_RANK = 8;

const rank = z.number().int().min(1).max(MOST_RANK);
const alpha = z.number().positive();

/** Numbers by module: `name=number,name=number`, or an object; names as in PEFT's patterns. */
function patternOf(number: z.ZodNumber) {
  const entries = z.record(z.string().min(1), number);
  const parse = (text: string): unknown => {
    const pairs = text.split(",").map((part) => /^\s*(.+?)\s*=\s*(\S+)\s*$/.exec(part));
    return pairs.some((pair) => pair === null) ? null : Object.fromEntries(pairs.map((pair) => [pair![1]!, Number(pair![2])]));
  };
  const error = "expected name=number, several with commas between them";
  const text = z.string().transform(parse).pipe(entries);
  return z.union([entries, text], { error }).optional();
}

export const lowRankFlags = {
  rank: rank.optional().describe(`LoRA rank r (${DEFAULT_RANK})`),
  alpha: alpha.optional().describe("LoRA alpha; the adapter's output is scaled by alpha / r (twice the rank)"),
  rslora: z.boolean().optional().describe("scale by alpha / sqrt(r) instead (rank-stabilised LoRA)"),
  dropout: z.number().min(0).max(0.95).optional().describe("dropout in front of the adapters (0)"),
  freezeA: z
    .boolean()
    .optional()
    .describe(
      "leave A as it was drawn from the seed, and of an adapted embedding B, and train the other factor alone (FFA-LoRA)",
    ),
  rankPattern: patternOf(rank).describe("ranks of modules that have another one: q_proj=16,layers.0.mlp.down_proj=4"),
  alphaPattern: patternOf(alpha).describe("alphas of modules that have another one, in the same form"),
  bias: z.enum(BIASES).optional().describe("biases that are trained too: all, or those of the layers with an adapter (none)"),
};

type Asked = z.output<z.ZodObject<typeof lowRankFlags>>;

export function lowRankSettings(asked: Asked): LowRankSettings {
  const { rank = DEFAULT_RANK, alpha = 2 * rank, rslora = false, dropout = 0, rankPattern = {}, alphaPattern = {} } = asked;
  return { rank, alpha, rslora, dropout, rankPattern, alphaPattern };
}

/** The flags that ask for settings; dropout and what is frozen are each run's own. */
export function lowRankAsked({ rank, alpha, rslora, rankPattern, alphaPattern }: LowRankSettings): Asked {
  const orAbsent = (pattern: Pattern) => (Object.keys(pattern).length === 0 ? undefined : { ...pattern });
  return { rank, alpha, rslora, rankPattern: orAbsent(rankPattern), alphaPattern: orAbsent(alphaPattern) };
}

/** @throws {UserError} patterns that fit none of the modules */
export function checkPatterns({ rankPattern, alphaPattern }: Asked, adapted: readonly string[]): void {
  for (const [flag, pattern] of [
    ["--rank-pattern", rankPattern],
    ["--alpha-pattern", alphaPattern],
  ] as const) {
    for (const key of Object.keys(pattern ?? {})) {
      if (adapted.some((module) => patternValue({ [key]: 1 }, module, flag) !== null)) continue;
      const names = [...new Set(adapted.map((module) => module.split(".").at(-1)!))].sort();
      throw new UserError(`${flag}: ${show(key)} is the name of no module with an adapter; there are ${names.join(", ")}`);
    }
  }
}

export function lowRankSetup(settings: LowRankSettings, module: string, where: string): LowRankSetup {
  const rank = patternValue(settings.rankPattern, module, where) ?? settings.rank;
  const alpha = patternValue(settings.alphaPattern, module, where) ?? settings.alpha;
  return { rank, scale: alpha / (settings.rslora ? Math.sqrt(rank) : rank) };
}

export const describeLowRank = ({ rank }: LowRankSetup): string => `rank ${rank}`;

const pattern = z.record(z.string(), z.number().positive()).nullish();

const schema = z.object({
  r: z.int().positive(),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).max(1).default(0),
  use_rslora: z.boolean().nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
});

/** Values of `init_lora_weights` that leave the base model's weights as they are. */
const PLAIN_INITIALISATIONS = ["gaussian", "eva", "orthogonal"];

/** Settings that change what an adapter computes and that are not supported. */
const UNSUPPORTED = [
  "lora_bias",
  "layer_replication",
  "trainable_token_indices",
  "alora_invocation_tokens",
  "use_qalora",
  "use_bdlora",
  "arrow_config",
  "kasa_config",
  "monteclora_config",
  "velora_config",
] as const;

function isOff(value: unknown): boolean {
  return !value || (Array.isArray(value) && value.length === 0);
}

/** PEFT's `LoraConfig`. @param flags keys that are true @param hasParameters tells whether it has adapters of parameters of experts */
export const lowRankPeft = ({
  flags = [],
  hasParameters = false,
}: {
  readonly flags?: readonly string[];
  readonly hasParameters?: boolean;
}): PeftFormat<LowRankSettings, LowRankSetup> => ({
  type: "LORA",
  flags,
  read(raw, where, refuse) {
    const config = parseWith(schema, raw, where);
    const { init_lora_weights: initialisation } = config;
    if (typeof initialisation === "string" && !PLAIN_INITIALISATIONS.includes(initialisation)) {
      throw refuse(`init_lora_weights ${show(initialisation)}, which changes the base model's weights,`);
    }
    const unsupported = hasParameters ? UNSUPPORTED : [...UNSUPPORTED, "target_parameters"];
    for (const key of unsupported) if (!isOff(raw[key])) throw refuse(key);
    return {
      rank: config.r,
      alpha: config.lora_alpha,
      rslora: config.use_rslora ?? false,
      dropout: config.lora_dropout,
      rankPattern: config.rank_pattern ?? {},
      alphaPattern: config.alpha_pattern ?? {},
    };
  },
  write: (settings, { layers }) => ({
    alpha_pattern: settings.alphaPattern,
    fan_in_fan_out: false,
    init_lora_weights: true,
    ...(layers !== null && { layers_pattern: null, layers_to_transform: layers }),
    lora_alpha: settings.alpha,
    lora_dropout: settings.dropout,
    r: settings.rank,
    rank_pattern: settings.rankPattern,
    use_rslora: settings.rslora,
  }),
});
