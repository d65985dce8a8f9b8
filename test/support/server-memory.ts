import { mkdirSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { parseSize } from "../../src/base/bytes.ts";
import { lockHolder } from "../../src/train/run/lock.ts";
import { BASE } from "./box.ts";
import { writeTinyModel } from "./cli.ts";
import { signal, slowed, treeBytes } from "./process-tree.ts";
import { bitsOf, startServerProcess } from "./server-kills.ts";

export interface MemoryReport {
  /** Bytes: the limit, and the most that server and jobs have held together. */
  readonly limit: number;
  readonly most: number;
  /** Limits of the first job in their order, in bytes. */
  readonly limits: readonly number[];
  /** True if losses and weights are those of a job that nothing disturbed. */
  readonly hasSameBits: boolean;
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

/** Describes what is trained and loaded. */
export interface MemorySize {
  /** Layers of the model that is trained, examples of a step, and steps of its job. */
  readonly layers: number;
  readonly batch: number;
  readonly steps: number;
  /** Steps of a second job, which trains at the same time; 0: there is none. */
  readonly second: number;
  /** Width of the other model. */
  readonly other: number;
  /** The job is trained again, undisturbed. */
  readonly compares: boolean;
}

/** A base model that nobody trains. */
const OTHER = "Other";

/**
 * Trains on a server while a second job comes and ends, base models are loaded and adapters answer, and compares with a job that nothing
 * disturbs.
 * @param folder one that is empty or not there
 */
export async function trainBesideAnswers(folder: string, memory: string, size: MemorySize): Promise<MemoryReport> {
  const [model, other] = [BASE, OTHER].map((name) => join(folder, name)) as [string, string];
  for (const each of [model, other]) mkdirSync(each, { recursive: true });
  writeTinyModel(model, {
    num_hidden_layers: size.layers,
    hidden_size: 32,
    head_dim: 8,
    num_attention_heads: 4,
    num_key_value_heads: 1,
    intermediate_size: 64,
    max_position_embeddings: 512,
  });
  writeTinyModel(other, {
    num_hidden_layers: 8,
    hidden_size: size.other,
    head_dim: size.other / 12,
    num_attention_heads: 12,
    num_key_value_heads: 4,
    intermediate_size: 3 * size.other,
  });
  const home = join(folder, "home");
  // Without `nice` jobs train at this process's priority: at the lowest they would hardly run beside other tests.
  const env = { ...process.env, PATH: "" };
  const more = ["--model", other, "--memory", memory, "--parallel", "2"];
  const { box, child } = await startServerProcess(home, model, more, env);
  let most = 0;
  const sampling = setInterval(() => (most = Math.max(most, treeBytes(child.pid))), 100);
  /** Asks a model, again while jobs have not given way in time: on a loaded machine a micro-batch takes long. */
  const answer = async (name: string) => {
    const messages = [{ role: "user" as const, content: "Define water." }];
    for (;;) {
      try {
        await box.client.chat.completions.create({ model: name, messages, max_tokens: 4 });
        return;
      } catch (error) {
        if (!(error instanceof OpenAI.InternalServerError && error.status === 503)) throw error;
        await Bun.sleep(100);
      }
    }
  };
  const limitsOf = async (id: string): Promise<number[]> => {
    const limits: number[] = [];
    for await (const { data } of box.client.fineTuning.jobs.listEvents(id, { limit: 1000 })) {
      const { limit } = (data ?? {}) as { limit?: number };
      if (limit !== undefined) limits.unshift(limit);
    }
    return limits;
  };
  const hasBegun = (job: object) => (job as { remat: { loss: number | null } }).remat.loss !== null;
  try {
    const training_file = await box.upload(`${TEXTS}\n`);
    // Many activations and few weights: what a schedule can change is most of what a job takes.
    const settings = { sequence_length: 512, batch_size: size.batch, threads: 1, sample: false, dropout: 0.1, save_minutes: 0 };
    const create = (steps: number) =>
      box.create({ training_file, seed: 5, remat: { ...settings, steps, save_every: Math.ceil(steps / 2) } });
    /** The model of a job, when it has ended. */
    const modelOf = async (id: string): Promise<string> => {
      const { status, error, fine_tuned_model } = await box.until(id);
      if (status !== "succeeded") throw new Error(`${id} has ${status}: ${JSON.stringify(error)}`);
      return fine_tuned_model!;
    };
    const disturbed = await create(size.steps);
    await box.until(disturbed.id, hasBegun);
    const second = size.second > 0 ? await create(size.second) : null;
    if (second) {
      const trainerOf = (id: string): number | null => lockHolder(join(home, "runs", id));
      const first = trainerOf(disturbed.id)!;
      await slowed([first], box.until(second.id, hasBegun));
      const other = trainerOf(second.id)!;
      await slowed([first, other], answer(OTHER));
      signal(other, "SIGCONT");
      const model = await modelOf(second.id);
      const lowest = (await limitsOf(disturbed.id)).at(-1)!;
      await slowed([first], answer(model));
      while (trainerOf(disturbed.id) !== null && (await limitsOf(disturbed.id)).at(-1)! <= lowest)
        await slowed([first], Bun.sleep(500));
      signal(first, "SIGCONT");
    } else await answer(OTHER);
    await answer(BASE);
    await answer(await modelOf(disturbed.id));
    const alone = size.compares ? await create(size.steps) : disturbed;
    await modelOf(alone.id);
    const [bits, expected] = [disturbed, alone].map(({ id }) => bitsOf(join(home, "runs", id)));
    const hasSameBits = bits === expected;
    const limits = await limitsOf(disturbed.id);
    return { limit: (parseSize(memory) as { bytes: number }).bytes, most, limits, hasSameBits };
  } finally {
    clearInterval(sampling);
    child.kill("SIGTERM");
    await child.exited;
  }
}
