import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/base/bytes.ts";
import { commitOf, plantCosts, remat } from "./checkout.ts";
import { judge, type Round, type Verdict } from "./checkouts/ratios.ts";
import { machine, median } from "./report.ts";

/**
 * Speed and memory of two checkouts, in pairs: short training runs of the bundled model take turns, OLD, NEW and OLD again in all six
 * orders, so that a slow minute of the machine hits all of them. Says for each quantity the median ratio NEW / OLD, its quartiles,
 * and what OLD against itself has. Exit code 1 when a ratio is outside of 0.98 to 1.02 and of the spread of OLD against itself.
 *
 *     bun bench/checkouts.ts ../before .
 *     bun bench/checkouts.ts ../before . --clock cpu --threads 1 --steps 4      on a busy machine
 *
 * With `--clock cpu` the time is that of the processor for the whole run, which other programs disturb less; else that of a step on the
 * wall. `--only per-segment` or `--only budget` takes one of the two cases, `--pairs` at least 12 rounds.
 */
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pairs: { type: "string", default: "12" },
    steps: { type: "string", default: "8" },
    threads: { type: "string", default: "2" },
    clock: { type: "string", default: "wall" },
    only: { type: "string" },
  },
});
const LEAST_PAIRS = 12;
const pairs = Number(values.pairs);
if (positionals.length !== 2) throw new Error("expected two checkouts, installed and built");
if (!(pairs >= LEAST_PAIRS)) throw new Error(`--pairs: expected at least ${LEAST_PAIRS}, got ${values.pairs}`);
if (values.clock !== "wall" && values.clock !== "cpu") throw new Error(`--clock: expected wall or cpu, got ${values.clock}`);
const [old, recent] = positionals.map((path) => resolve(path)) as [string, string];

/** Flags of each case. The schedule of a budget depends on times: all runs get those of the first, so that none measures them. */
const CASES = {
  "per-segment": { flags: ["--strategy", "per-segment"], measured: false },
  budget: { flags: ["--activation-memory", "30%"], measured: true },
} as const satisfies Record<string, { readonly flags: readonly string[]; readonly measured: boolean }>;
type CaseName = keyof typeof CASES;
const names = (Object.keys(CASES) as CaseName[]).filter((name) => values.only === undefined || values.only === name);
if (names.length === 0) throw new Error(`--only: expected one of ${Object.keys(CASES).join(", ")}, got ${values.only}`);

const ORDERS: readonly (readonly (keyof Round)[])[] = [
  ["old", "new", "again"],
  ["again", "new", "old"],
  ["new", "old", "again"],
  ["new", "again", "old"],
  ["old", "again", "new"],
  ["again", "old", "new"],
];

/** The quantities that are compared; `counted` is exact, so that any other value than 1 is a change of the plan. */
const QUANTITIES = { time: "time", rss: "peak RSS", counted: "counted memory" } as const;
type Quantity = keyof typeof QUANTITIES;
type Measured = Readonly<Record<Quantity, number>>;

const work = mkdtempSync(join(tmpdir(), "remat-checkouts-"));

/** What a run has measured of its programs, by their content. */
function costsOf(path: string) {
  return JSON.parse(readFileSync(path, "utf8")) as { readonly seconds: Readonly<Record<string, number>> };
}

async function measure(checkout: string, name: CaseName): Promise<Measured> {
  const { flags, measured } = CASES[name];
  const run = join(work, "run");
  const costs = join(work, `${name}-costs-${checkout === old ? "old" : "new"}.json`);
  const train = ["train", "--model", "model", "--data", "data", "--output", "run", "--overwrite", "--no-sample"];
  const fixed = ["--sequence-length", "512", "--batch-size", "2", "--rank", "16", "--eval-limit", "1", "--save-minutes", "0"];
  const args = [...train, ...fixed, "--threads", values.threads, ...flags];
  if (measured && !existsSync(costs)) {
    await remat(checkout, [...args, "--steps", "1"], work);
    const own = costsOf(join(run, "costs.json"));
    // Programs that both have take as long in both, so that they lead to one schedule.
    const known = checkout === old ? {} : costsOf(join(work, `${name}-costs-old.json`)).seconds;
    const seconds = Object.fromEntries(Object.entries(own.seconds).map(([key, time]) => [key, known[key] ?? time]));
    writeFileSync(costs, JSON.stringify({ ...own, seconds }));
  }
  if (measured) plantCosts(run, costs);
  const { cpuSeconds, peakRss } = await remat(checkout, [...args, "--steps", values.steps], work);
  const records = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n");
  const steps = records
    .map((line) => JSON.parse(line) as { type: string; seconds: number; memory: number })
    .filter(({ type }) => type === "step");
  // The first step commits pages and compiles kernels.
  const wall = median(steps.slice(1).map(({ seconds }) => seconds));
  return { time: values.clock === "cpu" ? cpuSeconds : wall, rss: peakRss, counted: steps.at(-1)!.memory };
}

function show(name: CaseName, quantity: Quantity, rounds: readonly Round[], { ratio, quartiles, self, same }: Verdict): string {
  const interval = ([low, high]: readonly [number, number]) => `${low.toFixed(3)} to ${high.toFixed(3)}`;
  const before = median(rounds.map((round) => round.old));
  const absolute = quantity === "time" ? `${before.toFixed(3)} s` : formatBytes(before);
  return (
    `${same ? "same   " : "CHANGED"} ${name}, ${QUANTITIES[quantity]}: ${ratio.toFixed(3)} (quartiles ${interval(quartiles)}; ` +
    `a checkout against itself ${interval(self)}; before ${absolute})`
  );
}

try {
  cpSync(join(import.meta.dir, "../recipes/base/model"), join(work, "model"), { recursive: true });
  mkdirSync(join(work, "data"));
  for (const file of ["train.jsonl", "valid.jsonl"])
    cpSync(join(import.meta.dir, "../recipes/devils-dictionary", file), join(work, "data", file));
  const checkouts = { old, new: recent, again: old } as const;
  console.log(
    `${machine()}, ${values.threads} threads, ${values.steps} steps, ${pairs} rounds, ${values.clock} clock\n` +
      `old ${old} (${commitOf(old)}), new ${recent} (${commitOf(recent)})`,
  );
  for (const name of names) {
    // Files of both are then in the cache of the system.
    for (const checkout of [old, recent]) await measure(checkout, name);
    const measurements: Record<keyof Round, Measured>[] = [];
    for (let round = 0; round < pairs; round++) {
      const results: Partial<Record<keyof Round, Measured>> = {};
      for (const which of ORDERS[round % ORDERS.length]!) results[which] = await measure(checkouts[which], name);
      measurements.push(results as Record<keyof Round, Measured>);
      const { old: a, new: b, again } = results as Record<keyof Round, Measured>;
      process.stderr.write(`${name} ${round + 1}: ${[a, b, again].map(({ time }) => time.toFixed(3)).join(", ")} s\n`);
    }
    for (const quantity of Object.keys(QUANTITIES) as Quantity[]) {
      const rounds = measurements.map((one): Round => ({
        old: one.old[quantity],
        new: one.new[quantity],
        again: one.again[quantity],
      }));
      const verdict = judge(rounds);
      console.log(show(name, quantity, rounds, verdict));
      if (!verdict.same) process.exitCode = 1;
    }
  }
} finally {
  rmSync(work, { recursive: true });
}
