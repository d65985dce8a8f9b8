import type { Chain } from "../../schedule/chain.ts";
import type { Schedule } from "../../schedule/ops.ts";
import { offloadKept, plannerOf } from "../../schedule/planner/offload.ts";
import type { Planner } from "../../schedule/planner/optimal.ts";
import type { FixedBytes } from "./forecast.ts";
import { type Placement, placeSchedule } from "../../schedule/placement.ts";
import { createSweeper } from "../../base/process/garbage.ts";
import { simulate } from "../../schedule/simulate.ts";
import { type Strategy, strategySchedule } from "../../schedule/strategies.ts";

/** How the schedule of a training step is found. */
export type Checkpointing =
  | Strategy
  /**
   * The default: the fastest schedule whose activations take half of what `off` needs for them, more where that makes a step faster, and half of the
   * bytes at most that are free besides what else is planned. Where that is less than what `per-segment` takes, it is `per-segment`.
   */
  | { readonly name: "auto"; readonly free: () => number }
  /** The fastest schedule whose activations (stash and workspace) fit a limit: bytes, or a share of what `off` needs. */
  | { readonly name: "optimal"; readonly limit: { readonly bytes: number } | { readonly share: number } }
  /**
   * The fastest schedule with which everything fits: `bytes` less what does not depend on the schedule. Where they are for the
   * whole process or card, `base` says what `owner` takes besides what is planned; it is asked when all programs have been made.
   */
  | { readonly name: "budget"; readonly bytes: number; readonly base?: () => number; readonly owner?: string }
  /** A given schedule, for tests and experiments. */
  | { readonly name: "given"; readonly schedule: (chain: Chain) => Schedule };

/** Describes what one step does, and where everything is while it does it. */
export interface StepPlan {
  readonly chain: Chain;
  readonly schedule: Schedule;
  readonly placement: Placement;
  /** The default, and what it came to; none where a strategy was asked for. */
  readonly automatic?: Automatic;
}

/** A limit that no schedule keeps. */
export class LimitError extends Error {
  override name = "LimitError";

  constructor(
    /** Bytes of stash and workspace: the limit, and the least one that can be kept. */
    readonly limit: number,
    readonly least: number,
    /** Bytes that programs take besides, which had been taken off the limit. */
    readonly temporary: number = 0,
    /** Bytes of what is not scheduled, which had been taken off the limit, too. */
    readonly fixed: number = 0,
    /** Bytes of the process that reads weights from their files; 0 where none are read. */
    readonly reading: number = 0,
  ) {
    super(`no schedule fits ${limit} bytes; the least is ${least}`);
  }
}

/** More memory than the executor has addresses for. */
export class CapacityError extends Error {
  override name = "CapacityError";

  constructor(
    /** Bytes that it has addresses for, and bytes of the whole plan at least. */
    readonly capacity: number,
    readonly fixed: FixedBytes,
    readonly least: number,
  ) {
    super(`the executor has addresses for ${capacity} bytes; the plan needs ${least}`);
  }
}

/** Tells whether the schedule is planned by measured times, and anew when they change. */
export function isPlanned(checkpointing: Checkpointing): boolean {
  return checkpointing.name === "optimal" || checkpointing.name === "budget";
}

/** Smaller-tape variants of the blocks that a way of finding schedules makes use of. */
export function variantsWanted(checkpointing: Checkpointing): number {
  switch (checkpointing.name) {
    case "off":
      return checkpointing.variant ?? 0;
    case "per-segment":
    case "every":
    case "first":
    case "ratio":
      // The one with the smallest tape.
      return 1;
    case "auto":
    case "optimal":
    case "budget":
    case "given":
      return PLANNED_VARIANTS;
    default:
      return 0;
  }
}

/** The number of variants that a planner chooses from. */
export const PLANNED_VARIANTS = 4;

/** Share of the bytes that are free which activations get by default, at most. */
const FREE_SHARE = 0.5;
/**
 * Shares of what saving everything takes that activations get by default, at least and at most. With about 70 % dense blocks compute again what takes a hundredth
 * of a step; what the rest would buy is less than that.
 */
const [LEAST_SHARE, MOST_SHARE] = [0.5, 0.75];
/** Share of a step's time that more memory is not taken for, and how often the range of limits is halved to find the least. */
const NEGLIGIBLE = 0.005;
const HALVINGS = 5;

/** Describes what the default comes to. */
export interface Automatic {
  /** Bytes that stash and workspace may have; null: `per-segment` takes more than the default allows, and is what is planned. */
  readonly limit: number | null;
  /** Bytes that they would take if everything was saved. */
  readonly everything: number;
  /** Where the limit comes from: what saving everything takes, or half of what is free. */
  readonly by: "everything" | "free";
  /** The plan of `per-segment`. */
  readonly least: StepPlan;
}

