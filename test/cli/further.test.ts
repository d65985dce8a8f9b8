import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (name: string) => join(folder, name);
const model = writeTinyModel(path("model"));
const data = path("data.jsonl");
const words = ["king", "house", "water", "tree"];
writeFileSync(
  data,
  words.map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`).join(""),
);
const settings = [
  "--data",
  data,
  "--valid",
  data,
  "--sequence-length",
  "64",
  "--learning-rate",
  "2e-2",
  "--threads",
  "1",
  "--no-sample",
];
const shape = ["--rank", "4", "--alpha", "6", "--rslora", "--targets", "q_proj,down_proj", "--last-layers", "2"];

const json = (...parts: string[]) => JSON.parse(readFileSync(path(join(...parts)), "utf8")) as Record<string, unknown>;
const losses = (run: string) =>
  readFileSync(path(join(run, "metrics.jsonl")), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { type: string; step: number; loss: number })
    .map(({ type, step, loss }) => [type, step, loss] as const);
const further = (...flags: string[]) => [
  "train",
  "--model",
  path("first"),
  "--output",
  path("second"),
  ...settings,
  "--steps",
  "4",
  ...flags,
];

beforeAll(async () => {
  await ok("train", "--model", model, "--output", path("first"), ...settings, ...shape, "--steps", "12");
}, 60_000);

describe("training an adapter further", () => {
  test("it begins where the other run ended, with its rank, alpha, modules and layers, and can be resumed bit for bit", async () => {
    await ok(...further("--save-every", "2"));
    const config = json("second", "adapter_config.json");
    expect(config).toEqual({ ...json("first", "adapter_config.json") });
    expect(config).toMatchObject({
      r: 4,
      lora_alpha: 6,
      use_rslora: true,
      target_modules: ["down_proj", "q_proj"],
      layers_to_transform: [1, 2],
    });
    expect(json("second", "train-config.json")).toMatchObject({ model, adapter: path("first"), rank: 4, lastLayers: 2 });
    const whole = losses("second");
    const [kind, step, loss] = losses("first").at(-1)!;
    expect([kind, step]).toEqual(["evaluation", 12]);
    expect(whole[0]).toEqual(["evaluation", 0, loss]);
    expect(whole.at(-1)![2]).toBeLessThan(loss);

    const adapter = readFileSync(path("second/adapter_model.safetensors"));
    rmSync(path("second/checkpoints/step-00000004"), { recursive: true });
    rmSync(path("second/adapter_model.safetensors"));
    // The configuration in a run folder is one to train by.
    await ok("train", "--resume", path("second"));
    expect(losses("second")).toEqual(whole);
    expect(readFileSync(path("second/adapter_model.safetensors"))).toEqual(adapter);
  });

  test("another start is another run", async () => {
    await ok("train", "--model", model, "--output", path("other"), ...settings, ...shape, "--steps", "1");
    const flags = ["--output", path("second"), ...settings, "--steps", "4", "--resume"];
    expect(await refused("train", "--model", model, "--adapter", path("other"), ...flags)).toMatch(
      /it had adapter at the start, SHA-256 \w+, this one has adapter at the start, SHA-256 \w+/,
    );
  });

  test("what does not go together is refused", async () => {
    const none = ["--output", path("none")];
    expect(await refused(...further(...none, "--rank", "8"))).toContain("rank 8 is not what the adapter");
    expect(await refused(...further(...none, "--last-layers", "1"))).toContain("(lastLayers 2)");
    expect(await refused(...further(...none, "--method", "full"))).toContain("trained further with its own method");
    expect(await refused(...further("--output", path("first"), "--overwrite"))).toContain("choose another folder");
    expect(await refused(...further("--output", path("first"), "--resume"))).toContain(
      "give its base model as --model, and --resume",
    );
    expect(await refused("train", "--model", model, "--adapter", "qlora", ...none, ...settings)).toContain("--quantize nf4");
  });
});
