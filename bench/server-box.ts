import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parseSize } from "../src/base/bytes.ts";
import { BASE, chats, QUICK } from "../test/support/box.ts";
import { writeTinyModel } from "../test/support/cli.ts";
import { childrenOf, processorSeconds, treeBytes } from "../test/support/process-tree.ts";
import { readMetrics } from "../src/jobs/metrics.ts";
import { startServerProcess } from "../test/support/server-kills.ts";

/**
 * Trains on a server while it answers, on a model of some size, and measures what the two do to each other:
 * memory of the whole process tree (sum of PSS) against `--memory`, the time to the first token idle and while a job trains, the rate of
 * training alone and beside answers against the share of the processors that answers take, and the time from a job's end to the first answer of its
 * model. The share of the processors that anything else takes is the bench's noise.
 *
 *     bun bench/server-box.ts --layers 12 --hidden 576 --memory 1GiB --answers 20
 */
const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "12" },
    hidden: { type: "string", default: "576" },
    memory: { type: "string", default: "1GiB" },
    answers: { type: "string", default: "20" },
    steps: { type: "string", default: "100" },
    /** Steps that are timed without answers, and at least so many beside them. */
    timed: { type: "string", default: "8" },
    /** Milliseconds between two requests. */
    pause: { type: "string", default: "300" },
    sequence: { type: "string", default: "32" },
    threads: { type: "string", default: "2" },
  },
});
const hidden = Number(values.hidden);
const folder = mkdtempSync(join(tmpdir(), "remat-server-box-"));

/** Processor seconds of the whole machine so far, idle ones left out; see proc(5). */
function busySeconds(): number {
  const fields = /^cpu +(.*)$/m.exec(readFileSync("/proc/stat", "utf8"))![1]!.split(" ").map(Number);
  return (fields[0]! + fields[1]! + fields[2]! + fields[5]! + fields[6]! + fields[7]!) / 100;
}

/** A stretch of time on the machine: shares of all its processors that were in use. */
interface Stretch {
  readonly answers: number;
  readonly training: number;
  readonly others: number;
}

/** Begins a stretch; the function that is returned ends it. */
function beginStretch(server: number): () => Stretch {
  const now = () => ({
    wall: performance.now() / 1000,
    server: processorSeconds(server),
    children: childrenOf(server).reduce((sum, child) => sum + processorSeconds(child), 0),
    busy: busySeconds(),
  });
  const from = now();
  return () => {
    const to = now();
    const all = (to.wall - from.wall) * availableParallelism();
    const [answers, training] = [(to.server - from.server) / all, (to.children - from.children) / all];
    return { answers, training, others: Math.max(0, (to.busy - from.busy) / all - answers - training) };
  };
}

const percentile = (times: readonly number[], share: number): number =>
  [...times].sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(share * times.length))]!;
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const mib = (bytes: number): string => `${Math.round(bytes / 2 ** 20)} MiB`;

