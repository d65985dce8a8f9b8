import { mkdirSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { LINEAR_MODULES } from "../src/models/families/index.ts";
import { type Tuning, uniformAdapters } from "../src/models/tuning.ts";
import { createRandom } from "../src/base/random.ts";
import { idealTime } from "../src/schedule/chain.ts";
import { plannerOf } from "../src/schedule/planner/offload.ts";
import { makePlanner } from "../src/schedule/planner/optimal.ts";
import { simulate } from "../src/schedule/simulate.ts";
import { strategySchedule } from "../src/schedule/strategies.ts";
import { drawing } from "../src/base/charts/drawing.ts";
import { lineChart } from "../src/base/charts/line-chart.ts";
import { createCosts } from "../src/train/memory/costs.ts";
import { createEngine, type Engine } from "../src/train/step/engine.ts";
import { formatBytes } from "../src/base/bytes.ts";
import type { OffloadOptions } from "../src/train/memory/offload.ts";
import type { Checkpointing } from "../src/train/memory/step-plan.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";
import type { MatmulChoice } from "../src/wasm/matmul.ts";
import { randomCheckpoint, type ShapeName, SHAPES, shapeConfig } from "./shapes.ts";

/**
 * Memory budgets on a published model's shapes: for ten budgets between the least memory and what saving everything takes,
 * and for half and a quarter of the latter, the counted peak and the time of forward and backward against what was
 * planned; and what plain checkpointing per segment costs beside the forward passes that it replays. Each takes turns with
 * an engine that saves everything, and the least time counts. With one thread times are processor times, which other
 * programs disturb less. Prints a table, and one JSON line.
 * With `--offload FOLDER` boundaries and tapes may go to a file there; times are then of the clock on the wall, because waiting for
 * the disk takes no processor. Exit code 1 when something is not as promised: a peak above the limit or 2 % from its
 * prediction, other gradients, a step 7 % from its plan, a planned time that rises with the limit, and without offload more overhead
 * than `PROMISED`. Run it on a quiet machine.
 *
 *     bun bench/budget.ts --method full --svg build/budget-full.svg
 */
const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "smollm2-135m" },
    layers: { type: "string", default: "24" },
    tokens: { type: "string", default: "512" },
    method: { type: "string", default: "full" },
    steps: { type: "string", default: "3" },
    threads: { type: "string", default: "1" },
    matmul: { type: "string", default: "auto" },
    budgets: { type: "string", default: "10" },
    offload: { type: "string" },
    svg: { type: "string" },
  },
});
if (!(values.shape in SHAPES)) throw new Error(`--shape: one of ${Object.keys(SHAPES).join(", ")}`);
const [tokens, threads, steps] = [Number(values.tokens), Number(values.threads), Number(values.steps)];
const config = shapeConfig(values.shape as ShapeName, Number(values.layers));
const tuning: Tuning =
  values.method === "full"
    ? { method: "full" }
    : uniformAdapters({ rank: 16, scale: 2, dropout: 0, targets: new Set(LINEAR_MODULES) });
const random = createRandom(1, "tokens");
const ids = Int32Array.from({ length: tokens }, () => random.below(config.vocabSize));
const batch = {
  ids,
  labels: Int32Array.from(ids, (_, t) => ids[t + 1] ?? -100),
  starts: new Int32Array(tokens),
  positions: Int32Array.from(ids, (_, t) => t),
};
const costs = createCosts("bench");
/** Seconds. */
const clock =
  threads === 1 && values.offload === undefined ? () => process.cpuUsage().user / 1e6 : () => performance.now() / 1000;

async function open(strategy: Checkpointing, offload: OffloadOptions | null = null) {
  const executor = await createWasmExecutor({ threads, matmul: values.matmul as MatmulChoice });
  const source = randomCheckpoint(config, "f32");
  const engine = createEngine(executor, {
    config,
    source,
    tuning,
    strategy,
    tokens: [tokens],
    optimizer: null,
    offload,
    measure: { costs, batch, clock },
  });
  return { engine, close: () => (engine.close(), executor.close()) };
}

/** Forward and backward; returns its seconds. */
function step(engine: Engine): number {
  engine.zeroGradients();
  const begin = clock();
  engine.forwardBackward(batch, 1 / (tokens - 1), 1, 0);
  return clock() - begin;
}

function gradientHash({ executor, resident }: Engine): string {
  return Bun.hash(executor.read(resident.trainable.gradient, 4 * resident.trainable.layout.size)).toString(16);
}

