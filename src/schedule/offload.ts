/**
 * Offload as another choice of the planner. A subproblem gets one more bit, "its input has a copy outside", and two more
 * ways to begin: its input may be paged out while the deeper subproblem runs, and so may the tape of a tape or retape.
 *
 * That is exact for transfers that stop the computation. For transfers beside the computation there is no such recurrence; the
 * planner runs with the cost of transfers scaled down and with restrictions on the tapes that may be paged (equal layers cannot be
 * rationed by a price alone) and with some memory kept back for fetches under way, moves the fetches ahead, and keeps the schedule that the three-stream simulation finds fastest.
 */
import type { Chain } from "./chain.ts";
import { canonicalIntervals } from "./intervals.ts";
import { B, BR, DA, DT, FA, FC, FN } from "./ops.ts";
import { type Bandwidth, type Fetch, type PagedOp, type PagedSchedule, simulatePaged, simulateStreams } from "./paging.ts";
import { makeRecurrence, NONE, type Option, type Recurrence } from "./recurrence.ts";
import { fittingUnit, sizeDivisor } from "./slots.ts";
import { type Extremes, extremes, fillTable, layoutTable, type Table, timeAt } from "./table.ts";

export interface OffloadOptions {
  /** Smaller items stay in memory. */
  readonly leastBytes?: number;
  /** Bytes of copies under way at any time. */
  readonly inFlight?: number;
}

export interface OffloadPlan {
  readonly schedule: PagedSchedule;
  readonly time: number;
  readonly peak: number;
}

interface PagedOption extends Option {
  pagesInput: boolean;
  pagesTape: boolean;
}

interface PagedRecurrence extends Recurrence {
  options(s: number, t: number, code: number, visit: (option: PagedOption) => void): void;
}

/** Restricts and prices paging in a recurrence. */
interface Prices {
  readonly out: (bytes: number) => number;
  readonly in: (bytes: number) => number;
  readonly tape: (i: number) => boolean;
  readonly leastBytes: number;
}

/** Subproblems of a paged recurrence carry k and the bit of the copy in one number. */
const codeOf = (k: number, copied: boolean) => 2 * (k + 1) + (copied ? 1 : 0);
const kOf = (code: number) => (code >> 1) - 1;
const copiedOf = (code: number) => (code & 1) === 1;

/** Largest number of inner steps of a table, and slots where sizes have to be rounded. */
const WORK = 1e7;
const SLOTS = 500;

/** The fastest schedule with transfers that stop the computation, within `memory` bytes; null when none fits. */
export function planSynchronousOffload(
  chain: Chain,
  memory: number,
  bandwidth: Bandwidth,
  options: OffloadOptions = {},
): OffloadPlan | null {
  const [schedule] = pagedSchedules(chain, makeRecurrence(chain, canonicalIntervals(chain)), [memory], {
    out: (bytes) => bytes / bandwidth.out,
    in: (bytes) => bytes / bandwidth.in,
    tape: () => true,
    leastBytes: options.leastBytes ?? 0,
  });
  if (!schedule) return null;
  const { time, peak } = simulatePaged(chain, schedule, bandwidth);
  return { schedule, time, peak };
}

/** Factors of the cost of a transfer, and strides of the tapes that may be paged (0: none). */
const COST_SCALES = [1, 0.1, 0.02];
const TAPE_STRIDES = [0, 1, 2, 3, 4, 6];
/** How far a fetch moves ahead, in multiples of its own duration. */
const LEADS = [0, 1, 2, 4, Infinity];

/** The fastest schedule found with transfers beside the computation, within `memory` bytes; null when none fits. */
export function planOffload(
  chain: Chain,
  memory: number,
  bandwidth: Bandwidth,
  options: OffloadOptions = {},
): OffloadPlan | null {
  let best: OffloadPlan | null = null;
  const seen = new Set<string>();
  const base = makeRecurrence(chain, canonicalIntervals(chain));
  const boundary = Math.max(...chain.a);
  const tape = Math.max(...chain.r);
  const limits = [0, boundary, 2 * boundary, tape + boundary, 2 * (tape + boundary)].map((reserve) => memory - reserve);
  for (const scale of COST_SCALES) {
    for (const stride of TAPE_STRIDES) {
      const plans = pagedSchedules(chain, base, limits, {
        out: (bytes) => (scale * bytes) / bandwidth.out,
        in: (bytes) => (scale * bytes) / bandwidth.in,
        tape: (i) => stride > 0 && i % stride === 0,
        leastBytes: options.leastBytes ?? 0,
      });
      for (const plain of plans) {
        const key = JSON.stringify(plain);
        if (seen.has(key)) continue;
        seen.add(key);
        const fetches = plain.some(({ kind }) => kind === "IA" || kind === "IT");
        for (const lead of fetches ? LEADS : [0]) {
          const schedule = hoistFetches(chain, plain, bandwidth, memory, lead);
          const simulation = simulateStreams(chain, schedule, bandwidth, memory, options.inFlight);
          if (simulation && (!best || simulation.time < best.time)) best = { schedule, ...simulation };
        }
      }
    }
  }
  return best;
}

