import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { flagName } from "../base/names.ts";
import type { ParamInfo } from "../runtime/resident.ts";
import { adafactor } from "./adafactor.ts";
import { adamw } from "./adamw.ts";
import { adamw8bit } from "./adamw-8bit.ts";
import { type Hyperparameter, HYPERPARAMETERS, type Hyperparameters } from "./hyperparameters.ts";
import { lion } from "./lion.ts";
import { muon } from "./muon.ts";
import type { OptimizerKind, UpdateRule } from "./optimizer.ts";
import { sgd } from "./sgd.ts";

/** Every optimizer, by the name that `--optimizer` has for it. */
const OPTIMIZERS = { adamw, adamw8bit, adafactor, muon, lion, sgd };

export type OptimizerName = keyof typeof OPTIMIZERS;

export const OPTIMIZER_NAMES = Object.keys(OPTIMIZERS) as [OptimizerName, ...OptimizerName[]];

const KINDS = Object.entries(OPTIMIZERS) as [OptimizerName, OptimizerKind][];

export const DEFAULT_OPTIMIZER: OptimizerName = "adamw";

/** The optimizer of a run with all its settings. */
export interface OptimizerChoice {
  readonly name: OptimizerName;
  /** Peak of the schedule. */
  readonly learningRate: number;
  readonly weightDecay: number;
  /** The optimizer's hyperparameters: asked for, or its own. */
  readonly settings: Readonly<Partial<Hyperparameters>>;
  ruleOf(param: ParamInfo): UpdateRule;
}

/** Describes what a configuration says of the optimizer: a key that is absent has the optimizer's own default. */
export type OptimizerConfig = { readonly optimizer?: OptimizerName | undefined; readonly learningRate?: number | undefined } & {
  readonly [K in Hyperparameter]?: Hyperparameters[K] | undefined;
};

/** @throws {UserError} a hyperparameter that the optimizer does not have */
export function chooseOptimizer(config: OptimizerConfig): OptimizerChoice {
  const name = config.optimizer ?? DEFAULT_OPTIMIZER;
  const { defaults, learningRate, rules } = OPTIMIZERS[name];
  const own = Object.keys(defaults) as Hyperparameter[];
  for (const key of Object.keys(HYPERPARAMETERS) as Hyperparameter[]) {
    if (config[key] === undefined || own.includes(key)) continue;
    throw new UserError(
      `${flagName(key)} is no setting of the optimizer ${name}, which has ${own.map(flagName).join(", ")}; ${flagName(key)} belongs to ${having(key).join(", ")}`,
    );
  }
  const asked = Object.fromEntries(own.filter((key) => config[key] !== undefined).map((key) => [key, config[key]]));
  const settings: Partial<Hyperparameters> = { ...defaults, ...asked };
  return {
    name,
    learningRate: config.learningRate ?? learningRate,
    weightDecay: settings.weightDecay ?? 0,
    settings,
    // The rules read those alone that have a default.
    ruleOf: rules(settings as Hyperparameters),
  };
}

function having(key: Hyperparameter): OptimizerName[] {
  return KINDS.filter(([, { defaults }]) => key in defaults).map(([name]) => name);
}

/** `2e-4; lion 4e-5`: the default of most optimizers, then those of the others. */
function defaultsText(valueOf: (kind: OptimizerKind) => number | boolean | string | undefined): string {
  const names = new Map<string, OptimizerName[]>();
  for (const [name, kind] of KINDS) {
    const value = valueOf(kind);
    if (value !== undefined) names.set(String(value), [...(names.get(String(value)) ?? []), name]);
  }
  const isCommon = names.size === 1 && [...names.values()][0]!.length === KINDS.length;
  return [...names].map(([value, of]) => (isCommon ? value : `${of.join(", ")} ${value}`)).join("; ");
}

function field<K extends Hyperparameter>(key: K): z.ZodOptional<(typeof HYPERPARAMETERS)[K]["type"]> {
  const { type, description } = HYPERPARAMETERS[key];
  const text = `${description} (${defaultsText(({ defaults }) => defaults[key])})`;
  return type.optional().describe(text) as z.ZodOptional<(typeof HYPERPARAMETERS)[K]["type"]>;
}

/** The keys of a configuration that choose an optimizer and set it up. */
export const optimizerShape = {
  optimizer: z
    .enum(OPTIMIZER_NAMES)
    .default(DEFAULT_OPTIMIZER)
    .describe("what updates the weights; muon leaves embedding, head and vectors to AdamW"),
  learningRate: z
    .number()
    .positive()
    .optional()
    .describe(`peak learning rate (${defaultsText(({ learningRate }) => learningRate)})`),
  weightDecay: field("weightDecay"),
  beta1: field("beta1"),
  beta2: field("beta2"),
  epsilon: field("epsilon"),
  momentum: field("momentum"),
  nesterov: field("nesterov"),
  adjustLr: field("adjustLr"),
} satisfies Record<Hyperparameter | "optimizer" | "learningRate", z.ZodType>;
