/**
 * Offload as another choice of the planner, for chains with a link (`chain.offload`). A subproblem gets one more bit, "its input has
 * a copy outside", and two more ways to begin: its input may be outside while the deeper subproblem runs, and so may the
 * tape of a tape or retape.
 *
 * That is exact for transfers that stop the computation. For transfers beside the computation there is no such recurrence:
 * the planner runs with the cost of transfers scaled down, with restrictions on the tapes that may leave (equal layers
 * cannot be rationed by a price alone), and with some memory kept back for what is under way; it moves fetches ahead and drops back,
 * and keeps the schedule that the exact simulation finds fastest.
 */
import type { Chain, Link } from "../chain.ts";
import { canonicalIntervals } from "./intervals.ts";
import { type Computation, DA, DT, formatSchedule, IA, isComputation, IT, OA, type Op, OT, type Schedule } from "../ops.ts";
import { frontier, makePlanner, type Planned, type Planner, type PlannerOptions } from "./optimal.ts";
import { overlapTransfers } from "./overlap.ts";
import { readSchedule, ROUNDING } from "./read.ts";
import { pagedRecurrence } from "./paged.ts";
import { makeRecurrence, type Recurrence } from "./recurrence.ts";
import { simulate } from "../simulate.ts";
import { strategySchedule } from "../strategies.ts";
import { fittingUnit, MOST_SLOTS, sizeDivisor } from "./slots.ts";
import { extremes, fillTable, layoutTable, type Table } from "./table.ts";

/** The planner of a chain: with offload where the chain has a link. */
export function plannerOf(chain: Chain, options?: PlannerOptions): Planner {
  const plain = makePlanner(chain, options);
  if (!chain.offload) return plain;
  // The tables of all choices together have no more entries than one of the planner's.
  const entries = Math.min(MOST_ENTRIES, (options?.entries ?? Infinity) / CHOICES.length);
  return withOffload(chain, chain.offload, plain, entries, options?.pause ?? (() => {}));
}

/** Inner steps and entries (of 8 bytes) of a table at most, and slots of the layout by which they are foreseen. */
const WORK = 5e6;
const MOST_ENTRIES = 1e6;
const SLOTS = 500;

/**
 * Factors of the cost of a transfer, and strides of the tapes that may leave memory (0: none), in order of use: each adds more than
 * the ones behind it to the published cases and to language models over limits and bandwidths, and more than these add 0.1 %.
 */
const CHOICES = [
  { scale: 0.1, stride: 4 },
  { scale: 0.02, stride: 0 },
  { scale: 0.1, stride: 2 },
  { scale: 0.02, stride: 2 },
  { scale: 0.3, stride: 1 },
  { scale: 0.3, stride: 3 },
  { scale: 0.02, stride: 6 },
  { scale: 0.02, stride: 4 },
  { scale: 0.1, stride: 3 },
] as const;
/** Factors by which memory counts as more or less than it is when a rounded table is read: see optimal.ts. */
const READINGS = [1, 0.97, 1.03, 1.06];
/** Long chains, whose tables take longer, have the first of them, fewer split points, and hold whole tapes alone without their input. */
const LONG_CHAIN = 64;
const LONG_CHAIN_CHOICES = 3;
/** How far a fetch moves ahead, in multiples of its own duration. */
const LEADS = [0, 1, 2, 4, Infinity];
/** Time as a multiple of the least without a limit that is not worth a search. */
const GOOD = 1.002;
/** Share of a limit down to which its search is used again. */
const NEAR = 0.9;
/** Chains of so few limits that differ have a plan for each of them. */
const FEW_LIMITS = 128;
/** Limits below one that is asked for whose schedules are looked at too. */
const RUNGS = 8;
/** Limits at which a curve looks for schedules with offload. */
const CURVE_POINTS = 10;

