/**
 * Schedules with offload: boundaries and tapes may have a copy outside (host memory or a file), be dropped, and be
 * fetched again. Two simulators: one stream, where transfers stop the computation, and three streams (compute, out, in).
 */
import { type Chain, variant } from "./chain.ts";
import { formatOp, type Op } from "./ops.ts";

/** `OA j`, `OT i`: copy a boundary or a tape outside. `IA j`, `IT i`: fetch it. A copy stays for the rest of the step. */
export type PagedOp =
  | Op
  | { readonly kind: "OA"; readonly j: number }
  | { readonly kind: "IA"; readonly j: number }
  | { readonly kind: "OT"; readonly i: number }
  | { readonly kind: "IT"; readonly i: number };

export type Fetch = Extract<PagedOp, { kind: "IA" | "IT" }>;

export type PagedSchedule = readonly PagedOp[];

/** Transfer speeds in bytes per unit of the chain's time. */
export interface Bandwidth {
  readonly out: number;
  readonly in: number;
}

export function formatPagedOp(op: PagedOp): string {
  switch (op.kind) {
    case "OA":
    case "IA":
      return `${op.kind} ${op.j}`;
    case "OT":
    case "IT":
      return `${op.kind} ${op.i}`;
    default:
      return formatOp(op);
  }
}

/** A piece of the stash while it is in memory. */
interface Resident {
  readonly bytes: number;
  /** Tape variant. */
  readonly k: number;
  /** Time from which it may be read, and until which it is read. */
  ready: number;
  busy: number;
}

interface Copy {
  readonly bytes: number;
  readonly k: number;
  ready: number;
}

/** What one step does, in a form that both simulators can time. */
interface Action {
  readonly op: PagedOp;
  readonly stream: "compute" | "out" | "in" | "none";
  readonly duration: number;
  readonly reads: readonly (Resident | Copy)[];
  /** Made by the step, in memory from its start. */
  readonly makes: readonly Resident[];
  readonly copy: Copy | null;
  readonly workspace: number;
  /** Free when the step and all other readers are done. */
  readonly frees: readonly Resident[];
}

/** Checks a schedule and lists its actions. Throws at the first step that is invalid. */
function actions(chain: Chain, schedule: PagedSchedule, bandwidth: Bandwidth): { initial: Resident[]; list: Action[] } {
  const { n, a, g, frozen } = chain;
  const fresh = (bytes: number, k = 0): Resident => ({ bytes, k, ready: 0, busy: 0 });
  const boundaries = new Map<number, Resident>([[0, fresh(a[0]!)]]);
  const tapes = new Map<number, Resident>();
  const copiesOfBoundaries = new Map<number, Copy>();
  const copiesOfTapes = new Map<number, Copy>();
  let gradient = fresh(g[n]!);
  const initial = [boundaries.get(0)!, gradient];
  let next = n;

  const list = schedule.map((op, index): Action => {
    const need = <T>(value: T | undefined | null, reason: string): T => {
      if (value === undefined || value === null) throw new Error(`step ${index} (${formatPagedOp(op)}): ${reason}`);
      return value;
    };
    const take = <T>(map: Map<number, T>, key: number): T[] => {
      const value = map.get(key);
      map.delete(key);
      return value === undefined ? [] : [value];
    };
    const idle = { op, stream: "none", duration: 0, reads: [], makes: [], copy: null, workspace: 0, frees: [] } as const;
    switch (op.kind) {
      case "DA":
        need(boundaries.get(op.j), "the boundary is not live");
        return { ...idle, frees: take(boundaries, op.j) };
      case "DT":
        need(tapes.get(op.i), "the tape is not live");
        return { ...idle, frees: take(tapes, op.i) };
      case "OA":
      case "OT": {
        const [map, copies, key] = op.kind === "OA" ? [boundaries, copiesOfBoundaries, op.j] : [tapes, copiesOfTapes, op.i];
        const { bytes, k } = need(map.get(key), "there is nothing to copy");
        const copy: Copy = { bytes, k, ready: 0 };
        copies.set(key, copy);
        return { ...idle, stream: "out", duration: bytes / bandwidth.out, reads: [map.get(key)!], copy };
      }
      case "IA":
      case "IT": {
        const [map, copies, key] = op.kind === "IA" ? [boundaries, copiesOfBoundaries, op.j] : [tapes, copiesOfTapes, op.i];
        const copy = need(copies.get(key), "there is no copy outside");
        need(map.has(key) ? null : copy, "it is live already");
        const made = fresh(copy.bytes, copy.k);
        map.set(key, made);
        return { ...idle, stream: "in", duration: copy.bytes / bandwidth.in, reads: [copy], makes: [made] };
      }
      case "FN":
      case "FC":
      case "FA": {
        const { i } = op;
        const input = need(boundaries.get(i - 1), `boundary ${i - 1} is not live`);
        need(boundaries.has(i) ? null : input, `boundary ${i} is live already`);
        const k = op.kind === "FA" ? op.k : 0;
        const tape = need(variant(chain, i, k), `there is no tape variant ${k}`);
        const output = fresh(a[i]!);
        const makes = [output];
        if (op.kind === "FA") {
          need(tapes.has(i) || i <= frozen || i > next ? null : tape, "there is no use for this tape");
          tapes.set(i, fresh(tape.r, k));
          makes.push(tapes.get(i)!);
        }
        const frees: Resident[] = [];
        if (op.kind === "FN") frees.push(...take(boundaries, i - 1));
        if (i < next) boundaries.set(i, output);
        else frees.push(output);
        return {
          ...idle,
          stream: "compute",
          duration: tape.uf,
          reads: [input],
          makes,
          workspace: op.kind === "FA" ? tape.of : chain.of[i - 1]!,
          frees,
        };
      }
      case "B":
      case "BR": {
        const { i } = op;
        need(i === next && i > frozen ? op : null, `out of order, the next backward is ${next}`);
        const input = need(boundaries.get(i - 1), `boundary ${i - 1} is not live`);
        const tape = tapes.get(i);
        const cost =
          op.kind === "BR"
            ? need(chain.replay[i - 1], "there is no fused replay")
            : variant(chain, i, need(tape, "the tape is not live").k)!;
        const incoming = gradient;
        gradient = fresh(g[i - 1]!);
        next = i - 1;
        return {
          ...idle,
          stream: "compute",
          duration: cost.ub,
          reads: [input, incoming, ...(tape ? [tape] : [])],
          makes: [gradient, fresh(chain.w[i - 1]!)],
          workspace: cost.ob,
          frees: [incoming, ...take(boundaries, i - 1), ...take(tapes, i)],
        };
      }
    }
  });
  if (next > frozen) throw new Error(`after ${schedule.length} steps: the schedule ends before backward ${next}`);
  return { initial, list };
}