/** Moves each fetch ahead over computation of up to `lead` times its duration, as far as memory and its copy allow. */
function hoistFetches(chain: Chain, schedule: PagedSchedule, bandwidth: Bandwidth, memory: number, lead: number): PagedSchedule {
  if (lead === 0) return schedule;
  const ops = [...schedule];
  const during = [...simulatePaged(chain, ops, bandwidth).during];
  const durations = new Map<PagedOp, number>();
  for (const op of ops) {
    if (op.kind === "FA" || op.kind === "FC" || op.kind === "FN") durations.set(op, chain.uf[op.i - 1]!);
    else if (op.kind === "B" || op.kind === "BR") durations.set(op, chain.ub[op.i - 1]!);
  }
  const held = new Map<number, number>();
  for (let at = 0; at < ops.length; at++) {
    const op = ops[at]!;
    if (op.kind === "FA") held.set(op.i, op.k === 0 ? chain.r[op.i - 1]! : chain.variants[op.i - 1]![op.k - 1]!.r);
    if (op.kind !== "IA" && op.kind !== "IT") continue;
    const bytes = op.kind === "IA" ? chain.a[op.j]! : held.get(op.i)!;
    let rest = (lead * bytes) / bandwidth.in;
    let to = at;
    while (to > 0 && rest > 0 && during[to - 1]! + bytes <= memory && !touches(ops[to - 1]!, op))
      rest -= durations.get(ops[--to]!) ?? 0;
    for (let i = at; i > to; i--) {
      ops[i] = ops[i - 1]!;
      during[i] = during[i - 1]! + bytes;
    }
    ops[to] = op;
    if (to < at) during[to] = during[to + 1]!;
  }
  return ops;
}

/** Whether a step makes, copies or drops the item that a fetch brings. */
function touches(step: PagedOp, fetch: Fetch): boolean {
  if (fetch.kind === "IA") return (step.kind === "DA" || step.kind === "OA") && step.j === fetch.j;
  return (step.kind === "DT" || step.kind === "OT") && step.i === fetch.i;
}

/** The schedules of the paged recurrence for those limits within which one fits; the first limit is the largest. */
function pagedSchedules(chain: Chain, base: Recurrence, memories: readonly number[], prices: Prices): PagedOp[][] {
  const recurrence = pagedRecurrence(chain, base, prices);
  const bounds = extremes(recurrence);
  const root = recurrence.forC(1, chain.n);
  const least = chain.a[0]! + bounds.least[root]!;
  const fitting = memories.filter((memory) => memory >= least);
  if (fitting.length === 0) return [];
  const divisor = sizeDivisor(chain);
  const top = Math.min(fitting[0]!, bounds.enough[root]! + chain.a[0]!);
  const layout = (unit: number) => layoutTable(recurrence, bounds, unit, top);
  const first = layout(Math.max(divisor, top / SLOTS));
  const affordable = (first.unit * first.work) / WORK;
  const exact = divisor >= affordable;
  const table = fillTable(recurrence, layout(exact ? divisor : fittingUnit(chain, affordable)));
  return fitting.map((memory) =>
    readPaged(chain, recurrence, bounds, table, exact ? Math.floor(memory / divisor) * divisor : memory),
  );
}

function pagedRecurrence(chain: Chain, base: Recurrence, prices: Prices): PagedRecurrence {
  const { a } = chain;
  const row = (of: number, copied: boolean) => (of === NONE ? NONE : 2 * of + (copied ? 1 : 0));
  const paged: PagedOption = {
    choice: "single",
    q: 0,
    k: 0,
    time: 0,
    threshold: 0,
    deep: NONE,
    deepTaken: 0,
    rest: NONE,
    restTaken: 0,
    pagesInput: false,
    pagesTape: false,
  };
  return {
    rows: 2 * base.rows,
    order: Int32Array.from([...base.order].flatMap((of) => [2 * of, 2 * of + 1])),
    forC: (s, t) => row(base.forC(s, t), false),
    forD: (s, q, k) => row(base.forD(s, q, k), false),
    subproblem: (of) => {
      const [s, t, k] = base.subproblem(of >> 1);
      return [s, t, codeOf(k, (of & 1) === 1)];
    },
    options(s, t, code, visit) {
      const copied = copiedOf(code);
      const input = a[s - 1]!;
      const inputCost = prices.in(input) + (copied ? 0 : prices.out(input));
      base.options(s, t, kOf(code), (option) => {
        const inputPages =
          option.deep !== NONE && input > 0 && input >= prices.leastBytes && (option.choice === "tape" || option.rest !== NONE);
        const taped = option.choice === "tape" ? s : option.choice === "retape" ? option.q : NONE;
        const tape = taped === NONE ? 0 : option.k === 0 ? chain.r[taped - 1]! : chain.variants[taped - 1]![option.k - 1]!.r;
        const tapePages = tape > 0 && tape >= prices.leastBytes && prices.tape(taped);
        for (let way = 0; way < 4; way++) {
          paged.pagesInput = (way & 1) === 1;
          paged.pagesTape = (way & 2) === 2;
          if ((paged.pagesInput && !inputPages) || (paged.pagesTape && !tapePages)) continue;
          Object.assign(paged, option);
          paged.deep = row(option.deep, false);
          paged.rest = row(option.rest, copied || paged.pagesInput);
          if (paged.pagesInput) {
            paged.time += inputCost;
            paged.deepTaken -= input;
          }
          if (paged.pagesTape) {
            paged.time += prices.out(tape) + prices.in(tape);
            paged.deepTaken -= tape;
          }
          visit(paged);
        }
      });
    },
  };
}

