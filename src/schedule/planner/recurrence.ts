/**
 * The recurrence of optimal schedules of a chain (after Beaumont et al. 2019, "Optimal checkpointing for heterogeneous
 * chains", https://arxiv.org/abs/1911.13214, called rotor), with tape variants, fused replay, a frozen prefix, and
 * tapes that outlive their input.
 *
 * Two kinds of subproblems, each with m bytes that it may use:
 * - C(s, t): forward and backward of segments s..t. A(s-1) is live outside m, G(t) inside.
 * - D(s, q, k): backward of s..q when tape q of variant k is held already, but not its input A(q-1), which has to be made
 *   again from A(s-1). A(s-1) is live outside m, tape q and G(q) inside.
 *
 * The first steps of a subproblem leave smaller ones:
 * - single     C(s, s): `FA s k, B s` or `BR s`;            D(q, q, k): `B q`
 * - tape       `FA s k`, X(s+1, .), `B s`                   with X = C or D
 * - checkpoint `FC s, FN s+1 .. q-1`, X(q, .), C(s, q-1)
 * - release    `FN s`, X(s+1, .)                            for s in the frozen prefix
 * - retape     `FC s, FN .., FA q k, DA q-1`, X(q+1, .), D(s, q, k)
 *
 * A retape is the case that rotor lacks: the tape q is kept over the deeper backwards, its input is not. Parameter
 * gradients of segments behind an interval are counted outside m, so that equal intervals have equal rows.
 */
import { type Chain, type Variant, variantsOf } from "../chain.ts";
import type { Intervals } from "./intervals.ts";

export const NONE = -1;

export type Choice = "single" | "replay" | "tape" | "checkpoint" | "release" | "retape";

/** One way to begin a subproblem. The object is reused by the enumeration. */
export interface Option {
  choice: Choice;
  /** First segment of the deeper subproblem (tape, checkpoint), or the taped segment (retape). */
  q: number;
  /** Tape variant (single, tape, retape). */
  k: number;
  /** Time of its own steps. */
  time: number;
  /** Least m for its own steps. */
  threshold: number;
  /** Row of the deeper subproblem, which runs first, and the bytes of m that are taken while it runs. */
  deep: number;
  deepTaken: number;
  /** Row of the subproblem that runs afterwards. */
  rest: number;
  restTaken: number;
  /** True if the input of the subproblem, and the tape of a tape or retape, are outside while the deeper one runs. */
  pagesInput: boolean;
  pagesTape: boolean;
}

