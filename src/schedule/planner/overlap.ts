/**
 * Copies and fetches beside the computation: takes a schedule whose transfers stop it (each drop follows its copy, each
 * fetch stands in front of its use) and spreads them over the steps around, as far as memory allows.
 */
import { type Chain, type Link, variant } from "../chain.ts";
import { isComputation, movedItem, type Op, type Schedule } from "../ops.ts";
import { simulate } from "../simulate.ts";

interface Entry {
  readonly op: Op;
  /** Time of a computation, else 0. */
  readonly duration: number;
  /** Live bytes while it runs. */
  during: number;
}

/**
 * Moves each fetch ahead over computations of up to `lead` times its duration, then each drop behind the steps that its copy
 * takes. The peak stays within `memory` bytes, which the given schedule's must not exceed.
 */
export function overlapTransfers(chain: Chain, link: Link, schedule: Schedule, memory: number, lead: number): Schedule {
  const { steps, transfers } = simulate(chain, schedule);
  const bytesOf = new Map(transfers.map(({ step, bytes }) => [schedule[step]!, bytes]));
  const durations = durationsOf(chain, schedule);
  const entries = schedule.map((op, step) => ({ op, duration: durations[step]!, during: steps[step]!.during }));
  if (lead > 0) hoistFetches(entries, link, bytesOf, memory, lead);
  return delayDrops(entries, link, bytesOf, memory);
}

function durationsOf(chain: Chain, schedule: Schedule): number[] {
  const taped = new Int32Array(chain.n + 1);
  return schedule.map((op) => {
    switch (op.kind) {
      case "FN":
      case "FC":
        return chain.uf[op.i - 1]!;
      case "FA":
        taped[op.i] = op.k;
        return variant(chain, op.i, op.k)!.uf;
      case "B":
        return variant(chain, op.i, taped[op.i]!)!.ub;
      case "BR":
        return chain.replay[op.i - 1]!.ub;
      default:
        return 0;
    }
  });
}

function hoistFetches(entries: Entry[], link: Link, bytesOf: ReadonlyMap<Op, number>, memory: number, lead: number): void {
  for (let at = 0; at < entries.length; at++) {
    const entry = entries[at]!;
    const { op } = entry;
    if (op.kind !== "IA" && op.kind !== "IT") continue;
    const bytes = bytesOf.get(op)!;
    let rest = (lead * bytes) / link.in;
    let to = at;
    while (to > 0 && rest > 0 && entries[to - 1]!.during + bytes <= memory && !isSame(entries[to - 1]!.op, op)) {
      rest -= entries[--to]!.duration;
    }
    if (to === at) continue;
    for (let i = at; i > to; i--) {
      entries[i] = entries[i - 1]!;
      entries[i]!.during += bytes;
    }
    entries[to] = { ...entry, during: entries[to + 1]!.during };
  }
}

/** A drop and a fetch, say, of the same item. */
function isSame(one: Op, other: Op): boolean {
  const [a, b] = [movedItem(one), movedItem(other)];
  return a !== null && b !== null && a.kind === b.kind && a.index === b.index;
}

/** Drops move to where their copy is done, or memory is needed, by a timeline of the three streams. */
function delayDrops(entries: readonly Entry[], link: Link, bytesOf: ReadonlyMap<Op, number>, memory: number): Op[] {
  const ops: Op[] = [];
  let now = 0;
  const free = { out: 0, in: 0 };
  /** By item: end of its copy with its size, and of its fetch. */
  const copied = new Map<string, { readonly end: number; readonly bytes: number }>();
  const fetched = new Map<string, number>();
  /** Drops held back, in the order of their copies. */
  let held: { readonly op: Op; readonly key: string; readonly end: number; readonly bytes: number }[] = [];
  const drop = (wanted: (of: (typeof held)[number]) => boolean) => {
    const [dropped, kept] = [held.filter(wanted), held.filter((of) => !wanted(of))];
    for (const { op, end } of dropped) {
      ops.push(op);
      now = Math.max(now, end);
    }
    held = kept;
  };
  for (const { op, duration, during } of entries) {
    const item = movedItem(op);
    const touched = item ? [`${item.kind} ${item.index}`] : made(op);
    drop(({ key, end }) => end <= now || touched.includes(key));
    while (held.length > 0 && during + held.reduce((sum, { bytes }) => sum + bytes, 0) > memory) {
      const [first] = held;
      drop((of) => of === first);
    }
    if (!item) {
      now = Math.max(now, ...read(op).map((key) => fetched.get(key) ?? 0)) + duration;
    } else {
      const key = touched[0]!;
      const bytes = bytesOf.get(op) ?? 0;
      const copy = copied.get(key);
      if (op.kind === "OA" || op.kind === "OT") {
        free.out = Math.max(now, free.out) + bytes / link.out;
        copied.set(key, { end: free.out, bytes });
      } else if (op.kind === "IA" || op.kind === "IT") {
        free.in = Math.max(now, free.in, copy!.end) + bytes / link.in;
        fetched.set(key, free.in);
      } else if (copy && copy.end > now) {
        held.push({ op, key, ...copy });
        continue;
      }
    }
    ops.push(op);
  }
  drop(() => true);
  return ops;
}

/** Boundaries and tapes that a computation makes, and those that it reads. */
function made(op: Op): string[] {
  if (!isComputation(op) || op.kind === "B" || op.kind === "BR") return [];
  return [`boundary ${op.i}`, `tape ${op.i}`];
}

function read(op: Op): string[] {
  return isComputation(op) ? [`boundary ${op.i - 1}`, `tape ${op.i}`] : [];
}
