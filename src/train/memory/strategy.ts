import { UserError } from "../../base/errors.ts";
import { lazily } from "../../base/lazily.ts";
import type { CHECKPOINTING_KEYS, TrainConfig } from "../config.ts";
import { type LimitedMemory, parseMemory } from "./limit.ts";
import { parseSize } from "../../base/bytes.ts";
import type { ModelPlanOptions } from "./plan-options.ts";
import type { Checkpointing } from "./step-plan.ts";

type CheckpointingConfig = Pick<TrainConfig, keyof typeof CHECKPOINTING_KEYS>;
type Parameter = "every" | "first" | "ratio" | "groupSize" | "groups" | "slots" | "activationMemory" | "memory";
type GivenName = NonNullable<TrainConfig["strategy"]>;
/** A strategy's name; `auto` where none is asked for. */
type StrategyName = GivenName | "auto";

/** Which strategy each parameter belongs to. */
const OWNERS: Readonly<Record<Parameter, GivenName>> = {
  every: "every",
  first: "first",
  ratio: "ratio",
  groupSize: "uniform",
  groups: "sqrt",
  slots: "revolve",
  activationMemory: "optimal",
  memory: "budget",
};

const FLAGS: Readonly<Record<Parameter, string>> = {
  every: "--every",
  first: "--first",
  ratio: "--ratio",
  groupSize: "--group-size",
  groups: "--groups",
  slots: "--slots",
  activationMemory: "--activation-memory",
  memory: "--memory",
};

/**
 * The name of the strategy that a configuration asks for, by itself or by a strategy's parameter. Where what is kept, or all weights, are to
 * leave memory, it is the one that takes the least.
 * @throws {UserError}
 */
export function strategyName(config: CheckpointingConfig): StrategyName {
  const given = (Object.keys(OWNERS) as Parameter[]).filter((key) => config[key] !== undefined);
  const wanted = config.strategy ?? (config.gradientCheckpointing ? undefined : "off");
  for (const key of given) {
    const owner = OWNERS[key];
    if (!config.gradientCheckpointing)
      throw new UserError(`${FLAGS[key]} needs gradient checkpointing, which is switched off; leave one of the two out`);
    const other = wanted ?? OWNERS[given[0]!];
    if (owner !== other) {
      const cause = wanted === undefined ? `${FLAGS[given[0]!]} asks for ${other}` : `--strategy is ${wanted}`;
      throw new UserError(`${FLAGS[key]} belongs to --strategy ${owner}, but ${cause}; leave one of the two out`);
    }
  }
  if (!config.gradientCheckpointing) return "off";
  const saves = config.offload !== "off" || config.stream === "all";
  return wanted ?? (given[0] ? OWNERS[given[0]] : saves ? "per-segment" : "auto");
}

/**
 * How the schedule of a run is found. A memory limit is the limit of all that is taken of `memory`. `--no-gradient-checkpointing`
 * keeps every tape.
 * @throws {UserError} parameters that contradict each other or are missing, or a limit below the base
 */
export function checkpointingOf(config: CheckpointingConfig, memory: LimitedMemory): Checkpointing {
  const name = strategyName(config);
  const parameter = <K extends Parameter>(key: K): NonNullable<TrainConfig[K]> => {
    const value = config[key];
    if (value === undefined) throw new UserError(`--strategy ${name} needs ${FLAGS[key]}`);
    return value;
  };
  switch (name) {
    case "auto":
      return { name, free: lazily(memory.known) };
    case "off":
    case "per-segment":
      return { name };
    case "every":
      return { name, k: parameter("every") };
    case "first":
      return { name, count: parameter("first") };
    case "ratio":
      return { name, ratio: parameter("ratio") };
    case "uniform":
      return { name, size: parameter("groupSize") };
    case "sqrt":
      return config.groups === undefined ? { name } : { name, groups: config.groups };
    case "revolve":
      return { name, slots: parameter("slots") };
    case "optimal":
      return { name, limit: activationLimit(parameter("activationMemory")) };
    case "budget":
      return budget(parameter("memory"), memory);
  }
}

/** Returns what of a block is kept or recomputed in any case. @throws {UserError} a name in both lists */
export function selectiveOf(config: CheckpointingConfig): ModelPlanOptions["selective"] {
  const [keep, recompute] = [config.keepOps ?? [], config.recomputeOps ?? []];
  const both = keep.find((name) => recompute.includes(name));
  if (both !== undefined) throw new UserError(`${both} is in --keep-ops and in --recompute-ops; leave it out of one of them`);
  return { keep, recompute };
}

function activationLimit(text: string): { readonly bytes: number } | { readonly share: number } {
  const size = parseSize(text);
  if (size) return size;
  throw new UserError(
    `--activation-memory takes a size such as 200MiB, or a share of what --strategy off needs such as 25%; got ${JSON.stringify(text)}`,
  );
}

function budget(text: string, { owner, free, base }: LimitedMemory): Checkpointing {
  let later: number | undefined;
  return { name: "budget", bytes: parseMemory(text, free), base: () => (later ??= base()), owner };
}