/** An option without steps or subproblems. */
export const NO_STEPS: Readonly<Option> = {
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

/** Rows of all subproblems: one for each C of a distinct interval, then for each D. */
export interface Recurrence {
  readonly rows: number;
  /** Rows in an order in which every option refers to earlier ones. */
  readonly order: Int32Array;
  /** Row of C(s, t), `NONE` when t is in the frozen prefix (nothing to do). */
  forC(s: number, t: number): number;
  /** Row of D(s, q, k). */
  forD(s: number, q: number, k: number): number;
  /**
   * Calls `visit` with each option of C(s, t), or of D(s, t, k) when k >= 0. `copied` says that A(s-1) has a copy outside
   * already; it matters where there is offload.
   */
  options(s: number, t: number, k: number, copied: boolean, visit: (option: Option) => void): void;
  /** Options that have the least memory and the least time of all: those that decide which memory a row is about. */
  extremes(s: number, t: number, k: number, copied: boolean, visit: (option: Option) => void): void;
  /** The subproblem of a row: s, t, k (`NONE` for C), and whether its input has a copy outside. */
  subproblem(row: number): readonly [s: number, t: number, k: number, copied: boolean];
}

/**
 * Chains of more segments than this try split points only near the two ends of an interval and at regular distances
 * in between, so that the number of options grows as n^2, not n^3.
 */
const ALL_SPLITS = 128;
const NEAR_SPLITS = 16;

export interface RecurrenceOptions {
  /** Variants of a tape that may be held without its input, the first of those worth a try; all by default. */
  readonly retapes?: number;
  /** Segments up to which a chain tries all split points. */
  readonly allSplits?: number;
}

/**
 * Makes the recurrence that fills a table of the planner; see docs/memory.md. In one piece: its inner loops run over typed arrays that are
 * prepared once, and calls between them would cost more than the loops do.
 */
export function makeRecurrence(
  chain: Chain,
  intervals: Intervals,
  { retapes = Infinity, allSplits = ALL_SPLITS }: RecurrenceOptions = {},
): Recurrence {
  const { n, a, g, w, uf, of, frozen } = chain;
  /** By segment, 1-based: all variants, and the numbers of those worth a try. */
  const tapes = Array.from({ length: n + 1 }, (_, i) => (i === 0 ? [] : variantsOf(chain, i)));
  const variants = tapes.map(useful);
  const retaped = variants.map((list) => list.slice(0, retapes));
  /** behind[i]: parameter-gradient bytes of segments 1..i; the sum over i+1..t is behind[t] - behind[i]. */
  const behind = new Float64Array(n + 1);
  for (let i = 1; i <= n; i++) behind[i] = behind[i - 1]! + w[i - 1]!;
  const forward = new Float64Array(n + 1);
  for (let i = 1; i <= n; i++) forward[i] = forward[i - 1]! + uf[i - 1]!;

  const { count, first, last } = intervals;
  const baseD = new Int32Array(count);
  const subproblems: [s: number, t: number, k: number, copied: boolean][] = [];
  for (let id = 0; id < count; id++) subproblems.push([first[id]!, last[id]!, NONE, false]);
  const order: number[] = [];
  for (let id = 0; id < count; id++) {
    const [s, t] = [first[id]!, last[id]!];
    baseD[id] = subproblems.length;
    if (t <= frozen) continue;
    order.push(id);
    // The tape of the last segment is never held over deeper backwards: there are none.
    for (let k = 0; t < n && k < tapes[t]!.length; k++) {
      if (retaped[t]!.includes(k)) order.push(subproblems.length);
      subproblems.push([s, t, k, false]);
    }
  }
  const stride = Math.ceil(n / 64);
  const splits = (s: number, q: number, t: number) =>
    n <= allSplits || q - s <= NEAR_SPLITS || t - q <= NEAR_SPLITS || (q - s) % stride === 0;
  const forC = (s: number, t: number) => (t <= frozen ? NONE : intervals.id(s, t));
  const forD = (s: number, q: number, k: number) => baseD[intervals.id(s, q)]! + k;

  const option: Option = { ...NO_STEPS };

  const options = (s: number, t: number, heldK: number, _copied: boolean, visit: (option: Option) => void): void => {
    const isD = heldK >= 0;
    const held = isD ? tapes[t]![heldK]! : null;
    /** Live inside m while the forward sweep runs. */
    const base = g[t]! + (held ? held.r : 0);
    const deeper = (q: number) => (isD ? forD(q, t, heldK) : forC(q, t));
    const give = (choice: Choice, q: number, k: number, time: number, threshold: number) => {
      option.choice = choice;
      option.q = q;
      option.k = k;
      option.time = time;
      option.threshold = threshold;
      option.deep = option.rest = NONE;
      option.deepTaken = option.restTaken = 0;
    };

    if (s === t) {
      const own = g[t]! + g[t - 1]! + w[t - 1]!;
      if (held) {
        give("single", t, heldK, held.ub, own + held.r + held.ob);
        visit(option);
        return;
      }
      for (const k of variants[t]!) {
        const { uf: f, ub, r, of: fo, ob } = tapes[t]![k]!;
        give("single", t, k, f + ub, Math.max(base + a[t]! + r + fo, own + r + ob));
        visit(option);
      }
      const replay = chain.replay[t - 1];
      if (replay) {
        give("replay", t, 0, replay.ub, own + replay.ob);
        visit(option);
      }
      return;
    }

    if (s <= frozen) {
      give("release", s + 1, 0, uf[s - 1]!, base + a[s]! + of[s - 1]!);
      option.deep = deeper(s + 1);
      option.deepTaken = a[s]! - a[s - 1]!;
      visit(option);
    } else {
      const own = g[s]! + g[s - 1]! + w[s - 1]! + behind[t]! - behind[s]!;
      for (const k of variants[s]!) {
        const { uf: f, ub, r, of: fo, ob } = tapes[s]![k]!;
        give("tape", s + 1, k, f + ub, Math.max(base + a[s]! + r + fo, own + r + ob));
        option.deep = deeper(s + 1);
        option.deepTaken = r + a[s]!;
        visit(option);
      }
    }

    /** Largest need of `FC s, FN s+1 .. q-1` on top of base. */
    let sweep = a[s]! + of[s - 1]!;
    for (let q = s + 1; q <= t; sweep = Math.max(sweep, a[q - 1]! + a[q]! + of[q - 1]!), q++) {
      if (!splits(s, q, t)) continue;
      const time = forward[q - 1]! - forward[s - 1]!;
      give("checkpoint", q, 0, time, base + sweep);
      option.deep = deeper(q);
      option.deepTaken = a[q - 1]!;
      option.rest = forC(s, q - 1);
      option.restTaken = behind[t]! - behind[q - 1]!;
      visit(option);
      if (q > frozen && q < t) {
        for (const k of retaped[q]!) {
          const { uf: f, r, of: fo } = tapes[q]![k]!;
          give("retape", q, k, time + f, base + Math.max(sweep, a[q - 1]! + a[q]! + r + fo));
          option.deep = deeper(q + 1);
          option.deepTaken = r + a[q]!;
          option.rest = forD(s, q, k);
          option.restTaken = behind[t]! - behind[q]!;
          visit(option);
        }
      }
    }
  };

  return {
    rows: subproblems.length,
    order: Int32Array.from(order),
    forC,
    forD,
    options,
    extremes: options,
    subproblem: (row) => subproblems[row]!,
  };
}

/** Numbers of the variants that no other one beats in every respect. */
function useful(variants: readonly Variant[]): number[] {
  const keys = ["r", "of", "ob", "uf", "ub"] as const;
  const beats = (one: Variant, other: Variant) => keys.every((key) => one[key] <= other[key]);
  return variants.flatMap((one, k) =>
    variants.some((other, l) => l !== k && beats(other, one) && (l < k || !beats(one, other))) ? [] : [k],
  );
}
