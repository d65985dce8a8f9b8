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
import { type Chain, type Link, variantsOf } from "./chain.ts";
import { canonicalIntervals } from "./intervals.ts";
import { type Computation, DA, DT, formatSchedule, IA, isComputation, IT, OA, type Op, OT, type Schedule } from "./ops.ts";
import { frontier, makePlanner, type Planned, type Planner, type PlannerOptions } from "./optimal.ts";
import { overlapTransfers } from "./overlap.ts";
import { readSchedule } from "./read.ts";
import { makeRecurrence, NONE, type Recurrence } from "./recurrence.ts";
import { simulate } from "./simulate.ts";
import { strategySchedule } from "./strategies.ts";
import { fittingUnit, sizeDivisor } from "./slots.ts";
import { extremes, fillTable, layoutTable } from "./table.ts";

/** The planner of a chain: with offload where the chain has a link. */
export function plannerOf(chain: Chain, options?: PlannerOptions): Planner {
  const plain = makePlanner(chain, options);
  if (!chain.offload) return plain;
  // The tables of all choices together have no more entries than one of the planner's.
  const entries = Math.min(MOST_ENTRIES, (options?.entries ?? Infinity) / CHOICES.length);
  return withOffload(chain, chain.offload, plain, entries);
}

/** Inner steps and entries (of 8 bytes) of a table at most, and slots of the layout by which they are foreseen. */
const WORK = 1e7;
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
/** Long chains, whose tables take longer, have the first of them. */
const LONG_CHAIN = 64;
const LONG_CHAIN_CHOICES = 5;
/** How far a fetch moves ahead, in multiples of its own duration. */
const LEADS = [0, 1, 2, 4, Infinity];
/** Time as a multiple of the least without a limit that is not worth a search. */
const GOOD = 1.002;
/** Share of a limit down to which its search is used again. */
const NEAR = 0.9;
/** Limits at which a curve looks for schedules with offload. */
const CURVE_POINTS = 10;

function withOffload(chain: Chain, link: Link, plain: Planner, entries: number): Planner {
  const base = makeRecurrence(chain, canonicalIntervals(chain));
  const boundary = Math.max(...chain.a);
  const tape = Math.max(...chain.r);
  const reserves = [0, boundary, 2 * boundary, tape + boundary, 2 * (tape + boundary)];
  const choices = chain.n <= LONG_CHAIN ? CHOICES : CHOICES.slice(0, LONG_CHAIN_CHOICES);
  // Where every tape may leave, the least memory is the least of all.
  const leastMemory = Math.min(plain.leastMemory, readerOf(chain, pagedRecurrence(chain, link, base, 1, 1)).leastMemory);
  const enough = plain.fastest.simulation.peak;

  /** Schedules whose transfers stop the computation, for the largest of some limits and below. */
  const search = (limits: readonly number[]): Candidate[] => {
    const found = new Map<string, Candidate>();
    for (const { scale, stride } of choices) {
      const reader = readerOf(chain, pagedRecurrence(chain, link, base, scale, stride));
      const fitting = limits.filter((memory) => memory >= reader.leastMemory);
      if (fitting.length === 0) continue;
      const read = reader.upTo(Math.max(...fitting), entries);
      for (const memory of fitting) {
        const schedule = read(memory);
        const key = formatSchedule(schedule).join();
        if (!found.has(key) && schedule.some(isFetch)) found.set(key, { schedule, peak: simulate(chain, schedule).peak });
      }
    }
    return [...found.values()];
  };
  const best = (candidates: readonly Candidate[], memory: number, from: Planned | null): Planned | null => {
    let best = from;
    for (const { schedule, peak } of candidates) {
      if (peak > memory) continue;
      for (const lead of LEADS) {
        const beside = overlapTransfers(chain, link, schedule, memory, lead);
        const simulation = simulate(chain, beside);
        if (!best || simulation.time < best.simulation.time) best = { schedule: beside, simulation };
      }
    }
    return best;
  };
  /** Limits a little below one that was asked for are answered by the same search. */
  let last: { readonly memory: number; readonly candidates: readonly Candidate[] } | undefined;

  return {
    chain,
    leastMemory,
    fastest: plain.fastest,
    plan(memory) {
      if (!(memory >= leastMemory)) return null;
      if (memory >= enough) return plain.fastest;
      const simple = best(simpleCandidates(chain, memory), memory, plain.plan(memory));
      if (simple && simple.simulation.time <= GOOD * plain.fastest.simulation.time) return simple;
      const isNear = last !== undefined && memory <= last.memory && memory >= NEAR * last.memory;
      const known = isNear ? best(last!.candidates, memory, simple) : null;
      if (known) return known;
      last = { memory, candidates: search(reserves.map((reserve) => memory - reserve)) };
      return best(last.candidates, memory, simple);
    },
    curve() {
      const limits = Array.from({ length: CURVE_POINTS }, (_, i) => leastMemory * (enough / leastMemory) ** (i / CURVE_POINTS));
      const candidates = search(limits.toReversed());
      const points = limits.flatMap((memory) => best([...candidates, ...simpleCandidates(chain, memory)], memory, null) ?? []);
      return frontier([...plain.curve(), ...points]);
    },
  };
}