// An engine that may choose everything: it measures all programs, and saves every tape.
const off = await open({ name: "optimal", limit: { share: 1 } });
step(off.engine);
const reference = gradientHash(off.engine);
const everything = off.engine.withoutCheckpointing.stash + off.engine.withoutCheckpointing.workspace;
const outside = values.offload === undefined ? null : { folder: values.offload };
/** Sizes in a chain with offload are rounded up to the file system's blocks. */
const probe = outside ? await open({ name: "optimal", limit: { share: 1 } }, outside) : off;
const least = plannerOf(probe.engine.chain).leastMemory;
if (probe !== off) probe.close();
const count = Number(values.budgets);
const limits = [
  ...Array.from({ length: count }, (_, i) => Math.floor(least + ((everything - least) * i) / Math.max(1, count - 1))),
  ...[everything / 2, everything / 4].map(Math.floor).filter((limit) => limit >= least),
];
/** Least seconds of a step of `engine`, and of one that saves everything, in turn. */
function timed(engine: Engine): { time: number; without: number } {
  step(engine);
  let [time, without] = [Infinity, Infinity];
  for (let round = 0; round < steps; round++) {
    without = Math.min(without, step(off.engine));
    time = Math.min(time, step(engine));
  }
  return { time, without };
}
/** Most overhead, by the share of everything that is given. */
const PROMISED: Readonly<Record<string, readonly [share: number, overhead: number][]>> = {
  full: [
    [0.5, 0.08],
    [0.25, 0.2],
  ],
  lora: [
    [0.5, 0.12],
    [0.25, 0.3],
  ],
};
const broken: string[] = [];
const plain = makePlanner(off.engine.chain);
const rows = [];
for (const limit of limits) {
  const { engine, close } = await open({ name: "optimal", limit: { bytes: limit } }, outside);
  const { time, without } = timed(engine);
  const { time: planned } = simulate(engine.chain, engine.schedule);
  const predicted = engine.predicted.stash + engine.predicted.workspace;
  const measured = engine.measuredPeak - engine.predicted.resident;
  const moved = engine.store?.counts();
  rows.push({
    share: limit / everything,
    limit,
    predicted,
    measured,
    within: measured <= limit && Math.abs(measured / predicted - 1) <= 0.02,
    overhead: time / without - 1,
    plannedOverhead: planned / idealTime(engine.chain) - 1,
    seconds: time,
    plannedSeconds: planned,
    identical: gradientHash(engine) === reference,
    ...(moved && { moved, plannedWithoutOffload: plain.plan(limit)!.simulation.time }),
  });
  const row = rows.at(-1)!;
  const share = `${(100 * row.share).toFixed(1)} %`;
  if (!row.within) broken.push(`${share}: peak ${measured} of limit ${limit}, predicted ${predicted}`);
  if (!row.identical) broken.push(`${share}: other gradients`);
  if (Math.abs(time / planned - 1) > 0.07) broken.push(`${share}: ${time.toFixed(2)} s, planned ${planned.toFixed(2)} s`);
  process.stderr.write(
    `${(100 * row.share).toFixed(1).padStart(6)} %  limit ${formatBytes(limit).padStart(8)}  peak ${formatBytes(measured).padStart(8)}  ` +
      `overhead ${(100 * row.overhead).toFixed(1).padStart(5)} % (planned ${(100 * row.plannedOverhead).toFixed(1)} %)  ` +
      `${time.toFixed(2)} s (planned ${planned.toFixed(2)} s)  ${row.identical ? "same gradients" : "OTHER GRADIENTS"}` +
      `${moved ? `, ${formatBytes(moved.out)} out, ${moved.waited.toFixed(2)} s waited in all; without offload ${row.plannedWithoutOffload!.toFixed(2)} s are planned` : ""}\n`,
  );
  close();
}
const ascending = rows.toSorted((a, b) => a.limit - b.limit);
ascending.slice(1).forEach((row, i) => {
  if (row.plannedSeconds > 1.001 * ascending[i]!.plannedSeconds)
    broken.push(`a limit of ${row.limit} is planned slower than a lower one`);
});
for (const [share, most] of values.offload === undefined ? PROMISED[values.method]! : []) {
  const row = rows.find((one) => Math.abs(one.share - share) < 1e-6);
  if (row && row.overhead > most)
    broken.push(`${100 * share} %: overhead ${(100 * row.overhead).toFixed(1)} %, at most ${100 * most} % is promised`);
}
// Plain checkpointing of each segment: what it costs on top of saving everything, beside the forward programs it replays.
const { chain } = off.engine;
const perSegment = await open({ name: "given", schedule: (given) => strategySchedule(given, { name: "per-segment" }) });
const { time, without } = timed(perSegment.engine);
const replayed =
  simulate(chain, perSegment.engine.schedule).time - simulate(chain, strategySchedule(chain, { name: "off" })).time;
process.stderr.write(
  `per segment: ${(time - without).toFixed(2)} s more than saving everything; the replayed forward passes take ${replayed.toFixed(2)} s\n`,
);
perSegment.close();
if (values.svg !== undefined) {
  mkdirSync(dirname(values.svg), { recursive: true });
  const curve = makePlanner(off.engine.chain)
    .curve()
    .map(({ simulation }) => [simulation.peak, simulation.time / idealTime(off.engine.chain) - 1] as const);
  const percent = (share: number) => `${Math.round(100 * share)} %`;
  const chart = lineChart({
    title: `${values.shape}, ${values.layers} blocks, ${tokens} tokens, ${values.method}: overhead against memory`,
    x: { label: "stash and workspace", unit: "bytes", format: formatBytes },
    y: { label: "overhead", unit: 0.01, format: percent },
    series: [
      { name: "planned", points: curve },
      { name: "measured", points: rows.map((row) => [row.measured, Math.max(0, row.overhead)]), shape: "points" },
    ],
  });
  writeFileSync(values.svg, drawing([chart]));
}
console.log(
  JSON.stringify({
    ...values,
    everything,
    least,
    segments: chain.n,
    replaySeconds: time - without,
    replayedSeconds: replayed,
    rows,
  }),
);
off.close();
for (const one of broken) process.stderr.write(`FAIL ${one}\n`);
if (broken.length > 0) process.exitCode = 1;
