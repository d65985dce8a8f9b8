import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, remat, writeTinyModel } from "../support/cli.ts";
import { SLOW } from "../support/slow.ts";

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

/** Returns what must not depend on interruptions: losses of steps and evaluations. */
function losses(output: string): unknown[] {
  const lines = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
  return lines.map((line) => {
    const { type, step, loss, gradientNorm } = JSON.parse(line) as Record<string, unknown>;
    return { type, step, loss, gradientNorm };
  });
}

/** Names and contents of all files. */
function filesOf(output: string): Record<string, string> {
  const names = readdirSync(output, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(join(output, name)).isFile(),
  );
  return Object.fromEntries(names.map((name) => [name, Bun.hash(readFileSync(join(output, name))).toString()]));
}

const weights = (output: string) => readFileSync(join(output, "adapter_model.safetensors"));

async function uninterrupted(): Promise<string> {
  const output = join(folder, "whole");
  if (!existsSync(output)) expect(await remat(args(output))).toMatchObject({ code: 0 });
  return output;
}

describe("resume", () => {
  const KILLS = SLOW ? 12 : 1;
  test(`killed at ${KILLS} random instants, the losses and the adapter are the uninterrupted run's, bit for bit`, async () => {
    const whole = await uninterrupted();
    const random = createRandom(17, "kills");
    // Whole checkpoints: of the others some are removed at the start, and come again under the same names.
    const progressOf = (output: string) =>
      existsSync(join(output, "checkpoints"))
        ? readdirSync(join(output, "checkpoints"))
            .filter((name) => /^step-\d+$/.test(name))
            .sort()
            .join()
        : "";
    let output = "";
    let runs = 0;
    let restarts = 0;
    for (let kills = 0; kills < KILLS;) {
      // A new run when the last one came through.
      if (output === "" || existsSync(join(output, "adapter_config.json"))) output = join(folder, `killed-${runs++}`);
      const before = progressOf(output);
      const child = Bun.spawn([process.execPath, main, ...args(output)], { stdout: "ignore", stderr: "ignore" });
      const exit = child.exited.then(() => "exited" as const);
      // One kill in five at any time from the start of the process, the others while steps and checkpoints are under way.
      let state: "running" | "exited" = "running";
      if (kills % 5 < 4)
        while (state === "running" && progressOf(output) === before)
          state = await Promise.race([exit, Bun.sleep(2).then(() => "running" as const)]);
      const delay = (kills % 5 < 4 ? 40 : 600) * random.uniform();
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
    expect(restarts).toBeGreaterThan(0.6 * KILLS);
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

  test("other settings, and an end before the checkpoint, are refused; no file is changed", async () => {
    const output = copyFolder(await uninterrupted(), join(folder, "other"));
    const before = filesOf(output);
    const { code, stderr } = await remat([...args(output), "--learning-rate", "2e-2"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/learningRate 0\.01.*learningRate 0\.02/s);
    const shorter = await remat([...args(output), "--steps", "39"]);
    expect(shorter.code).toBe(2);
    expect(shorter.stderr).toMatch(/step-00000040 is past the end of this run, which is to have 39 steps/);
    expect(filesOf(output)).toEqual(before);
  });

  test("a finished run goes on to a later end: with a constant rate, as if it had been that long from the beginning", async () => {
    const constant = (output: string, steps: number) =>
      args(output).concat("--schedule", "constant", "--warmup", "0", "--save-every", "0", "--steps", String(steps));
    const [long, extended] = [join(folder, "long"), join(folder, "extended")];
    expect(await remat(constant(long, 14))).toMatchObject({ code: 0 });
    expect(await remat(constant(extended, 7))).toMatchObject({ code: 0 });
    // Nothing asked for checkpoints on the way: the end has one all the same.
    expect(readdirSync(join(extended, "checkpoints"))).toEqual(["step-00000007"]);
    const { code, stderr } = await remat(constant(extended, 14));
    expect({ code, stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringContaining(
        "it had steps 7 and has steps 14 now; from here on the learning rates are those of 14 steps",
      ),
    });
    expect(losses(extended)).toEqual(losses(long));
    expect(weights(extended)).toEqual(weights(long));
    const metrics = readFileSync(join(extended, "metrics.jsonl"), "utf8");
    const again = await remat(constant(extended, 14));
    expect({ code: again.code, stderr: again.stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringContaining("all 14 steps of the run are done; more --steps or --epochs go on from here"),
    });
    expect(readFileSync(join(extended, "metrics.jsonl"), "utf8")).toBe(metrics);
    expect(weights(extended)).toEqual(weights(long));
  });

  test("no room for a checkpoint: an error on the way; at the end a warning, and what was trained is exported", async () => {
    // Files of at most 250 KiB: an adapter of rank 64 has 105, its checkpoint three times as much.
    const command = ["bash", "-c", 'ulimit -f 250; trap "" XFSZ; exec "$@"', "bash", process.execPath, main];
    const run = async (name: string, every: number) => {
      const large = [...args(join(folder, name)), "--rank", "64", "--steps", "2", "--save-every", String(every)];
      const child = Bun.spawn([...command, ...large], { stdout: "ignore", stderr: "pipe" });
      const stderr = await new Response(child.stderr).text();
      return { code: await child.exited, stderr, files: readdirSync(join(folder, name)) };
    };
    const onTheWay = await run("full-1", 1);
    expect(onTheWay).toMatchObject({ code: 2, stderr: expect.stringMatching(/\nremat: cannot write .*step-00000001/) });
    expect(onTheWay.files).not.toContain("adapter_config.json");
    const atTheEnd = await run("full-0", 0);
    expect(atTheEnd).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/\nthe run cannot go on from its end later: cannot write .*step-00000002.* limit allows\n/),
    });
    expect(atTheEnd.files).toContain("adapter_model.safetensors");
    expect(readdirSync(join(folder, "full-0", "checkpoints"))).toEqual([]);
  });

  test("Ctrl-C is heard during an evaluation; the resumed run makes it anew", async () => {
    const valid = join(folder, "many.jsonl");
    writeFileSync(valid, Array.from({ length: 5_000 }, (_, i) => JSON.stringify({ text: `Line ${i}.\n` })).join("\n"));
    const output = join(folder, "evaluating");
    const evaluating = [...args(output), "--steps", "2", "--valid", valid, "--sequence-length", "256"];
    const child = Bun.spawn([process.execPath, main, ...evaluating, "--eval-limit", "100000000"], {
      stdout: "ignore",
      stderr: "pipe",
    });
    const stderr = new Response(child.stderr).text();
    // The run folder's metrics are opened right before the first evaluation.
    while (!existsSync(join(output, "metrics.jsonl"))) await Bun.sleep(5);
    child.kill("SIGINT");
    expect(await child.exited).toBe(130);
    expect(await stderr).toMatch(/stopped\s+after step 0: interrupted/);
    expect(readFileSync(join(output, "metrics.jsonl"), "utf8")).toBe("");
    expect(readdirSync(join(output, "checkpoints"))).toEqual(["step-00000000"]);
    expect(await remat([...evaluating, "--eval-limit", "20000"])).toMatchObject({ code: 0 });
    const types = losses(output).map((record) => (record as { type: string }).type);
    expect(types).toEqual(["evaluation", "step", "step", "evaluation"]);
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

  test("a full run whose base model goes away is exported with its tokenizer; a run folder that goes away is told", async () => {
    const start = (name: string, base: string) => {
      const flags = ["--method", "full", "--steps", "100000", "--sequence-length", "32", "--threads", "1", "--no-sample"];
      const output = join(folder, name);
      const child = Bun.spawn([process.execPath, main, "train", "--model", base, "--data", data, "--output", output, ...flags], {
        stdout: "ignore",
        stderr: "pipe",
      });
      return { output, child, stderr: new Response(child.stderr).text() };
    };
    const underway = async (output: string) => {
      const path = join(output, "metrics.jsonl");
      while (!(existsSync(path) && readFileSync(path, "utf8").includes('"step":3'))) await Bun.sleep(5);
    };
    const base = copyFolder(model, join(folder, "base-that-goes"));
    const kept = start("kept", base);
    await underway(kept.output);
    rmSync(base, { recursive: true });
    kept.child.kill("SIGINT");
    expect(await kept.child.exited).toBe(130);
    const names = readdirSync(kept.output);
    for (const name of ["config.json", "tokenizer.json", "model.safetensors", "SHA256SUMS"]) expect(names).toContain(name);
    expect(names).not.toContain("base-files");
    const gone = start("gone", model);
    await underway(gone.output);
    rmSync(gone.output, { recursive: true });
    expect(await gone.child.exited).toBe(2);
    expect(await gone.stderr).toMatch(/remat: \S+metrics\.jsonl was removed or replaced while the run was writing to it/);
    expect(await gone.stderr).not.toContain("    at ");
  });
});
