import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { join } from "node:path";
import { programCommand } from "../../src/base/process/program.ts";
import { CHILD, type FromChild, type ToChild } from "../../src/train/apart/train-apart.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, root, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "tiny"), { num_hidden_layers: 1 });
const data = join(folder, "data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water"].map((word) => `${JSON.stringify({ text: `A ${word} and a ${word}.` })}\n`).join(""),
);

const settings = {
  model,
  data,
  sequenceLength: 64,
  threads: 1,
  sample: false,
  steps: 100_000,
  saveEvery: 100_000,
  evalEvery: 100_000,
};
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"] as const;

/** The steps that a run folder has checkpoints of. */
const saved = (output: string) => readdirSync(join(output, "checkpoints")).filter((name) => name.startsWith("step-"));

describe("a signal during train saves a checkpoint and stops it; the exit code is 128 with the signal's number", () => {
  for (const signal of SIGNALS) {
    const code = 128 + constants.signals[signal];

    test(`${signal}: ${code}, and --resume goes on`, async () => {
      const output = join(folder, signal);
      const flags = ["--model", model, "--data", data, "--sequence-length", "64", "--threads", "1", "--no-sample"];
      const command = [process.execPath, join(root, "src/cli/main.ts"), "train", ...flags, "--save-every", "100000"];
      const child = Bun.spawn([...command, "--steps", "100000", "--output", output, "--json"], {
        stdout: "pipe",
        stderr: "pipe",
      });
      let text = "";
      for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
        if (!text.includes('"type":"step"') && (text + piece).includes('"type":"step"')) child.kill(signal);
        text += piece;
      }
      expect(await child.exited).toBe(code);
      expect(await new Response(child.stderr).text()).toBe("");
      expect(text).toContain('"reason":"interrupted"');
      expect(saved(output).length).toBe(1);
      expect(existsSync(join(output, "adapter_model.safetensors"))).toBe(true);
      const step = Number(saved(output)[0]!.slice("step-".length));
      const resumed = await remat(["train", output, "--resume", "--steps", String(step + 1), "--json"]);
      expect(resumed.code).toBe(0);
      expect(resumed.stdout).toContain(`{"type":"resume","step":${step}`);
    });

    test(`${signal} to the process that trains for another one: ${code}, and the other one gets the result`, async () => {
      const output = join(folder, `apart-${signal}`);
      const config = trainConfigSchema.parse({ ...settings, output });
      const messages: FromChild[] = [];
      const child = Bun.spawn([...programCommand(), CHILD], {
        serialization: "advanced",
        stdio: ["ignore", "ignore", "pipe"],
        ipc(message: FromChild) {
          messages.push(message);
          if (message.type === "ready") child.send({ type: "run", config, given: Object.keys(settings) } satisfies ToChild);
          if (message.type === "event" && message.event.type === "step" && message.event.step === 1) child.kill(signal);
        },
      });
      expect(await child.exited).toBe(code);
      expect(messages.at(-1)).toMatchObject({ type: "result", result: { reason: "interrupted" } });
      expect(saved(output).length).toBe(1);
    });
  }
});
