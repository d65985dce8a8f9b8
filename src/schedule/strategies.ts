/**
 * Fixed strategies: schedules by a rule, without a look at sizes or times. They are the yardsticks of the planner and
 * the counterparts of other systems' knobs.
 *
 * All of them leave out needless work: the frozen prefix runs once and is neither taped nor replayed; the last segment
 * is never replayed, because its backward follows its forward at once; and a last segment with a fused program (head
 * and loss) runs that one alone.
 */
import type { Chain } from "./chain.ts";
import { B, BR, FA, FC, FN, type Op, type Schedule } from "./ops.ts";
import { simulate } from "./simulate.ts";

export type Strategy =
  /** Save every tape: no recompute. `variant` is the tape variant of the segments that have it (selective saving). */
  | { readonly name: "off"; readonly variant?: number }
  /** Replay each segment from its input. */
  | ({ readonly name: "per-segment" } & Inside)
  /** Replay each k-th segment, save the tapes of the others. */
  | ({ readonly name: "every"; readonly k: number } & Inside)
  /** Replay the first `count` trainable segments one by one, save the tapes of the others (Megatron: block). */
  | ({ readonly name: "first"; readonly count: number } & Inside)
  /** `first` with a share of the trainable segments, 0..1. */
  | ({ readonly name: "ratio"; readonly ratio: number } & Inside)
  /** Groups of `size` segments, each taped again as a whole from the group's input (Megatron: uniform). */
  | { readonly name: "uniform"; readonly size: number }
  /** sqrt(n) groups of equal length (Chen et al. 2016, https://arxiv.org/abs/1604.06174), or a given number of groups. */
  | { readonly name: "sqrt"; readonly groups?: number | "least-peak" }
  /** Binomial checkpointing with `slots` boundaries, the input included, and one tape (Griewank and Walther 2000, Revolve). */
  | { readonly name: "revolve"; readonly slots: number };

/**
 * `inside`: where a segment has tape variants, its last one is saved instead of replaying the segment from outside: the
 * backward computes the rest again, and leaves out what only the segment's output needs.
 */
interface Inside {
  readonly inside?: boolean;
}

/** Segments first..last that are replayed together, or whose tapes are saved. */
export interface Group {
  readonly first: number;
  readonly last: number;
  readonly replayed: boolean;
  /** Tape variant of the segments that have it; 0 where they don't. */
  readonly variant?: number;
}

/** The schedule of a strategy. Throws on a parameter that is out of range. */
export function strategySchedule(chain: Chain, strategy: Strategy): Schedule {
  const { n, frozen } = chain;
  const first = frozen + 1;
  const inside = "inside" in strategy && strategy.inside === true;
  const single = (replayed: (i: number) => boolean) => groupedSchedule(chain, singles(chain, replayed), inside);
  switch (strategy.name) {
    case "off":
      return groupedSchedule(
        chain,
        singles(chain, () => false).map((group) => ({ ...group, variant: strategy.variant })),
      );
    case "per-segment":
      return single(() => true);
    case "every":
      whole("every: k", strategy.k, 1);
      return single((i) => (i - frozen) % strategy.k === 0);
    case "first":
      whole("first: count", strategy.count, 0);
      return single((i) => i - frozen <= strategy.count);
    case "ratio":
      if (!(strategy.ratio >= 0 && strategy.ratio <= 1)) throw new RangeError(`ratio must be within 0..1, got ${strategy.ratio}`);
      return single((i) => i - frozen <= Math.round(strategy.ratio * (n - frozen)));
    case "uniform": {
      whole("uniform: size", strategy.size, 1);
      const groups: Group[] = [];
      for (let s = first; s <= n; s += strategy.size)
        groups.push({ first: s, last: Math.min(n, s + strategy.size - 1), replayed: true });
      return groupedSchedule(chain, groups);
    }
    case "sqrt":
      return sqrt(chain, strategy.groups ?? Math.ceil(Math.sqrt(n - frozen)));
    case "revolve":
      whole("revolve: slots", strategy.slots, 1);
      return revolve(chain, strategy.slots);
  }
}

/**
 * Forward advances that Revolve adds to l segments with c slots (the input's included):
 * t(l, c) = r l - beta(c + 1, r - 1), beta(c, r) = (c + r over c), with the least r for which beta(c, r) >= l.
 */
export function revolveAdvances(l: number, c: number): number {
  let r = 0;
  while (beta(c, r) < l) r++;
  return r * l - beta(c + 1, r - 1);
}

