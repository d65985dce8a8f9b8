/**
 * Planning time: from a chain to the schedule within a limit, planner made anew each time.
 *
 *     bun bench/planner.ts
 *
 * Seconds, median and best. The first call, which also compiles, is given too: it is what a run waits for. Exit code 1 when the best
 * is above what is promised: 0.5 s for 200 segments of a language model at 500 slots, 2 s for 100 different ones.
 */
import { type Chain, makeChain } from "../src/schedule/chain.ts";
import { makePlanner, type PlannerOptions } from "../src/schedule/planner/optimal.ts";
import { time } from "./time.ts";

/** Share of the memory of save-all. */
const LIMITS = [0.05, 0.1, 0.25, 0.5, 0.8];

interface Case {
  readonly label: string;
  readonly chain: Chain;
  readonly options?: PlannerOptions;
  /** Seconds that planning may take. */
  readonly most?: number;
}

/** Embedding, blocks with tapes of 16 boundaries, head; `spread` is the relative size by which blocks differ. */
function languageModel(blocks: number, spread: number, selective: boolean): Chain {
  const MIB = 1 << 20;
  // Weyl's sequence: evenly spread, the same in each run.
  const factors = Array.from({ length: blocks }, (_, i) => 1 + spread * (((i * Math.SQRT2) % 1) - 0.5));
  const rows = (first: number, block: number, last: number) => [first, ...factors.map((factor) => factor * block), last];
  const bytes = (sizes: readonly number[]) => sizes.map((size) => Math.round(size * MIB));
  const variants = factors.map((factor) => [
    { uf: factor, ub: 2.15 * factor, r: Math.round(9 * factor * MIB), of: 2 * MIB, ob: 4 * MIB },
  ]);
  return makeChain({
    a: bytes([0.01, ...rows(1, 1, 0)]),
    r: bytes(rows(0, 16, 4)),
    of: bytes(rows(0, 2, 1)),
    ob: bytes(rows(0, 4, 2)),
    uf: rows(0.01, 1, 3),
    ub: rows(0.01, 2, 5),
    ...(selective ? { variants: [null, ...variants, null] } : {}),
  });
}

const cases: Case[] = [
  {
    label: "200 segments of a language model, 500 slots",
    chain: languageModel(198, 0, false),
    options: { slots: 500 },
    most: 0.5,
  },
  { label: "200 segments of a language model", chain: languageModel(198, 0, false) },
  { label: "200 segments of a language model, variants", chain: languageModel(198, 0, true) },
  { label: "100 different segments", chain: languageModel(98, 0.4, false), most: 2 },
  { label: "100 different segments, variants", chain: languageModel(98, 0.4, true), most: 2 },
  { label: "1000 blocks", chain: languageModel(1000, 0, false) },
];

console.log("case | limit, share of save-all | first call | median | best | time / step without recompute");
for (const { label, chain, options, most = Infinity } of cases) {
  const { time: ideal, peak } = makePlanner(chain, options).fastest.simulation;
  for (const share of LIMITS) {
    const plan = () => makePlanner(chain, options).plan(share * peak);
    const start = performance.now();
    const planned = plan();
    const first = (performance.now() - start) / 1000;
    const { median, best } = time(plan, 0);
    const overhead = planned ? (planned.simulation.time / ideal).toFixed(4) : "-";
    console.log([label, share, first.toFixed(3), median.toFixed(3), best.toFixed(3), overhead].join(" | "));
    if (best <= most) continue;
    console.log(`FAIL ${label}: ${best.toFixed(3)} s, at most ${most} s are promised`);
    process.exitCode = 1;
  }
}