export interface PagedSimulation {
  readonly time: number;
  readonly peak: number;
  /** Live bytes while each step runs. */
  readonly during: readonly number[];
}

/** One stream: each transfer stops the computation. Throws when a step is invalid. */
export function simulatePaged(chain: Chain, schedule: PagedSchedule, bandwidth: Bandwidth): PagedSimulation {
  const { initial, list } = actions(chain, schedule, bandwidth);
  let live = total(initial);
  let peak = live;
  let time = 0;
  const during = list.map((action) => {
    if (action.stream === "none") live -= total(action.frees);
    const bytes = live + total(action.makes) + action.workspace;
    peak = Math.max(peak, bytes);
    time += action.duration;
    live += total(action.makes) - (action.stream === "none" ? 0 : total(action.frees));
    return bytes;
  });
  return { time, peak, during };
}

/**
 * Three streams: computation, copies out and fetches run at the same time, each stream in the order of the schedule. A
 * step starts when its stream is free, what it reads is there, every earlier step of the schedule has got its memory, and its own memory is free; a
 * fetch gets its memory when the schedule reaches it. Memory of a dropped item is free when its copy is done. `inFlight` bounds the bytes of unfinished copies. Returns null when a step waits for memory
 * that nobody will free.
 */
export function simulateStreams(
  chain: Chain,
  schedule: PagedSchedule,
  bandwidth: Bandwidth,
  memory: number,
  inFlight = Infinity,
): { time: number; peak: number } | null {
  const { initial, list } = actions(chain, schedule, bandwidth);
  const free = { compute: 0, out: 0, in: 0 };
  /** Releases still to come, by time. */
  const releases: { at: number; bytes: number }[] = [];
  const copies: { end: number; bytes: number }[] = [];
  let live = total(initial);
  let peak = live;
  /** Memory is given out in the order of the schedule, at times that never go back. */
  let now = 0;
  if (live > memory) return null;
  const release = (at: number, bytes: number) => {
    if (bytes === 0) return;
    let index = releases.length;
    while (index > 0 && releases[index - 1]!.at > at) index--;
    releases.splice(index, 0, { at, bytes });
  };
  /** First time from `earliest` on at which `bytes` more fit. */
  const acquire = (earliest: number, bytes: number): number | null => {
    let at = earliest;
    while (releases.length > 0 && (releases[0]!.at <= at || live + bytes > memory)) {
      const done = releases.shift()!;
      at = Math.max(at, done.at);
      live -= done.bytes;
    }
    if (live + bytes > memory) return null;
    live += bytes;
    peak = Math.max(peak, live);
    return at;
  };
  const ready = (action: Action) => Math.max(0, ...action.reads.map((read) => read.ready));

  for (const action of list) {
    const { stream, duration, reads, makes, workspace, frees } = action;
    let end = now;
    if (stream === "compute") {
      const start = acquire(Math.max(now, free.compute, ready(action)), total(makes) + workspace);
      if (start === null) return null;
      now = start;
      end = free.compute = start + duration;
      release(end, workspace);
    } else if (stream === "in") {
      const got = acquire(now, total(makes));
      if (got === null) return null;
      now = got;
      end = free.in = Math.max(now, free.in, ready(action)) + duration;
    } else if (stream === "out") {
      let start = Math.max(now, free.out, ready(action));
      const bytes = total(reads);
      for (const copy of copies) {
        const pending = copies.reduce((sum, other) => sum + (other.end > start ? other.bytes : 0), 0);
        if (pending > 0 && pending + bytes > inFlight) start = Math.max(start, copy.end);
      }
      end = free.out = start + duration;
      action.copy!.ready = end;
      copies.push({ end, bytes });
    }
    for (const item of makes) item.ready = end;
    for (const read of reads) if ("busy" in read) read.busy = Math.max(read.busy, end);
    for (const item of makes) item.busy = Math.max(item.busy, end);
    for (const item of frees) release(item.busy, item.bytes);
  }
  return { time: Math.max(free.compute, now), peak };
}

function total(items: readonly { readonly bytes: number }[]): number {
  let sum = 0;
  for (const { bytes } of items) sum += bytes;
  return sum;
}
