import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseSize } from "../../src/base/bytes.ts";
import { BASE } from "./box.ts";
import { writeTinyModel } from "./cli.ts";
import { treeBytes } from "./process-tree.ts";
import { bitsOf, startServerProcess } from "./server-kills.ts";

export interface MemoryReport {
  /** Bytes: the limit, and the most that server and jobs have held together. */
  readonly limit: number;
  readonly most: number;
  /** Limits of the first job in their order, in bytes. */
  readonly limits: readonly number[];
  /** Whatever failed, or came out as other bits than those of a job that nothing disturbed. */
  readonly problems: readonly string[];
}

/** Some texts of a few hundred tokens. */
const TEXTS = Array.from({ length: 32 }, (_, i) =>
  JSON.stringify({
    messages: [
      { role: "user", content: `Tell of ${i}.` },
      { role: "assistant", content: `${i} is followed by ${i + 1}, and so on. `.repeat(25) },
    ],
  }),
).join("\n");

/** Many activations and few weights: what its schedule can change is most of what it takes. */
const JOB = {
  seed: 5,
  remat: {
    sequence_length: 512,
    batch_size: 8,
    threads: 1,
    sample: false,
    steps: 12,
    dropout: 0.1,
    save_every: 6,
    save_minutes: 0,
  },
};

/** A base model that nobody trains, with 100 MiB of weights. */
const OTHER = "Other";

/**
 * Trains on a server while another base model is loaded, a second job comes and ends, and adapters answer, and compares with a job that
 * nothing disturbs.
 * @param folder an empty one
 */
export async function trainBesideAnswers(folder: string, memory: string): Promise<MemoryReport> {
  const [model, other] = [BASE, OTHER].map((name) => join(folder, name)) as [string, string];
  for (const each of [model, other]) mkdirSync(each, { recursive: true });
  writeTinyModel(model, {
    num_hidden_layers: 24,
    hidden_size: 32,
    head_dim: 8,
    num_attention_heads: 4,
    num_key_value_heads: 1,
    intermediate_size: 64,
    max_position_embeddings: 512,
  });
  writeTinyModel(other, {
    num_hidden_layers: 8,
    hidden_size: 768,
    head_dim: 64,
    num_attention_heads: 12,
    num_key_value_heads: 4,
    intermediate_size: 2048,
  });
  const home = join(folder, "home");
  const problems: string[] = [];
  const { box, child } = await startServerProcess(home, model, "--model", other, "--memory", memory, "--parallel", "2");
  let most = 0;
  const sampling = setInterval(() => (most = Math.max(most, treeBytes(child.pid))), 100);
  const answer = async (name: string) => {
    const messages = [{ role: "user" as const, content: "Define water." }];
    await box.client.chat.completions.create({ model: name, messages, max_tokens: 4 });
  };
  const hasBegun = (job: object) => (job as { remat: { loss: number | null } }).remat.loss !== null;
  try {
    const training_file = await box.upload(`${TEXTS}\n`);
    const create = (more: object = {}) => box.create({ training_file, ...JOB, ...more });
    const disturbed = await create();
    await box.until(disturbed.id, hasBegun);
    const second = await create({ remat: { ...JOB.remat, steps: 5 } });
    await box.until(second.id, hasBegun);
    // Both base models are loaded when they are asked.
    await answer(OTHER);
    await answer(BASE);
    const done = await box.until(second.id);
    await answer(done.fine_tuned_model!);
    const ended = await box.until(disturbed.id);
    for (const job of [done, ended]) if (job.status !== "succeeded") problems.push(`${job.id}: ${JSON.stringify(job.error)}`);
    await answer(ended.fine_tuned_model!);
    const alone = await create();
    await box.until(alone.id);
    const [bits, expected] = [disturbed, alone].map(({ id }) => bitsOf(join(home, "runs", id)));
    if (bits !== expected) problems.push("the disturbed job has other bits");
    const limits: number[] = [];
    for await (const { data } of box.client.fineTuning.jobs.listEvents(disturbed.id, { limit: 1000 })) {
      const { limit } = (data ?? {}) as { limit?: number };
      if (limit !== undefined) limits.unshift(limit);
    }
    return { limit: (parseSize(memory) as { bytes: number }).bytes, most, limits, problems };
  } catch (error) {
    throw new Error(`${await tailOf(child)}`, { cause: error });
  } finally {
    clearInterval(sampling);
    child.kill("SIGTERM");
    await child.exited;
  }
}

async function tailOf(child: Bun.Subprocess<"ignore", "pipe", "pipe">): Promise<string> {
  child.kill("SIGTERM");
  return (await new Response(child.stderr).text()).slice(-1000);
}