function withOffload(chain: Chain, link: Link, plain: Planner, entries: number, pause: () => void): Planner {
  const isLong = chain.n > LONG_CHAIN;
  const base = makeRecurrence(chain, canonicalIntervals(chain), isLong ? { retapes: 1, allSplits: LONG_CHAIN } : {});
  const boundary = Math.max(...chain.a);
  const tape = Math.max(...chain.r);
  const reserves = [0, boundary, 2 * boundary, tape + boundary, 2 * (tape + boundary)];
  const choices = isLong ? CHOICES.slice(0, LONG_CHAIN_CHOICES) : CHOICES;
  const readers = new Map<number, Reader>();
  /** Makes the reader of tapes at a stride; the price of a transfer changes no bound. */
  const readerOf = (stride: number): Reader => {
    let reader = readers.get(stride);
    if (!reader) readers.set(stride, (reader = makeReader(chain, (scale) => pagedRecurrence(chain, link, base, scale, stride))));
    return reader;
  };
  // Where every tape may leave, the least memory is the least of all.
  const leastMemory = Math.min(plain.leastMemory, readerOf(1).leastMemory);
  const enough = plain.fastest.simulation.peak;

  /** By choice, one after the other: reads schedules whose transfers stop the computation, for limits up to `memory`. */
  function* tablesFor(memory: number): Iterable<(limit: number) => Candidate[]> {
    let unit: number | undefined;
    for (const { scale, stride } of choices) {
      const reader = readerOf(stride);
      if (memory < reader.leastMemory) continue;
      // All choices have about the same work, which takes a while to foresee in a long chain.
      if (unit === undefined || !isLong) unit = reader.unitFor(memory, entries);
      const read = reader.upTo(memory, scale, unit);
      yield (limit) => {
        pause();
        if (limit < reader.leastMemory) return [];
        return read(limit).flatMap((schedule) => (schedule.some(isFetch) ? [candidateOf(chain, link, schedule)] : []));
      };
    }
  }
  /** The candidates of several limits, each schedule once. There is one table at a time. */
  const search = (limits: readonly number[]): Candidate[] => {
    const found = new Map<string, Candidate>();
    for (const read of tablesFor(Math.max(...limits))) {
      for (const candidate of limits.flatMap(read)) found.set(formatSchedule(candidate.schedule).join(), candidate);
    }
    return [...found.values()];
  };
  const best = (candidates: readonly Candidate[], memory: number, from: Planned | null): Planned | null => {
    let best = from;
    for (const { schedule, peak, least } of candidates.toSorted((x, y) => x.least - y.least)) {
      if (peak > memory) continue;
      for (const lead of LEADS) {
        // Wherever transfers go, they are not faster than that.
        if (best && least >= best.simulation.time) return best;
        pause();
        const beside = overlapTransfers(chain, link, schedule, memory, lead);
        const simulation = simulate(chain, beside);
        // Sums of sizes that are not whole numbers depend on their order.
        if (simulation.peak > memory) continue;
        if (!best || simulation.time < best.simulation.time) best = { schedule: beside, simulation };
      }
    }
    return best;
  };
  const simple = (memory: number) => best(simpleCandidates(chain, link, memory), memory, plain.plan(memory));
  const isGood = (planned: Planned | null): planned is Planned =>
    planned !== null && planned.simulation.time <= GOOD * plain.fastest.simulation.time;

  const divisor = sizeDivisor(chain);
  const count = divisor > 0 ? Math.round((enough - leastMemory) / divisor) : Infinity;
  /** Where there are few limits that differ, the plans of all of them in turn: none is slower than the one of a lower limit. */
  const plans: (Planned | null)[] = [];
  let reads: ((limit: number) => Candidate[])[] | undefined;
  const candidatesAt = memoised((limit: number) => (reads ??= [...tablesFor(enough)]).flatMap((read) => read(limit)));
  const planOf = (limit: number): Planned | null => {
    const planned = simple(limit);
    if (isGood(planned)) return planned;
    return best(
      reserves.flatMap((reserve) => candidatesAt(limit - reserve)),
      limit,
      planned,
    );
  };
  const planAt = (index: number): Planned | null => {
    while (plans.length <= index) {
      const planned = planOf(leastMemory + plans.length * divisor);
      const lower = plans.at(-1) ?? null;
      plans.push(lower && !(planned && planned.simulation.time < lower.simulation.time) ? lower : planned);
    }
    return plans[index]!;
  };

  const rungs = Array.from({ length: RUNGS }, (_, i) => leastMemory * (enough / leastMemory) ** (i / RUNGS));
  /** Limits a little below one that was asked for are answered by the same search. */
  let last: { readonly memory: number; readonly candidates: readonly Candidate[] } | undefined;
  const planBetween = (memory: number): Planned | null => {
    const planned = simple(memory);
    if (isGood(planned)) return planned;
    const isNear = last !== undefined && memory <= last.memory && memory >= NEAR * last.memory;
    const known = isNear ? best(last!.candidates, memory, planned) : null;
    if (known) return known;
    const lower = rungs.filter((rung) => rung < memory);
    last = { memory, candidates: search([...reserves.map((reserve) => memory - reserve), ...lower]) };
    return best(last.candidates, memory, planned);
  };

  return {
    chain,
    leastMemory,
    fastest: plain.fastest,
    plan(memory) {
      if (!(memory >= leastMemory)) return null;
      if (memory >= enough) return plain.fastest;
      return count <= FEW_LIMITS ? planAt(Math.floor((memory - leastMemory) / divisor)) : planBetween(memory);
    },
    curve() {
      const limits = Array.from({ length: CURVE_POINTS }, (_, i) => leastMemory * (enough / leastMemory) ** (i / CURVE_POINTS));
      const candidates = search(limits.toReversed());
      const points = limits.flatMap(
        (memory) => best([...candidates, ...simpleCandidates(chain, link, memory)], memory, null) ?? [],
      );
      return frontier([...plain.curve(), ...points]);
    },
  };
}

