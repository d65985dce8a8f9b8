import { UserError } from "../../base/errors.ts";
import { openDevice } from "../../device.ts";
import { findModel } from "../../load/find-model.ts";
import { computeType, weightTypeOf } from "../../load/weights.ts";
import { chooseOptimizer } from "../../optimizers/index.ts";
import type { Executor } from "../../runtime/executor.ts";
import { idealTime } from "../../schedule/chain.ts";
import { plannerOf } from "../../schedule/planner/offload.ts";
import { simulate } from "../../schedule/simulate.ts";
import { checkQuantize, type TrainConfig, type TrainConfigKey } from "../config.ts";
import { fixedTotal } from "../memory/forecast.ts";
import { explainingLimit, LIMIT_SPREAD, limitedMemory } from "../memory/limit.ts";
import { planModel, READING_THREAD } from "../memory/model-plan.ts";
import { NOMINAL_LINK } from "../memory/offload.ts";
import { PLANNED_VARIANTS, smallestPlan } from "../memory/step-plan.ts";
import { runDate } from "../run/date.ts";
import { totalSteps } from "../run/loop.ts";
import { type Inputs, planSession, readInputs } from "../run/session.ts";

/** A schedule that no other beats in both memory and time. */
export interface MemoryPoint {
  /** Bytes of the whole process, or on the card. */
  readonly memory: number;
  /** Time over that of a step that computes nothing twice. */
  readonly overhead: number;
}

/** What is known of a run before it begins. Memory is in bytes of the whole process that trains, or on the card. */
export interface Examination {
  readonly examples: number;
  /** Tokens of the training examples, and those of them that are learned. */
  readonly tokens: number;
  readonly labelled: number;
  readonly heldOut: number;
  /** Optimizer steps of the run, and of a pass over the data. */
  readonly steps: number;
  readonly stepsPerEpoch: number;
  /** Seconds of a step, by modelled times. */
  readonly secondsPerStep: number;
  readonly memory: {
    /** With the schedule that takes the least. */
    readonly least: number;
    /** The same with the frozen weights left in their files; null: they are no longer in memory by `least`, or cannot leave it. */
    readonly leastStreamed: number | null;
    /** With everything kept. */
    readonly most: number;
    /** By the run's own settings; null: they say nothing, and any limit from the least one on can be given. */
    readonly asked: number | null;
    readonly curve: readonly MemoryPoint[];
  };
  /** Sentences that a user should read once. */
  readonly notes: readonly string[];
}

/** Settings that choose the schedule. */
const SCHEDULE_KEYS = [
  "strategy",
  "every",
  "first",
  "ratio",
  "groupSize",
  "groups",
  "slots",
  "activationMemory",
  "memory",
] as const satisfies TrainConfigKey[];

/** Points of a curve that is told, at most. */
const MOST_POINTS = 32;

/**
 * Reads and checks everything that a run needs, as `run` does, and plans its memory. Nothing is trained, reserved or written.
 * @throws {UserError} anything that is missing or does not fit
 */
export async function examine(
  asked: TrainConfig,
  { given, signal }: { readonly given: readonly string[]; readonly signal?: AbortSignal | undefined },
): Promise<Examination> {
  const dated = { ...asked, date: runDate(asked) };
  checkQuantize(dated);
  chooseOptimizer(dated);
  const found = await findModel(dated);
  const named = { ...dated, model: found.name, ...(found.adapter === null ? {} : { adapter: found.adapter }) };
  const notes: string[] = [];
  const inputs = await readInputs(named, found.folder, { given, signal, onNote: (text) => notes.push(text) });
  try {
    const device = await openDevice(inputs.config);
    try {
      return examineInputs(device.executor, inputs, notes);
    } finally {
      device.close();
    }
  } finally {
    inputs.close();
  }
}

function examineInputs(executor: Executor, inputs: Inputs, notes: readonly string[]): Examination {
  const { config, train, valid } = inputs;
  const session = planSession(executor, inputs);
  const { measure: _, offload, source, ...options } = session.options;
  const link = offload && { ...NOMINAL_LINK, leastBytes: offload.leastBytes ?? NOMINAL_LINK.leastBytes };
  const planOptions = {
    ...options,
    weightType: weightTypeOf(executor, source, config),
    compute: computeType(executor, config.dtype),
    link: link ?? null,
  };
  const plan = planModel(executor, { ...planOptions, strategy: { name: "per-segment" }, variants: PLANNED_VARIANTS });
  const base = limitedMemory(executor, config).base() + LIMIT_SPREAD;
  const fixed = base + fixedTotal(plan.fixed) + plan.predicted.temporary;
  const { chain } = plan.largest;
  const planner = plannerOf(chain);
  const arena = Math.max(plan.between, smallestPlan(chain, planner).placement.extent);
  const least = fixed + arena;
  const streamed = plan.alternatives().filter(({ streams }) => streams);
  const leastFixed = Math.min(...streamed.map((other) => fixedTotal(other.fixed)));
  const leastStreamed = base + READING_THREAD + leastFixed + plan.predicted.temporary + arena;
  const most = Math.max(least, base + plan.withoutCheckpointing.peak);
  const isAsked = !config.gradientCheckpointing || SCHEDULE_KEYS.some((key) => config[key] !== undefined);
  const own = isAsked
    ? explainingLimit(config.memory, session.strategy, () => planModel(executor, { ...planOptions, strategy: session.strategy }))
    : null;
  const chosen = own ?? plan;
  const curve = planner.curve();
  const ideal = idealTime(chain);
  const stride = Math.max(1, Math.ceil(curve.length / MOST_POINTS));
  const microBatches = session.train.count(0);
  const steps = totalSteps(config, microBatches);
  if (steps < 1) throw new UserError("the run would have no steps");
  return {
    examples: train.count,
    tokens: train.tokens,
    labelled: train.labelled,
    heldOut: valid?.count ?? 0,
    steps,
    stepsPerEpoch: Math.max(1, Math.ceil(microBatches / config.gradientAccumulation)),
    secondsPerStep: config.gradientAccumulation * simulate(chosen.largest.chain, chosen.largest.schedule).time,
    memory: {
      least,
      leastStreamed: leastStreamed < least ? leastStreamed : null,
      most,
      asked: own && (session.strategy.name === "budget" ? session.strategy.bytes : base + own.predicted.peak),
      curve: curve
        .filter((_, i) => i % stride === 0 || i === curve.length - 1)
        .map(({ simulation }) => ({
          memory: Math.max(least, fixed + simulation.peak),
          overhead: simulation.time / ideal - 1,
        })),
    },
    notes,
  };
}