/** Plans what the default comes to in an arena of `room` bytes, beside `besides` bytes of all else. */
function planAutomatic(
  chain: Chain,
  { free }: Extract<Checkpointing, { readonly name: "auto" }>,
  room: number,
  besides: number,
): StepPlan {
  const everything = simulate(chain, strategySchedule(chain, { name: "off" })).peak;
  const there = Math.min(room, Math.floor(FREE_SHARE * (free() - besides)));
  const most = Math.min(there, Math.floor(MOST_SHARE * everything));
  const least = perSegment(chain);
  const automatic = (limit: number | null): Automatic => {
    const by = (limit ?? most) < there ? "everything" : "free";
    return { limit, everything, by, least };
  };
  if (least.placement.extent > most) return { ...least, automatic: automatic(null) };
  const planner = plannerOf(chain, { entries: AUTOMATIC_ENTRIES, work: AUTOMATIC_WORK });
  const from = Math.max(least.placement.extent, Math.floor(LEAST_SHARE * everything));
  const limit = enough(planner, Math.min(from, most), most);
  const plan = planWithin(chain, limit, planner);
  Bun.gc(true);
  return { ...(plannedTime(plan) < plannedTime(least) ? plan : least), automatic: automatic(limit) };
}

/** Finds the least limit from `least` to `most` with which a step is about as fast as with the latter. */
function enough(planner: Planner, least: number, most: number): number {
  const timeWithin = (bytes: number) => planner.plan(bytes)?.simulation.time ?? Infinity;
  const slowest = (1 + NEGLIGIBLE) * timeWithin(most);
  if (timeWithin(least) <= slowest) return least;
  let [low, high] = [least, most];
  for (let i = 0; i < HALVINGS; i++) {
    const middle = Math.floor((low + high) / 2);
    if (timeWithin(middle) <= slowest) high = middle;
    else low = middle;
  }
  return high;
}

/** Bytes that stash and workspace may have in an arena of `room` bytes. */
export function activationLimit(chain: Chain, checkpointing: Checkpointing, room: number): number {
  if (checkpointing.name !== "optimal") return room;
  const { limit } = checkpointing;
  if ("bytes" in limit) return Math.min(room, limit.bytes);
  const everything = simulate(chain, strategySchedule(chain, { name: "off" })).peak;
  return Math.min(room, Math.floor(limit.share * everything));
}

export interface PlanStepOptions {
  /** Entries of a planning table, at most. */
  readonly entries?: number;
  /** The plan so far, made with other times within the same limits: a planner's stays as long as no other one is faster. */
  readonly current?: StepPlan | undefined;
  /** Bytes of all that is planned besides, which the default takes off what is free. */
  readonly besides?: number;
}

/**
 * Plans a step in an arena of `room` bytes. On a chain with offload, a planner makes use of it as far as it is worthwhile; a
 * fixed strategy has everything outside that it keeps and that is large enough.
 * @throws {LimitError} when nothing fits
 */
export function planStep(
  chain: Chain,
  checkpointing: Checkpointing,
  room: number,
  { entries, current, besides = 0 }: PlanStepOptions = {},
): StepPlan {
  switch (checkpointing.name) {
    case "auto":
      return planAutomatic(chain, checkpointing, room, besides);
    case "optimal":
    case "budget": {
      const isLimited = checkpointing.name === "budget" && checkpointing.base !== undefined;
      const planner = plannerOf(chain, {
        ...(entries !== undefined && { entries }),
        ...(isLimited && { pause: createSweeper() }),
      });
      const plan = planWithin(chain, activationLimit(chain, checkpointing, room), planner);
      // The tables of the planner take up to tens of megabytes, which the step may need.
      Bun.gc(true);
      return current && plannedTime({ ...current, chain }) <= plannedTime(plan) ? { ...current, chain } : plan;
    }
    case "given":
      return placed(chain, checkpointing.schedule(chain));
    case "per-segment":
    case "every":
    case "first":
    case "ratio":
      return withReplays(chain, checkpointing);
    default:
      return placed(chain, offloadKept(chain, strategySchedule(chain, checkpointing)));
  }
}

/** Time of a step in the chain's unit: its programs, and what they wait for. */
export function plannedTime({ chain, schedule }: Pick<StepPlan, "chain" | "schedule">): number {
  return simulate(chain, schedule).time;
}

/** Entries and work of the default's planning tables, which a short run should not wait for. */
const AUTOMATIC_ENTRIES = 1e6;
const AUTOMATIC_WORK = 1e7;

function perSegment(chain: Chain): StepPlan {
  return withReplays(chain, { name: "per-segment" });
}

/** A fixed strategy that replays single segments. */
function withReplays(chain: Chain, strategy: Extract<Strategy, { readonly inside?: boolean }>): StepPlan {
  return placed(chain, offloadKept(chain, strategySchedule(chain, { ...strategy, inside: true })));
}

function placed(chain: Chain, schedule: Schedule): StepPlan {
  return { chain, schedule, placement: placeSchedule(chain, schedule) };
}

/** The plan that needs the least memory of all. */
export function smallestPlan(chain: Chain, planner: Planner = plannerOf(chain)): StepPlan {
  return placed(chain, planner.plan(planner.leastMemory)!.schedule);
}

/** Rounds in which the planner gets less because the placement of its schedule has gaps. */
const ROUNDS = 6;

/** The fastest schedule that is placed in `limit` bytes. */
function planWithin(chain: Chain, limit: number, planner: Planner = plannerOf(chain)): StepPlan {
  let room = limit;
  for (let round = 0; round < ROUNDS; round++) {
    const fit = planner.plan(room);
    if (!fit) break;
    const plan = placed(chain, fit.schedule);
    if (plan.placement.extent <= limit) return plan;
    room -= plan.placement.extent - limit;
  }
  const smallest = smallestPlan(chain, planner);
  if (smallest.placement.extent > limit) throw new LimitError(limit, smallest.placement.extent);
  return smallest;
}
