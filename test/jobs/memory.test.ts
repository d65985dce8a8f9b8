import { expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { writeTinyModel } from "../support/cli.ts";
import { treeBytes } from "../support/process-tree.ts";
import { startServerProcess } from "../support/server-kills.ts";
import { trainBesideAnswers } from "../support/server-memory.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(600_000);

const folder = temporaryFolder();

(process.platform === "linux" ? slowTest : test.skip)(
  "server and job stay within the limit while base models are loaded and an adapter answers",
  async () => {
    const size = { layers: 2, batch: 1, steps: 4, second: 0, other: 96, compares: false };
    const { limit, most } = await trainBesideAnswers(join(folder, "small"), "640MiB", size);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(1.02 * limit);
  },
);

slowTest("a model that is larger than what is there for it answers and is trained all the same", async () => {
  const model = join(folder, "wide");
  mkdirSync(model);
  const sizes = { num_hidden_layers: 16, hidden_size: 768, head_dim: 64, num_attention_heads: 12, num_key_value_heads: 4 };
  writeTinyModel(model, { ...sizes, intermediate_size: 2304, max_position_embeddings: 128 });
  const { box, child } = await startServerProcess(join(folder, "streamed"), model, ["--memory", "640MiB", "--name", "wide"], {
    ...process.env,
    PATH: "",
  });
  let most = 0;
  const sampling = setInterval(() => (most = Math.max(most, treeBytes(child.pid))), 50);
  const answer = async (name: string) => {
    const messages = [{ role: "user" as const, content: "Define water." }];
    const { choices } = await box.client.chat.completions.create({ model: name, messages, max_tokens: 2, temperature: 0 });
    expect(choices[0]!.message.content).not.toBeNull();
  };
  try {
    await answer("wide");
    const line = (i: number) =>
      JSON.stringify({
        messages: [
          { role: "user", content: `Tell ${i}.` },
          { role: "assistant", content: `It is ${i}.` },
        ],
      });
    const training_file = await box.upload(`${Array.from({ length: 8 }, (_, i) => line(i)).join("\n")}\n`);
    const job = await box.create({
      model: "wide",
      training_file,
      remat: { steps: 2, sequence_length: 64, threads: 1, sample: false },
    } as never);
    const { status, error, fine_tuned_model: tuned } = await box.until(job.id);
    expect([status, error?.message ?? null]).toEqual(["succeeded", null]);
    await answer(tuned!);
    expect(most).toBeLessThanOrEqual(1.02 * 640 * 2 ** 20);
  } finally {
    clearInterval(sampling);
    child.kill("SIGTERM");
    await child.exited;
  }
});

slowTest(
  "so do a server and two jobs for which there is not enough: the limit of the first falls and rises, and no bit changes",
  async () => {
    const size = { layers: 24, batch: 8, steps: 16, second: 8, other: 768, compares: true };
    const { limit, most, limits, hasSameBits } = await trainBesideAnswers(join(folder, "large"), "1000MiB", size);
    expect(hasSameBits).toBe(true);
    expect(most).toBeLessThanOrEqual(1.02 * limit);
    const lowest = limits.indexOf(Math.min(...limits));
    expect(limits[lowest]!).toBeLessThan(0.9 * limits[0]!);
    expect(limits.at(-1)!).toBeGreaterThan(1.1 * limits[lowest]!);
  },
);