try {
  const model = join(folder, BASE);
  mkdirSync(model);
  writeTinyModel(model, {
    num_hidden_layers: Number(values.layers),
    hidden_size: hidden,
    head_dim: 64,
    num_attention_heads: hidden / 64,
    num_key_value_heads: hidden / 192,
    intermediate_size: Math.ceil((hidden * 8) / 3 / 64) * 64,
    max_position_embeddings: 1024,
  });
  const { box, child } = await startServerProcess(
    join(folder, "home"),
    model,
    "--memory",
    values.memory,
    "--threads",
    values.threads,
  );
  const limit = (parseSize(values.memory) as { bytes: number }).bytes;
  let most = 0;
  const sampling = setInterval(() => (most = Math.max(most, treeBytes(child.pid))), 200);
  const first = async (name: string): Promise<number> => {
    const begin = performance.now();
    const messages = [{ role: "user" as const, content: `Define water ${Math.random()}.` }];
    const stream = await box.client.chat.completions.create({ model: name, messages, max_tokens: 8, stream: true });
    let at: number | null = null;
    for await (const { choices } of stream) if (choices[0]?.delta.content) at ??= performance.now();
    return (at ?? performance.now()) - begin;
  };
  /** Seconds to first tokens: of so many answers, and more while something is not done. */
  const answers = async (count: number, isDone = () => true): Promise<number[]> => {
    const times: number[] = [];
    while (times.length < count || !isDone()) {
      times.push(await first(BASE));
      await Bun.sleep(Number(values.pause));
    }
    return times;
  };
  await first(BASE);
  const quiet = beginStretch(child.pid);
  const idle = await answers(Number(values.answers));
  const { others: noise } = quiet();
  const training = await box.upload(chats());
  const job = await box.create({
    training_file: training,
    remat: {
      ...QUICK,
      sequence_length: Number(values.sequence),
      threads: Number(values.threads),
      steps: Number(values.steps),
      gradient_accumulation: 4,
    },
  });
  const run = join(folder, "home/runs", job.id);
  const steps = () => readMetrics(run).filter(({ type }) => type === "step");
  /** Tokens per second of the steps that begin and end while a function goes on, and what the machine did meanwhile. */
  const during = async (act: () => Promise<unknown>) => {
    // The step under way belongs to neither.
    const from = steps().length + 1;
    const end = beginStretch(child.pid);
    await act();
    const stretch = end();
    const timed = steps().slice(from);
    const sum = (of: (step: (typeof timed)[number]) => number) => timed.reduce((total, step) => total + of(step), 0);
    return { ...stretch, rate: sum(({ tokens }) => Number(tokens)) / sum(({ seconds }) => Number(seconds)), steps: timed.length };
  };
  const reach = (count: number) => box.until(job.id, () => steps().length >= count);
  await reach(4);
  const timed = Number(values.timed);
  const alone = await during(() => reach(4 + timed));
  let busy: number[] = [];
  const end = Math.min(Number(values.steps), steps().length + 1 + timed);
  const beside = await during(async () => (busy = await answers(Number(values.answers), () => steps().length >= end)));
  const isTraining = (await box.client.fineTuning.jobs.retrieve(job.id)).finished_at === null;
  const done = await box.until(job.id);
  if (done.status !== "succeeded") throw new Error(JSON.stringify(done.error));
  const fresh = await first(done.fine_tuned_model!);
  clearInterval(sampling);
  console.log(`memory: at most ${mib(most)} of ${values.memory} (${((100 * most) / limit).toFixed(1)} %)`);
  for (const [name, times] of [
    ["idle", idle],
    [isTraining ? "while a job trains" : "while a job trained (it ended before)", busy],
  ] as const)
    console.log(
      `first token, ${name}: median ${percentile(times, 0.5).toFixed(0)} ms, p95 ${percentile(times, 0.95).toFixed(0)} ms`,
    );
  const wanted = 0.85 * (1 - beside.answers);
  console.log(
    `training alone: ${alone.rate.toFixed(0)} tokens/s in ${alone.steps} steps (processors: training ${percent(alone.training)}, others ${percent(alone.others)})`,
  );
  console.log(
    `training beside answers: ${beside.rate.toFixed(0)} tokens/s in ${beside.steps} steps (processors: training ${percent(beside.training)}, answers ${percent(beside.answers)}, others ${percent(beside.others)}): ` +
      `${percent(beside.rate / alone.rate)} of the rate alone, wanted ${percent(wanted)}`,
  );
  const ratio = percentile(busy, 0.95) / percentile(idle, 0.95);
  console.log(`first token, p95 while a job trains over idle: ${ratio.toFixed(2)} (wanted 1.5)`);
  console.log(`noise: others took ${percent(noise)} of the processors while there were answers alone`);
  console.log(`first answer of the new model: ${fresh.toFixed(0)} ms`);
  child.kill("SIGTERM");
  await child.exited;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
