/**
 * The exact simulator: the only judge of what a schedule costs. Every schedule passes through it before it is used.
 *
 * Sizes add up in bytes, times in the chain's unit. A(0) and G(n) are live from the start and count. What can never be
 * read again is freed at once: with b the next segment to go backward, boundaries j >= b and tapes i > b.
 */
import { type Chain, variant } from "./chain.ts";
import { formatOp, type Op, type Schedule } from "./ops.ts";

/** What occupies the stash, and `workspace`, which lasts one step. */
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

export interface Simulation {
  readonly time: number;
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

/** Runs a schedule in exact bytes. Throws `ScheduleError` at the first step that is invalid. */
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

  const make = (kind: ItemKind, index: number, bytes: number): Live => {
    const item: Live = { kind, index, bytes, first: step, last: step, lastUse: step };
    items.push(item);
    live += bytes;
    return item;
  };
  const free = (table: (Live | undefined)[], index: number, last: number): void => {
    const item = table[index];
    if (!item) return;
    item.last = last;
    live -= item.bytes;
    table[index] = undefined;
  };
  const use = (item: Live): void => {
    item.lastUse = step;
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
    const start = time;
    if (op.kind === "DA") {
      if (!boundaries[op.j]) fail(`boundary ${op.j} is not live`);
      free(boundaries, op.j, step - 1);
    } else {
      const i = op.i;
      if (i < 1 || i > n) fail(`there is no segment ${i}; the chain has 1..${n}`);
      const input = boundaries[i - 1];
      switch (op.kind) {
        case "DT":
          if (!tapes[i]) fail(`the tape of segment ${i} is not live`);
          free(tapes, i, step - 1);
          break;
        case "FN":
        case "FC":
        case "FA": {
          if (!input) return fail(`its input, boundary ${i - 1}, is not live`);
          if (boundaries[i]) fail(`its output, boundary ${i}, is live already`);
          use(input);
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
      else if (op.kind !== "DT" && i >= next) free(boundaries, i, step);
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
  for (const table of [boundaries, gradients]) for (const item of table) if (item) item.last = end;
  for (const item of items) if (item.kind === "param-grad") item.last = end;
  return { time, peak, steps, items };
}

/** Items that are live during a step. */
export function liveAt(simulation: Simulation, step: number): Item[] {
  return simulation.items.filter((item) => item.first <= step && step <= item.last);
}
