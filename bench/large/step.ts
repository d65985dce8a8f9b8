/** One step of a case in this process; see bench/large.ts. Arguments: case, folder, file of the result, threads. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { randomCheckpoint } from "../shapes.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { uniformAdapters } from "../../src/models/tuning.ts";
import { modulesOf } from "../../src/models/families/index.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import { processBase } from "../../src/train/memory/limit.ts";
import { READING_THREAD } from "../../src/train/memory/model-plan.ts";
import { NOMINAL_BANDWIDTH } from "../../src/train/memory/stream.ts";
import { createEngine, type EngineOptions, planEngine } from "../../src/train/step/engine.ts";
import { frozenStreamed } from "../../src/train/step/outside-state.ts";
import { createOptimizer } from "../../src/train/step/optimizer.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { CASES, type LargeCase } from "./cases.ts";
import { writeStored } from "./model.ts";

export interface LargeResult {
  /** Bytes: VmHWM, what was predicted of it, pages of mapped files in it, stash and workspace with what is trained. */
  readonly peak: number;
  readonly predicted: number;
  readonly mappedFiles: number;
  readonly counted: number;
  /** Seconds of forward and backward of the second micro-batch, of its programs alone, and of waiting. */
  readonly seconds: number;
  readonly programs: number;
  readonly waited: number;
  /** Seconds of the update. */
  readonly update: number;
  /** Bytes that a micro-batch and its update read and write. */
  readonly read: number;
  readonly written: number;
}

const [name, folder, out, threads] = process.argv.slice(2) as [keyof typeof CASES, string, string, string?];
const { config, storage, tokens, rank, strategy }: LargeCase = CASES[name];
const executor = await createWasmExecutor({ matmul: "auto", ...(threads && { threads: Number(threads) }) });
let base = 0;
const options: EngineOptions = {
  config,
  source: randomCheckpoint(config, "bf16"),
  tuning:
    rank === null
      ? { method: "full" }
      : uniformAdapters({ rank, scale: 2, dropout: 0, targets: new Set(modulesOf(config).linear) }),
  strategy: strategy.name === "budget" ? { ...strategy, base: () => (base = processBase()) } : strategy,
  ...storage,
  tokens: [tokens],
  optimizer: chooseOptimizer({}),
  stream: {
    mode: strategy.name === "budget" ? "auto" : "all",
    canStream: () => rank !== null,
    folder,
    bandwidth: NOMINAL_BANDWIDTH,
    free: () => Infinity,
  },
};
const plan = planEngine(executor, options);
const streamed = new Set(frozenStreamed(plan));
const stored =
  streamed.size > 0
    ? writeStored(
        join(folder, "weights"),
        plan.params.filter((param) => streamed.has(param.name)),
      )
    : null;
// The process as it is when a run begins, with what making the file has left; a budget has asked for it before.
if (base === 0) base = processBase();
const engine = createEngine(executor, options, { plan, stored });
initialiseAdapter(engine, 1);
// As a run does: garbage of the start is not the step's.
Bun.gc(true);
const optimizer = createOptimizer(engine, { clip: 1 });
const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % config.vocabSize);
const batch = { ids, labels: ids, starts: new Int32Array(tokens), positions: ids.map((_, i) => i) };
const counts = () => {
  const { bytes, waited } = engine.streamed!.window.stream.counts;
  return { read: bytes, waited, written: engine.gradients?.outside.counts.out ?? 0 };
};

let result: LargeResult | null = null;
for (let step = 1; step <= 2; step++) {
  optimizer.zeroGradients();
  const before = { ...counts(), seconds: engine.computed.measured };
  const loss = engine.forwardBackward(batch, 1 / tokens, 1, step);
  const middle = { ...counts(), seconds: engine.computed.measured };
  const begin = performance.now();
  const norm = optimizer.step(step, 1e-4);
  const update = (performance.now() - begin) / 1000;
  const after = counts();
  if (!Number.isFinite(loss) || !Number.isFinite(norm)) throw new Error(`step ${step}: loss ${loss}, norm ${norm}`);
  const [seconds, waited] = [middle.seconds - before.seconds, middle.waited - before.waited];
  const { stash, workspace } = engine.predicted;
  const { trainable, gradients, optimizer: state } = plan.fixed;
  result = {
    ...processPeak(),
    predicted: base + READING_THREAD + engine.predicted.peak,
    counted: stash + workspace + trainable + gradients + state,
    seconds,
    programs: seconds - waited,
    waited,
    update,
    read: after.read - before.read,
    written: after.written - before.written,
  };
}
writeFileSync(out, JSON.stringify(result));
engine.close();
process.exit();

function processPeak(): Pick<LargeResult, "peak" | "mappedFiles"> {
  const status = readFileSync("/proc/self/status", "utf8");
  const bytes = (key: string) => 1024 * Number(new RegExp(`^${key}:\\s*(\\d+)`, "m").exec(status)?.[1] ?? 0);
  return { peak: bytes("VmHWM"), mappedFiles: bytes("RssFile") };
}
