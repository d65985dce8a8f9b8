/**
 * The exact simulator: the only judge of what a schedule costs. Every schedule passes through it before it is used.
 *
 * Sizes add up in bytes, times in the chain's unit. A(0) and G(n) are live from the start and count. What can never be
 * read again is freed at once: with b the next segment to go backward, boundaries j >= b and tapes i > b.
 *
 * Copies and fetches (see ops.ts) take their time beside the computation, each direction in the order of the schedule. The
 * computation waits where a drop needs a copy's end, a step reads what is being fetched, or a copy would be too much in flight.
 */
import { type Chain, variant } from "./chain.ts";
import { formatOp, movedItem, type Op, type Schedule } from "./ops.ts";

/** Describes what occupies the stash, and `workspace`, which lasts one step. */
export type ItemKind = "boundary" | "tape" | "gradient" | "param-grad" | "workspace";

/** A stretch of memory over a range of steps. An item that was freed and made again is two. */
export interface Item {
  readonly kind: ItemKind;
  /** Boundary j (`boundary`, `gradient`), segment i (`tape`, `param-grad`), or the step (`workspace`). */
  readonly index: number;
  readonly bytes: number;
  /** First and last step during which it is live, both included; `first` is 0 for what is there from the start. */
  readonly first: number;
  readonly last: number;
  /** Last step that reads or writes it; between it and `last` the item waits for a drop. */
  readonly lastUse: number;
}

export interface Step {
  readonly op: Op;
  /** Live bytes before the step, while it runs (outputs and workspace included), and after it. */
  readonly before: number;
  readonly during: number;
  readonly after: number;
  /** Bytes of `during` that only this step needs, outputs excluded. */
  readonly workspace: number;
  /** Time at which the step begins. */
  readonly start: number;
}

/** A copy out or a fetch in, with the time that it takes. */
export interface TransferTime {
  readonly step: number;
  readonly direction: "out" | "in";
  readonly bytes: number;
  readonly start: number;
  readonly end: number;
}

export interface Simulation {
  readonly time: number;
  /** Part of `time` in which the computation waits for copies and fetches. */
  readonly waited: number;
  readonly transfers: readonly TransferTime[];
  /** Largest `during`. */
  readonly peak: number;
  readonly steps: readonly Step[];
  /** In the order in which they were made; no workspace (see `Step`). */
  readonly items: readonly Item[];
}

/** A schedule that cannot run. */
export class ScheduleError extends Error {
  override name = "ScheduleError";

  constructor(
    /** Index of the first invalid step; the number of steps when the schedule ends too early. */
    readonly index: number,
    readonly op: Op | undefined,
    readonly reason: string,
  ) {
    super(op ? `step ${index} (${formatOp(op)}): ${reason}` : `after ${index} steps: ${reason}`);
  }
}

type Live = { -readonly [K in keyof Item]: Item[K] };

/** Times of an item that is copied or was fetched: from when on it may be read, and until when it is being copied. */
interface Moving {
  ready: number;
  busy: number;
  /** There is a copy of it, finished or not, that reads its memory. */
  isCopied: boolean;
}

/** A boundary or tape outside. */
interface Outside {
  readonly bytes: number;
  readonly k: number;
  readonly ready: number;
}

/**
 * Runs a schedule in exact bytes. Throws `ScheduleError` at the first step that is invalid. In one piece: every operation of a schedule
 * changes the same few counters, and the planner calls this thousands of times.
 */