interface Task {
  readonly s: number;
  readonly t: number;
  readonly code: number;
  readonly memory: number;
}

/** Writes a schedule out, as `readSchedule` of the planner without offload does. */
function readPaged(chain: Chain, recurrence: PagedRecurrence, bounds: Extremes, table: Table, memory: number): PagedOp[] {
  const ops: PagedOp[] = [];
  const stack: (Task | PagedOp)[] = [{ s: 1, t: chain.n, code: codeOf(NONE, false), memory: memory - chain.a[0]! }];
  for (let task = stack.pop(); task; task = stack.pop()) {
    if ("kind" in task) {
      ops.push(task);
      continue;
    }
    const { s, t, code } = task;
    const option = bestPaged(recurrence, bounds, table, task);
    const { q, pagesInput, pagesTape } = option;
    const copied = copiedOf(code);
    const deep = (first: number) =>
      stack.push({ s: first, t, code: codeOf(kOf(code), false), memory: task.memory - option.deepTaken });
    const rest = (last: number, k: number) =>
      option.rest !== NONE &&
      stack.push({ s, t: last, code: codeOf(k, copied || pagesInput), memory: task.memory - option.restTaken });
    const inputOut = () => {
      if (!pagesInput) return;
      if (!copied) ops.push({ kind: "OA", j: s - 1 });
      ops.push(DA(s - 1));
    };
    const inputIn = () => pagesInput && stack.push({ kind: "IA", j: s - 1 });
    const tapeOut = (i: number) => pagesTape && ops.push({ kind: "OT", i }, DT(i));
    const tapeIn = (i: number) => pagesTape && stack.push({ kind: "IT", i });
    const sweep = () => {
      ops.push(FC(s));
      inputOut();
      for (let i = s + 1; i < q; i++) ops.push(FN(i));
    };
    switch (option.choice) {
      case "single":
        if (kOf(code) === NONE) ops.push(FA(t, option.k));
        ops.push(B(t));
        break;
      case "replay":
        ops.push(BR(t));
        break;
      case "release":
        ops.push(FN(s));
        deep(s + 1);
        break;
      case "tape":
        ops.push(FA(s, option.k));
        inputOut();
        tapeOut(s);
        stack.push(B(s));
        inputIn();
        tapeIn(s);
        deep(s + 1);
        break;
      case "checkpoint":
        sweep();
        rest(q - 1, NONE);
        inputIn();
        deep(q);
        break;
      case "retape":
        sweep();
        ops.push(FA(q, option.k), DA(q - 1));
        tapeOut(q);
        rest(q, option.k);
        inputIn();
        tapeIn(q);
        deep(q + 1);
        break;
    }
  }
  return ops;
}

function bestPaged(recurrence: PagedRecurrence, bounds: Extremes, table: Table, { s, t, code, memory }: Task): PagedOption {
  let best: PagedOption | undefined;
  let least = Infinity;
  recurrence.options(s, t, code, (option) => {
    const { deep, rest } = option;
    if (memory < option.threshold) return;
    let time = option.time;
    if (deep !== NONE) {
      if (memory - option.deepTaken < bounds.least[deep]!) return;
      time += timeAt(table, deep, memory - option.deepTaken);
    }
    if (rest !== NONE) {
      if (memory - option.restTaken < bounds.least[rest]!) return;
      time += timeAt(table, rest, memory - option.restTaken);
    }
    if (time < least || !best) {
      least = time;
      best = { ...option };
    }
  });
  if (!best) throw new Error(`offload planner: no choice for segments ${s}..${t} with ${memory} bytes`);
  return best;
}