/** A schedule whose transfers stop the computation, and its peak. */
interface Candidate {
  readonly schedule: Schedule;
  readonly peak: number;
}

/**
 * Everything computed once: the tapes of one variant, and those of the first segments, as few as that takes, outside. These are good
 * where a chain is so deep that a slot of a table is larger than a boundary.
 */
function simpleCandidates(chain: Chain, memory: number): Candidate[] {
  const variants = Math.max(...chain.variants.map((list) => list.length));
  return Array.from({ length: variants + 1 }, (_, variant) => {
    const kept = strategySchedule(chain, { name: "off", variant });
    const outside = (count: number): Candidate => {
      const schedule = offloadKept(chain, kept, { last: chain.frozen + count, isBeside: false });
      return { schedule, peak: simulate(chain, schedule).peak };
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

function readerOf(chain: Chain, recurrence: Recurrence) {
  const bounds = extremes(recurrence);
  const root = recurrence.forC(1, chain.n);
  const leastMemory = chain.a[0]! + bounds.least[root]!;
  const divisor = sizeDivisor(chain);
  return {
    leastMemory,
    /** Reads the schedules of limits from the least memory to `memory` bytes out of one table. */
    upTo(memory: number, entries: number): (limit: number) => Schedule {
      const top = Math.min(memory, bounds.enough[root]! + chain.a[0]!);
      const layout = (unit: number) => layoutTable(recurrence, bounds, unit, top);
      const first = layout(Math.max(divisor, top / SLOTS));
      const affordable = first.unit * Math.max(first.work / WORK, first.entries / entries);
      const isExact = divisor >= affordable;
      const table = fillTable(recurrence, layout(isExact ? divisor : fittingUnit(chain, affordable)));
      return (limit) => readSchedule(chain, recurrence, bounds, table, isExact ? Math.floor(limit / divisor) * divisor : limit);
    },
  };
}

/**
 * The recurrence with the choice to have inputs and tapes outside, where a transfer costs `scale` times what it takes. Of
 * the tapes in an interval s..t only those of t, t - stride, t - 2 stride .. may leave.
 */
function pagedRecurrence(chain: Chain, link: Link, base: Recurrence, scale: number, stride: number): Recurrence {
  const { a } = chain;
  const tapes = Array.from({ length: chain.n + 1 }, (_, i) => (i === 0 ? [] : variantsOf(chain, i).map(({ r }) => r)));
  const row = (of: number, copied: boolean) => (of === NONE ? NONE : 2 * of + (copied ? 1 : 0));
  const leaves = (bytes: number) => bytes > 0 && bytes >= link.leastBytes;
  const timeOut = scale / link.out;
  const timeIn = scale / link.in;
  return {
    rows: 2 * base.rows,
    order: Int32Array.from([...base.order].flatMap((of) => [2 * of, 2 * of + 1])),
    forC: (s, t) => row(base.forC(s, t), false),
    forD: (s, q, k) => row(base.forD(s, q, k), false),
    subproblem: (of) => {
      const [s, t, k] = base.subproblem(of >> 1);
      return [s, t, k, (of & 1) === 1];
    },
    options(s, t, k, copied, visit) {
      const input = a[s - 1]!;
      const inputLeaves = leaves(input);
      const inputTime = input * (timeIn + (copied ? 0 : timeOut));
      base.options(s, t, k, false, (option) => {
        const { choice, time, deep, deepTaken, rest } = option;
        const taped = choice === "tape" ? s : choice === "retape" ? option.q : NONE;
        const tape = taped === NONE ? 0 : tapes[taped]![option.k]!;
        const inputWays = inputLeaves && deep !== NONE && (choice === "tape" || rest !== NONE) ? 1 : 0;
        const tapeWays = leaves(tape) && stride > 0 && (t - taped) % stride === 0 ? 1 : 0;
        option.deep = row(deep, false);
        // The option is the base's own, which it overwrites for the next one: no copies in the innermost loop.
        for (let input1 = 0; input1 <= inputWays; input1++) {
          for (let tape1 = 0; tape1 <= tapeWays; tape1++) {
            option.pagesInput = input1 === 1;
            option.pagesTape = tape1 === 1;
            option.rest = row(rest, copied || option.pagesInput);
            option.time = time + input1 * inputTime + tape1 * tape * (timeIn + timeOut);
            option.deepTaken = deepTaken - input1 * input - tape1 * tape;
            visit(option);
          }
        }
      });
    },
  };
}

/** Computations between two uses of an item from which on it leaves memory: it is copied beside one and fetched beside another. */
const LEAST_GAP = 4;

export interface KeptOptions {
  /** Segments 1..last: their inputs and tapes; all by default. */
  readonly last?: number;
  /**
   * Whether each copy runs beside the next computation and each fetch beside the one before its use, as by default, or transfers
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
