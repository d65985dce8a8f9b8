import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/random.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const data = join(folder, "data.jsonl");
const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night", "horse", "lamp", "river", "bird"];
writeFileSync(
  data,
  words.map((word) => `${JSON.stringify({ prompt: `Define ${word}. `, completion: `A thing called ${word}.` })}\n`).join(""),
);
writeFileSync(join(folder, "valid.jsonl"), `${JSON.stringify({ prompt: "Define gold. ", completion: "A metal." })}\n`);

const STEPS = 40;
const main = join(import.meta.dir, "../../src/cli/main.ts");
const settings =
  "--threads 1 --sequence-length 32 --learning-rate 1e-2 --dropout 0.1 --rank 2 --eval-every 7 --save-every 1 --no-sample --resume";
const args = (output: string) =>
  ["train", "--model", model, "--data", data, "--output", output, "--steps", String(STEPS)].concat(settings.split(" "));

/** What must not depend on interruptions: losses of steps and evaluations. */
function losses(output: string): unknown[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  return lines.map((line) => {
    const { type, step, loss, gradientNorm } = JSON.parse(line) as Record<string, unknown>;
    return { type, step, loss, gradientNorm };
  });
}

const weights = (output: string) => readFileSync(join(output, "adapter_model.safetensors"));

async function uninterrupted(): Promise<string> {
  const output = join(folder, "whole");
  if (!existsSync(output)) expect(await remat(args(output))).toMatchObject({ code: 0 });
  return output;
}

describe("resume", () => {
  test("killed at 50 random instants, the losses and the adapter are the uninterrupted run's, bit for bit", async () => {
    const whole = await uninterrupted();
    const random = createRandom(17, "kills");
    const progressOf = (output: string) =>
      existsSync(join(output, "checkpoints")) ? readdirSync(join(output, "checkpoints")).sort().join() : "";
    let output = "";
    let runs = 0;
    let restarts = 0;
    for (let kills = 0; kills < 50;) {
      // A new run when the last one came through.
      if (output === "" || existsSync(join(output, "adapter_config.json"))) output = join(folder, `killed-${runs++}`);
      const before = progressOf(output);
      const child = Bun.spawn([process.execPath, main, ...args(output)], { stdout: "ignore", stderr: "ignore" });
      const exit = child.exited.then(() => "exited" as const);
      // One kill in five at any time from the start of the process, the others while steps and checkpoints are under way.
      let state: "running" | "exited" = "running";
      if (kills % 5 > 0)
        while (state === "running" && progressOf(output) === before)
          state = await Promise.race([exit, Bun.sleep(2).then(() => "running" as const)]);
      const delay = (kills % 5 > 0 ? 40 : 600) * random.uniform();
      if (state === "running") state = await Promise.race([exit, Bun.sleep(delay).then(() => "running" as const)]);
      if (state === "exited") {
        expect(await child.exited).toBe(0);
        expect(losses(output)).toEqual(losses(whole));
        expect(weights(output)).toEqual(weights(whole));
        continue;
      }
      child.kill("SIGKILL");
      await child.exited;
      kills++;
      if (progressOf(output) !== before) restarts++;
    }
    const { code } = await remat(args(output));
    expect(code).toBe(0);
    expect(losses(output)).toEqual(losses(whole));
    expect(weights(output)).toEqual(weights(whole));
    // Most kills hit a run that had moved on since it was started.
    expect(restarts).toBeGreaterThan(30);
  }, 240_000);

  test("a damaged file of the newest checkpoint: the one before it is used, with a word about it", async () => {
    const whole = await uninterrupted();
    const newest = readdirSync(join(whole, "checkpoints")).sort().at(-1)!;
    const output = copyFolder(whole, join(folder, "cut"));
    const path = join(output, "checkpoints", newest, "state.safetensors");
    truncateSync(path, statSync(path).size - 1);
    const { code, stderr } = await remat(args(output));
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringMatching(/damaged and passed over/) });
    expect(stderr).toMatch(new RegExp(`after step ${STEPS - 1}`));
    expect(losses(output)).toEqual(losses(whole));
    expect(weights(output)).toEqual(weights(whole));
  });

  test("other settings are refused; nothing is changed", async () => {
    const output = copyFolder(await uninterrupted(), join(folder, "other"));
    const before = readdirSync(join(output, "checkpoints"));
    const { code, stderr } = await remat([...args(output), "--learning-rate", "2e-2"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/learningRate 0\.01.*learningRate 0\.02/s);
    expect(readdirSync(join(output, "checkpoints"))).toEqual(before);
  });

  test("keeps the newest checkpoints and the best one", async () => {
    const kept = readdirSync(join(await uninterrupted(), "checkpoints")).sort();
    expect(kept.slice(-2)).toEqual(["step-00000039", "step-00000040"]);
    expect(kept.length).toBeLessThanOrEqual(3);
  });

  test("stops when the held-out loss has not fallen for as many evaluations as --patience says", async () => {
    const output = join(folder, "patient");
    const { code } = await remat([...args(output), "--learning-rate", "1", "--eval-every", "1", "--patience", "3"]);
    expect(code).toBe(0);
    const evaluations = losses(output).filter((record) => (record as { type: string }).type === "evaluation") as {
      loss: number;
    }[];
    const best = evaluations.findIndex(({ loss }) => loss === Math.min(...evaluations.map((record) => record.loss)));
    expect(evaluations.length - 1 - best).toBe(3);
  });
});
