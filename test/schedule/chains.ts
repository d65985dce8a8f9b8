/** Chains for tests: the worked cases, language models, and seeded random chains. */
import { readFileSync } from "node:fs";
import { type Chain, type ChainInput, makeChain, parseChain } from "../../src/schedule/chain.ts";

/** A worked case of the golden file; times are null where no schedule fits. */
export interface WorkedCase {
  readonly id: string;
  readonly chain: Chain;
  readonly ideal_time: number;
  readonly min_memory: number;
  /** Least memory of any valid schedule, where it was searched. */
  readonly min_memory_global?: number;
  readonly strategies: Readonly<Record<string, { time: number; peak: number; k?: number; slots?: number }>>;
  readonly limits: readonly {
    readonly M: number;
    /** Least time of persistent schedules, of those with retape-left too, and least persistent time at 95 % of M. */
    readonly opt_time: number | null;
    readonly ext_time: number | null;
    readonly opt_time_95: number | null;
    /** Least time of any valid schedule, where it was searched. */
    readonly global_time?: number | null;
    readonly schedule?: readonly string[];
  }[];
}

export interface SimulatorVector {
  readonly chain: Chain;
  readonly ops: readonly string[];
  readonly valid: boolean;
  readonly time: number;
  readonly peak: number;
  /** `INDEX: reason` of the first invalid step. */
  readonly error?: string;
}

interface Golden {
  readonly cases: readonly WorkedCase[];
  readonly sim_vectors: readonly SimulatorVector[];
  readonly revolve: readonly { readonly n: number; readonly slots: number; readonly advances: number }[];
}

/** Nine chains with their optima, simulator vectors and Revolve counts, worked out beforehand by exhaustive search. */
export const golden = readGolden();

function readGolden(): Golden {
  const file = JSON.parse(readFileSync(new URL("../golden/schedule-cases.json", import.meta.url), "utf8")) as Golden;
  const parsed = <T extends { readonly chain: Chain }>(entry: T): T => ({ ...entry, chain: parseChain(entry.chain) });
  return { ...file, cases: file.cases.map(parsed), sim_vectors: file.sim_vectors.map(parsed) };
}

export interface Random {
  /** Uniform in 0..1, 1 excluded. */
  unit(): number;
  /** Uniform whole number in low..high, both included. */
  whole(low: number, high: number): number;
}

/** A linear congruential generator (Numerical Recipes). */
export function makeRandom(seed: number): Random {
  let state = seed >>> 0;
  const unit = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  return { unit, whole: (low, high) => low + Math.floor(unit() * (high - low + 1)) };
}

/** A chain with small whole sizes and times, variants, fused replays, parameter gradients and a frozen prefix. */
export function randomChain(random: Random, n: number): Chain {
  const { unit, whole } = random;
  const times = <T>(count: number, make: () => T) => Array.from({ length: count }, make);
  const frozen = whole(0, Math.min(2, n - 1));
  const a = times(n + 1, () => whole(0, 6));
  const uf = times(n, () => whole(1, 10));
  const of = times(n, () => whole(0, 4));
  // No taped forward is faster or smaller than the plain one: it does more.
  const variant = (time: number, space: number) => ({
    uf: time + whole(0, 2),
    ub: whole(1, 18),
    r: whole(0, 8),
    of: space + whole(0, 2),
    ob: whole(0, 6),
  });
  return makeChain({
    a,
    g: a.map((size, j) => (j <= frozen ? 0 : unit() < 0.8 ? size : whole(0, 8))),
    r: times(n, () => whole(0, 12)),
    uf,
    ub: times(n, () => whole(1, 15)),
    of,
    ot: of.map((space) => space + whole(0, 2)),
    ob: times(n, () => whole(0, 5)),
    w: times(n, () => (unit() < 0.5 ? 0 : whole(0, 4))),
    frozen,
    variants: uf.map((time, i) => (unit() < 0.35 ? [variant(time, of[i]!)] : null)),
    replay: times(n, () => (unit() < 0.25 ? { ub: whole(5, 25), ob: whole(0, 12) } : null)),
  });
}

export interface LanguageModel {
  readonly blocks: number;
  /** Factor of all sizes; sizes are rounded to bytes. */
  readonly scale?: number;
  /** Frozen embedding, as with adapters. */
  readonly frozen?: boolean;
  /** One variant per block that keeps less and computes more in its backward. */
  readonly selective?: boolean;
  /** Relative size by which blocks differ, 0 for equal blocks. */
  readonly spread?: number;
  readonly seed?: number;
}

/** Embedding, blocks with tapes of 16 boundaries, head with a fused loss. */
export function languageModel({ blocks, scale = 1, frozen = false, selective, spread = 0, seed = 1 }: LanguageModel): Chain {
  const { unit } = makeRandom(seed);
  const n = blocks + 2;
  const factors = Array.from({ length: blocks }, () => 1 + spread * (unit() - 0.5));
  const rows = (first: number, block: number, last: number) => [first, ...factors.map((factor) => block * factor), last];
  const bytes = (sizes: readonly number[]) => sizes.map((size) => Math.round(size * scale));
  const a = bytes([0.25, ...Array.from({ length: n - 1 }, () => 1), 0]);
  const chain: ChainInput = {
    a,
    g: a.map((size, j) => (j === 0 || (frozen && j === 1) ? 0 : size)),
    r: bytes(rows(0, 16, 4)),
    of: bytes(rows(0, 2, 1)),
    ob: bytes(rows(0, 4, 2)),
    uf: rows(0.01, 1, 3),
    ub: rows(frozen ? 0 : 0.01, 2, 5),
    frozen: frozen ? 1 : 0,
  };
  const variants = factors.map((factor) => [
    { uf: factor, ub: 2.15 * factor, r: Math.round(9 * scale * factor), of: 2 * scale, ob: 4 * scale },
  ]);
  return makeChain(selective ? { ...chain, variants: [null, ...variants, null] } : chain);
}