function beta(c: number, r: number): number {
  if (r < 0) return 0;
  let product = 1;
  for (let i = 1; i <= r; i++) product = (product * (c + i)) / i;
  return Math.round(product);
}

function singles(chain: Chain, replayed: (i: number) => boolean): Group[] {
  const groups: Group[] = [];
  for (let i = chain.frozen + 1; i <= chain.n; i++) groups.push({ first: i, last: i, replayed: replayed(i) });
  return groups;
}

/**
 * Forward: tapes of the saved groups, inputs of the replayed ones. Backward: a replayed group is taped as a whole, then
 * goes backward. The last group is saved in any case. The groups cover the trainable segments in order. Of a group of one
 * segment the tape is saved when it is empty, and its last variant with `inside`.
 */
export function groupedSchedule(chain: Chain, groups: readonly Group[], inside = false): Op[] {
  const ops: Op[] = [];
  for (let i = 1; i <= chain.frozen; i++) ops.push(FN(i));
  const small = ({ first, last, replayed }: Group): number => {
    if (!replayed || first !== last) return -1;
    const smallest = chain.variants[first - 1]!.length;
    return inside && smallest > 0 ? smallest : chain.r[first - 1] === 0 ? 0 : -1;
  };
  const replays = (group: Group) => group.replayed && group.last < chain.n && small(group) < 0;
  const tape = (group: Group) => {
    const kept = small(group);
    const k = group.variant ?? 0;
    for (let i = group.first; i <= group.last; i++) {
      if (!fused(chain, i)) ops.push(FA(i, kept >= 0 ? kept : chain.variants[i - 1]!.length >= k ? k : 0));
    }
  };
  for (const group of groups) {
    if (!replays(group)) tape(group);
    else for (let i = group.first; i <= group.last; i++) ops.push(i === group.first ? FC(i) : FN(i));
  }
  for (const group of groups.toReversed()) {
    if (replays(group)) tape(group);
    for (let i = group.last; i >= group.first; i--) ops.push(backward(chain, i));
  }
  return ops;
}

function fused(chain: Chain, i: number): boolean {
  return i === chain.n && chain.replay[i - 1] !== null;
}

function backward(chain: Chain, i: number): Op {
  return fused(chain, i) ? BR(i) : B(i);
}

function sqrt(chain: Chain, groups: number | "least-peak"): Op[] {
  const trainable = chain.n - chain.frozen;
  if (groups === "least-peak") {
    const all = Array.from({ length: trainable }, (_, i) => sqrt(chain, i + 1));
    const peaks = all.map((ops) => simulate(chain, ops).peak);
    return all[peaks.indexOf(Math.min(...peaks))]!;
  }
  whole("sqrt: groups", groups, 1);
  const count = Math.min(groups, trainable);
  const result: Group[] = [];
  let first = chain.frozen + 1;
  for (let k = 0; k < count; k++) {
    const size = Math.floor(trainable / count) + (k < trainable % count ? 1 : 0);
    result.push({ first, last: first + size - 1, replayed: true });
    first += size;
  }
  return groupedSchedule(chain, result);
}

/** Splits by the closed form of the advances; among splits of equal count the one with the shortest first sweep. */
function revolve(chain: Chain, slots: number): Op[] {
  const ops: Op[] = [];
  for (let i = 1; i <= chain.frozen; i++) ops.push(FN(i));
  const advance = (s: number, end: number) => {
    for (let i = s; i <= end; i++) ops.push(i === s ? FC(i) : FN(i));
  };
  const run = (s: number, t: number, c: number): void => {
    const l = t - s + 1;
    if (l === 1 || c === 1) {
      for (let i = t; i >= s; i--) {
        advance(s, i - 1);
        if (!fused(chain, i)) ops.push(FA(i));
        ops.push(backward(chain, i));
      }
      return;
    }
    let split = 1;
    let least = Infinity;
    for (let q = 1; q < l; q++) {
      const advances = q + revolveAdvances(l - q, c - 1) + revolveAdvances(q, c);
      if (advances < least) [least, split] = [advances, q];
    }
    advance(s, s + split - 1);
    run(s + split, t, c - 1);
    run(s, s + split - 1, c);
  };
  run(chain.frozen + 1, chain.n, slots);
  return ops;
}

function whole(what: string, value: number, least: number): void {
  if (!Number.isInteger(value) || value < least) throw new RangeError(`${what} must be a whole number >= ${least}, got ${value}`);
}
