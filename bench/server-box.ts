import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { parseSize } from "../src/base/bytes.ts";
import { BASE, chats, QUICK } from "../test/support/box.ts";
import { writeTinyModel } from "../test/support/cli.ts";
import { startServerProcess } from "../test/support/server-kills.ts";

/**
 * Trains on a server while it answers, on a model of some size, and measures what the two do to each other:
 * memory of the whole process tree (sum of PSS) against `--memory`, the time to the first token idle and while a job trains, and from a job's end
 * to the first answer of its model.
 *
 *     bun bench/server-box.ts --layers 12 --hidden 576 --memory 1GiB --answers 20
 */
const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "12" },
    hidden: { type: "string", default: "576" },
    memory: { type: "string", default: "1GiB" },
    answers: { type: "string", default: "20" },
    steps: { type: "string", default: "60" },
    sequence: { type: "string", default: "32" },
    threads: { type: "string", default: "2" },
  },
});
const hidden = Number(values.hidden);
const folder = mkdtempSync(join(tmpdir(), "remat-server-box-"));

/** Bytes that a process and its children hold, shared ones shared out. */
function treeBytes(pid: number): number {
  try {
    const own = 1024 * Number(/^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0);
    const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
      readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").split(" ").filter(Boolean),
    );
    return own + children.reduce((sum, child) => sum + treeBytes(Number(child)), 0);
  } catch {
    // It has ended in the meantime.
    return 0;
  }
}

const percentile = (times: readonly number[], share: number): number =>
  [...times].sort((a, b) => a - b)[Math.min(times.length - 1, Math.floor(share * times.length))]!;
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
  const answers = async (count: number): Promise<number[]> => {
    const times: number[] = [];
    for (let i = 0; i < count; i++) times.push(await first(BASE));
    return times;
  };
  await first(BASE);
  const idle = await answers(Number(values.answers));
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
  await box.until(job.id, (each) => (each as unknown as { remat: { loss: number | null } }).remat.loss !== null);
  const busy = await answers(Number(values.answers));
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
  console.log(`first answer of the new model: ${fresh.toFixed(0)} ms`);
  child.kill("SIGTERM");
  await child.exited;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
