import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parseSize } from "../src/base/bytes.ts";
import { BASE, chats, QUICK } from "../test/support/box.ts";
import { writeTinyModel } from "../test/support/cli.ts";
import { childrenOf, processorSeconds, treeBytes } from "../test/support/process-tree.ts";
import { type MetricsLine, readMetrics } from "../src/jobs/metrics.ts";
import { startServerProcess } from "../test/support/server-kills.ts";

/**
 * Trains on a server while it answers, on a model of some size, and measures what the two do to each other:
 * memory of the whole process tree (sum of PSS) against `--memory`, the time to the first token with the job stopped and while it trains, the
 * rate of training alone and beside answers against the share of the processors that answers take, and the time from a job's end to the first
 * answer of its model. The share of the processors that anything else takes is the bench's noise.
 *
 *     bun bench/server-box.ts --layers 12 --hidden 576 --memory 1GiB
 */
const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "12" },
    hidden: { type: "string", default: "576" },
    memory: { type: "string", default: "1GiB" },
    /** Answers of a round with the job stopped, and at least so many while it trains. */
    answers: { type: "string", default: "10" },
    rounds: { type: "string", default: "12" },
    /** Steps of a round that are timed without answers, and at least so many beside them. */
    timed: { type: "string", default: "6" },
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

interface TimedStretch extends Stretch {
  readonly steps: readonly MetricsLine[];
}

/** Steps in front of those that are timed: kernels are compiled. */
const WARM_UP = 4;

function meanOf(stretches: readonly Stretch[]): Stretch {
  const mean = (of: (stretch: Stretch) => number) => stretches.reduce((sum, each) => sum + of(each), 0) / stretches.length;
  return { answers: mean((each) => each.answers), training: mean((each) => each.training), others: mean((each) => each.others) };
}

/** Tokens per second of all steps. */
function rateOf(stretches: readonly TimedStretch[]): number {
  const sum = (key: string) => stretches.flatMap(({ steps }) => steps).reduce((total, step) => total + Number(step[key]), 0);
  return sum("tokens") / sum("seconds");
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
  const more = ["--memory", values.memory, "--threads", values.threads];
  const { box, child } = await startServerProcess(join(folder, "home"), model, more);
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
  /** Milliseconds to first tokens: of so many answers, and more while something is not done. */
  const answers = async (count: number, isDone = () => true): Promise<number[]> => {
    const times: number[] = [];
    while (times.length < count || !isDone()) {
      times.push(await first(BASE));
      await Bun.sleep(Number(values.pause));
    }
    return times;
  };
  const [rounds, count, timed] = [values.rounds, values.answers, values.timed].map(Number) as [number, number, number];
  const all = WARM_UP + rounds * 2 * (timed + 2) + WARM_UP;
  await first(BASE);
  const job = await box.create({
    training_file: await box.upload(chats()),
    remat: {
      ...QUICK,
      sequence_length: Number(values.sequence),
      threads: Number(values.threads),
      steps: all,
      gradient_accumulation: 4,
    },
  });
  const run = join(folder, "home/runs", job.id);
  const steps = () => readMetrics(run).filter(({ type }) => type === "step");
  const have = (wanted: number) => steps().length >= Math.min(wanted, all);
  const reach = async (wanted: number) => {
    while (!have(wanted)) await Bun.sleep(50);
  };
  /** Steps that begin and end while a function goes on, and what the machine did meanwhile. */
  const during = async (act: (end: number) => Promise<unknown>) => {
    // The step under way belongs to neither.
    const from = steps().length + 1;
    const end = beginStretch(child.pid);
    await act(from + timed);
    return { ...end(), steps: steps().slice(from) };
  };
  await reach(WARM_UP);
  const [idle, busy]: [number[], number[]] = [[], []];
  const stretches = { stopped: [] as Stretch[], alone: [] as TimedStretch[], beside: [] as TimedStretch[] };
  // By turns, since whatever else the machine does changes with time.
  for (let round = 0; round < rounds; round++) {
    const [trainer] = childrenOf(child.pid);
    if (trainer === undefined) throw new Error("the job ended before its time");
    process.kill(trainer, "SIGSTOP");
    const end = beginStretch(child.pid);
    idle.push(...(await answers(count)));
    stretches.stopped.push(end());
    process.kill(trainer, "SIGCONT");
    stretches.alone.push(await during(reach));
    stretches.beside.push(await during(async (end) => busy.push(...(await answers(count, () => have(end))))));
  }
  const done = await box.until(job.id);
  if (done.status !== "succeeded") throw new Error(JSON.stringify(done.error));
  const fresh = await first(done.fine_tuned_model!);
  clearInterval(sampling);
  console.log(`memory: at most ${mib(most)} of ${values.memory} (${((100 * most) / limit).toFixed(1)} %)`);
  for (const [name, times] of [
    ["with the job stopped", idle],
    ["while it trains", busy],
  ] as const)
    console.log(
      `first token, ${name}: median ${percentile(times, 0.5).toFixed(0)} ms, p95 ${percentile(times, 0.95).toFixed(0)} ms of ${times.length}`,
    );
  const ratio = (share: number) => (percentile(busy, share) / percentile(idle, share)).toFixed(2);
  console.log(`first token, while it trains over stopped: p95 ${ratio(0.95)} (wanted 1.5 at most), median ${ratio(0.5)}`);
  const [stopped, alone, beside] = [meanOf(stretches.stopped), meanOf(stretches.alone), meanOf(stretches.beside)];
  const rates = [rateOf(stretches.alone), rateOf(stretches.beside)] as const;
  for (const [name, { answers, training, others }, rate] of [
    ["alone", alone, rates[0]],
    ["beside answers", beside, rates[1]],
  ] as const)
    console.log(
      `training ${name}: ${rate.toFixed(1)} tokens/s; of the processors training took ${percent(training)}, answers ${percent(answers)}, others ${percent(others)}`,
    );
  console.log(
    `training beside answers over alone: ${percent(rates[1] / rates[0])}, wanted ${percent(0.85 * (1 - beside.answers))}; its processor time ${percent(beside.training / alone.training)}`,
  );
  // Where others are at work this says what the rate alone does not: they too take the time that training had.
  const left = beside.training / (1 - beside.answers - beside.others);
  const work = rates[1] / beside.training / (rates[0] / alone.training);
  console.log(
    `of the processor time that answers and others left, training took ${percent(left)}, and did ${percent(work)} of what it does alone with as much`,
  );
  console.log(`noise: others took ${percent(stopped.others)} of the processors while the job was stopped`);
  console.log(`first answer of the new model: ${fresh.toFixed(0)} ms`);
  for (const [what, holds] of [
    ["the processes stay within the limit and 2 %", most <= 1.02 * limit],
    [
      "p95 of the first token is at most 1.5 times that with the job stopped",
      percentile(busy, 0.95) <= 1.5 * percentile(idle, 0.95),
    ],
    ["training keeps 0.85 of what answers leave it", rates[1] / rates[0] >= 0.85 * (1 - beside.answers)],
    ["a new model answers within a second", fresh <= 1000],
  ] as const) {
    console.log(`${holds ? "ok  " : "MISS"} ${what}`);
    if (!holds) process.exitCode = 1;
  }
  child.kill("SIGTERM");
  await child.exited;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