export function simulate(chain: Chain, schedule: Schedule): Simulation {
  const { n, a, g, frozen } = chain;
  const boundaries = Array.from<Live | undefined>({ length: n + 1 });
  const tapes = Array.from<Live | undefined>({ length: n + 1 });
  const tapeVariants = new Int32Array(n + 1);
  const gradients = Array.from<Live | undefined>({ length: n + 1 });
  const items: Live[] = [];
  const steps: Step[] = [];
  let live = 0;
  let peak = 0;
  let time = 0;
  /** Next segment to go backward. */
  let next = n;
  let step = 0;
  const moving = new Map<Live, Moving>();
  const outside = new Map<string, Outside>();
  const transfers: TransferTime[] = [];
  /** When each direction is free. */
  const streams = { out: 0, in: 0 };
  let waited = 0;

  const make = (kind: ItemKind, index: number, bytes: number): Live => {
    const item: Live = { kind, index, bytes, first: step, last: step, lastUse: step };
    items.push(item);
    live += bytes;
    return item;
  };
  const free = (table: (Live | undefined)[], index: number, last: number): void => {
    const item = table[index];
    if (!item) return;
    const moved = moving.get(item);
    if (moved) {
      wait(Math.max(moved.busy, moved.ready));
      // A copy reads the memory until the drop, and a fetch that nobody waited for writes it.
      if (moved.isCopied || item.lastUse === item.first) item.lastUse = last;
    }
    item.last = last;
    live -= item.bytes;
    table[index] = undefined;
  };
  const use = (item: Live): void => {
    item.lastUse = step;
    const moved = moving.get(item);
    if (moved) wait(moved.ready);
  };
  const wait = (until: number): void => {
    if (until <= time) return;
    waited += until - time;
    time = until;
  };
  const transfer = (direction: "out" | "in", bytes: number, from: number): number => {
    const start = Math.max(from, streams[direction]);
    const end = start + bytes / chain.offload![direction];
    streams[direction] = end;
    transfers.push({ step, direction, bytes, start, end });
    return end;
  };
  /** Waits until `bytes` more may be in flight. */
  const limitInFlight = (bytes: number): void => {
    const copies = transfers.filter(({ direction, end }) => direction === "out" && end > time);
    let pending = copies.reduce((sum, copy) => sum + copy.bytes, 0);
    for (const copy of copies) {
      if (pending + bytes <= chain.offload!.inFlight) return;
      wait(copy.end);
      pending -= copy.bytes;
    }
  };

  boundaries[0] = make("boundary", 0, a[0]!);
  gradients[n] = make("gradient", n, g[n]!);
  peak = live;

  for (; step < schedule.length; step++) {
    const op = schedule[step]!;
    const fail = (reason: string): never => {
      throw new ScheduleError(step, op, reason);
    };
    const before = live;
    let during = live;
    let workspace = 0;
    let start = time;
    const moved = movedItem(op);
    if (moved) {
      const { kind, index } = moved;
      const table = kind === "boundary" ? boundaries : tapes;
      const name = kind === "boundary" ? `boundary ${index}` : `the tape of segment ${index}`;
      const item = table[index];
      if (op.kind !== "DA" && op.kind !== "DT" && !chain.offload) fail("the chain has no offload");
      switch (op.kind) {
        case "DA":
        case "DT":
          if (!item) fail(`${name} is not live`);
          free(table, index, step - 1);
          break;
        case "OA":
        case "OT": {
          if (!item) return fail(`${name} is not live`);
          use(item);
          limitInFlight(item.bytes);
          const ready = transfer("out", item.bytes, time);
          moving.set(item, { ready: moving.get(item)?.ready ?? 0, busy: ready, isCopied: true });
          outside.set(name, { bytes: item.bytes, k: kind === "tape" ? tapeVariants[index]! : 0, ready });
          break;
        }
        case "IA":
        case "IT": {
          const copy = outside.get(name);
          if (!copy) return fail(`${name} has no copy outside`);
          if (item) fail(`${name} is live already`);
          if (index > next - (kind === "boundary" ? 1 : 0)) fail(`${name} is not read any more`);
          const made = (table[index] = make(kind, index, copy.bytes));
          if (kind === "tape") tapeVariants[index] = copy.k;
          during = live;
          moving.set(made, { ready: transfer("in", copy.bytes, Math.max(time, copy.ready)), busy: 0, isCopied: false });
          break;
        }
      }
    } else if ("i" in op) {
      const i = op.i;
      if (i < 1 || i > n) fail(`there is no segment ${i}; the chain has 1..${n}`);
      const input = boundaries[i - 1];
      switch (op.kind) {
        case "FN":
        case "FC":
        case "FA": {
          if (!input) return fail(`its input, boundary ${i - 1}, is not live`);
          if (boundaries[i]) fail(`its output, boundary ${i}, is live already`);
          use(input);
          start = time;
          const k = op.kind === "FA" ? op.k : 0;
          const tape = variant(chain, i, k);
          if (!tape) return fail(`segment ${i} has no tape variant ${k}`);
          boundaries[i] = make("boundary", i, a[i]!);
          if (op.kind === "FA") {
            if (i <= frozen) fail(`segment ${i} is in the frozen prefix and needs no tape`);
            if (i > next) fail(`segment ${i} has gone backward already`);
            if (tapes[i]) fail(`the tape of segment ${i} is live already`);
            tapes[i] = make("tape", i, tape.r);
            tapeVariants[i] = k;
          }
          time += tape.uf;
          workspace = op.kind === "FA" ? tape.of : chain.of[i - 1]!;
          during = live + workspace;
          if (op.kind === "FN") free(boundaries, i - 1, step);
          break;
        }
        case "B":
        case "BR": {
          if (i !== next || i <= frozen)
            fail(next > frozen ? `out of order, the next backward is ${next}` : "every backward has run");
          if (!input) return fail(`its input, boundary ${i - 1}, is not live`);
          const gradient = gradients[i]!;
          const tape = tapes[i];
          const replay = chain.replay[i - 1]!;
          const cost = op.kind === "BR" ? replay : tape ? variant(chain, i, tapeVariants[i]!)! : null;
          if (!cost) return fail(op.kind === "BR" ? `segment ${i} has no fused replay` : `the tape of segment ${i} is not live`);
          use(input);
          use(gradient);
          if (tape && op.kind === "B") use(tape);
          start = time;
          gradients[i - 1] = make("gradient", i - 1, g[i - 1]!);
          make("param-grad", i, chain.w[i - 1]!);
          time += cost.ub;
          workspace = cost.ob;
          during = live + workspace;
          free(gradients, i, step);
          free(tapes, i, step);
          next = i - 1;
          break;
        }
      }
      // The boundary that no later backward reads; those behind it are free already.
      if (op.kind === "B" || op.kind === "BR") free(boundaries, next, step);
      else if (i >= next) free(boundaries, i, step);
    }
    peak = Math.max(peak, during);
    steps.push({ op, before, during, after: live, workspace, start });
  }
  if (next > frozen) {
    throw new ScheduleError(
      schedule.length,
      undefined,
      `the schedule ends before backward ${next} (it must reach ${frozen + 1})`,
    );
  }
  const end = Math.max(0, schedule.length - 1);
  for (const table of [boundaries, tapes, gradients]) for (let index = 0; index <= n; index++) free(table, index, end);
  for (const item of items) if (item.kind === "param-grad") item.last = end;
  return { time, waited, transfers, peak, steps, items };
}

/** Items that are live during a step. */
export function liveAt(simulation: Simulation, step: number): Item[] {
  return simulation.items.filter((item) => item.first <= step && step <= item.last);
}