/** A schedule whose transfers stop the computation. */
interface Candidate {
  readonly schedule: Schedule;
  readonly peak: number;
  /** Time that its computations take, and its transfers in either direction: the least when they are beside each other. */
  readonly least: number;
}

function candidateOf(chain: Chain, link: Link, schedule: Schedule): Candidate {
  const { time, waited, peak, transfers } = simulate(chain, schedule);
  const moved = { out: 0, in: 0 };
  for (const { direction, bytes } of transfers) moved[direction] += bytes;
  return { schedule, peak, least: Math.max(time - waited, moved.out / link.out, moved.in / link.in) };
}

/**
 * Everything computed once: the tapes of one variant, and those of the first segments, as few as that takes, outside. These are good
 * where a chain is so deep that a slot of a table is larger than a boundary.
 */
function simpleCandidates(chain: Chain, link: Link, memory: number): Candidate[] {
  const variants = Math.max(...chain.variants.map((list) => list.length));
  return Array.from({ length: variants + 1 }, (_, variant) => {
    const kept = strategySchedule(chain, { name: "off", variant });
    const outside = (count: number): Candidate => {
      return candidateOf(chain, link, offloadKept(chain, kept, { last: chain.frozen + count, isBeside: false }));
    };
    let [low, high] = [0, chain.n - chain.frozen];
    while (high - low > 1) {
      const count = (low + high) >> 1;
      if (outside(count).peak <= memory) high = count;
      else low = count;
    }
    return outside(high);
  });
}

const isFetch = ({ kind }: Op): boolean => kind === "IA" || kind === "IT";

interface Reader {
  readonly leastMemory: number;
  /** Bytes of a slot of a table for limits up to `memory` bytes: the sizes' divisor where that can be afforded. */
  unitFor(memory: number, entries: number): number;
  /** Reads schedules for limits from the least memory to `memory` bytes out of one table. */
  upTo(memory: number, scale: number, unit: number): (limit: number) => Schedule[];
}

function makeReader(chain: Chain, recurrenceOf: (scale: number) => Recurrence): Reader {
  const any = recurrenceOf(1);
  const bounds = extremes(any);
  const root = any.forC(1, chain.n);
  const divisor = sizeDivisor(chain);
  const top = (memory: number) => Math.min(memory, bounds.enough[root]! + chain.a[0]!);
  return {
    leastMemory: (chain.a[0]! + bounds.least[root]!) * (divisor > 0 ? 1 : 1 + ROUNDING),
    unitFor(memory, entries) {
      const first = layoutTable(any, bounds, Math.max(divisor, top(memory) / SLOTS), top(memory));
      const affordable = first.unit * Math.max(first.work / WORK, first.entries / entries);
      return divisor >= affordable ? divisor : fittingUnit(chain, Math.max(affordable, top(memory) / MOST_SLOTS));
    },
    upTo(memory, scale, unit) {
      const recurrence = recurrenceOf(scale);
      const table = fillTable(recurrence, layoutTable(recurrence, bounds, unit, top(memory)));
      const read = (view: Table, limit: number) => readSchedule(chain, recurrence, bounds, view, limit);
      if (unit === divisor) return (limit) => [read(table, Math.floor(limit / divisor) * divisor)];
      const views = (chain.n <= LONG_CHAIN ? READINGS : [1]).map((factor) => ({ ...table, unit: table.unit / factor }));
      return (limit) => views.map((view) => read(view, limit));
    },
  };
}

function memoised<T>(make: (key: number) => T): (key: number) => T {
  const made = new Map<number, T>();
  return (key) => {
    let value = made.get(key);
    if (value === undefined) made.set(key, (value = make(key)));
    return value;
  };
}

/** Computations between two uses of an item from which on it leaves memory: it is copied beside one and fetched beside another. */
const LEAST_GAP = 4;

export interface KeptOptions {
  /** Segments 1..last: their inputs and tapes; all by default. */
  readonly last?: number;
  /**
   * True if each copy runs beside the next computation and each fetch beside the one before its use, as by default, or transfers
   * stop the computation.
   */
  readonly isBeside?: boolean;
}

/** A schedule with everything outside that it keeps and does not use for a while (DeepSpeed: cpu_checkpointing). */
export function offloadKept(chain: Chain, schedule: Schedule, { last = chain.n, isBeside = true }: KeptOptions = {}): Schedule {
  if (!chain.offload) return schedule;
  const { leastBytes } = chain.offload;
  /** Steps of the computations, and the number of computations before each step. */
  const computations = [...schedule.keys()].filter((step) => isComputation(schedule[step]!));
  const rank = new Int32Array(schedule.length + 1);
  schedule.forEach((op, step) => (rank[step + 1] = rank[step]! + (isComputation(op) ? 1 : 0)));
  /** Steps that read A(i-1), and those that read tape i; by i. */
  const inputReads = Array.from({ length: chain.n + 2 }, (): number[] => []);
  const tapeReads = Array.from({ length: chain.n + 2 }, (): number[] => []);
  for (const step of computations) {
    const op = schedule[step] as Computation;
    inputReads[op.i]!.push(step);
    if (op.kind === "B") tapeReads[op.i]!.push(step);
  }
  const inserted = Array.from({ length: schedule.length + 1 }, (): Op[] => []);
  const beside = isBeside ? 1 : 0;
  for (const item of simulate(chain, schedule).items) {
    const isTape = item.kind === "tape";
    if ((!isTape && item.kind !== "boundary") || item.bytes === 0 || item.bytes < leastBytes) continue;
    const segment = isTape ? item.index : item.index + 1;
    if (segment > last) continue;
    const reads = (isTape ? tapeReads : inputReads)[segment]!.filter((step) => item.first <= step && step <= item.last);
    // The chain's input is there before the first computation.
    const uses = item.kind === "boundary" && item.index === 0 && item.first === 0 ? reads : [item.first, ...reads];
    let isCopied = false;
    for (let at = 1; at < uses.length; at++) {
      const [from, to] = [rank[uses[at - 1]!]!, rank[uses[at]!]!];
      if (to - from < LEAST_GAP) continue;
      const [copy, drop, fetch] = isTape
        ? [OT(segment), DT(segment), IT(segment)]
        : [OA(item.index), DA(item.index), IA(item.index)];
      if (!isCopied) inserted[computations[from]! + 1]!.push(copy);
      isCopied = true;
      inserted[computations[from + beside]! + 1]!.push(drop);
      inserted[computations[to - beside]!]!.push(fetch);
    }
  }
  return inserted.flatMap((ops, step) => [...ops, ...schedule.slice(step, step + 1)]);
}
