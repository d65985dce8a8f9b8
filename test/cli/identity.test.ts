import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, ok, refused, remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"), {
  num_hidden_layers: 2,
  hidden_size: 16,
  head_dim: 4,
  intermediate_size: 16,
});
const data = join(folder, "data.jsonl");
writeFileSync(
  data,
  ["king", "house", "water", "tree"]
    .map((word) => `${JSON.stringify({ prompt: `Define ${word}. `, completion: `A thing called ${word}.` })}\n`)
    .join(""),
);
const train = (output: string, ...flags: string[]) =>
  `train --model ${model} --data ${data} --output ${join(folder, output)} --threads 1 --sequence-length 32 --rank 2 --save-every 1 --schedule constant --no-sample`
    .split(" ")
    .concat(flags);
const lossesOf = (output: string) =>
  readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { loss: number }).loss);

/** Changes one byte in the middle of a file's last kilobyte: a weight. */
function damage(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length - 500]! ^= 1;
  writeFileSync(path, bytes);
}

describe("a run folder that was copied", () => {
  test("is the run: train COPY --resume goes on in the copy, and leaves the first where it was", async () => {
    await ok(...train("whole", "--steps", "4"));
    await ok(...train("first", "--steps", "2"));
    copyFolder(join(folder, "first"), join(folder, "second"));
    await ok("train", join(folder, "second"), "--resume", "--steps", "4");
    expect(lossesOf("second")).toEqual(lossesOf("whole"));
    expect(lossesOf("first").length).toBe(2);
  });

  test("has checkpoints that are adapters for every verb", async () => {
    await ok(...train("longer", "--steps", "4", "--keep", "4"));
    const score = async (adapter: string) => JSON.parse(await ok("eval", "--adapter", adapter, "--data", data, "--json"));
    const early = join(folder, "longer/checkpoints/step-00000002");
    expect(await score(early)).toEqual(await score(join(folder, "first")));
    expect(await score(join(folder, "longer/checkpoints/step-00000004"))).toEqual(await score(join(folder, "longer")));
    await ok("merge", "--adapter", early, "--out", join(folder, "early-merged"));
    await ok("chat", "--adapter", early, "--raw", "--prompt", "x", "--max-new-tokens", "2");
  });

  test("whose adapter was damaged on the way is refused by every verb that reads it", async () => {
    const adapter = copyFolder(join(folder, "whole"), join(folder, "damaged"));
    await ok("eval", "--adapter", adapter, "--data", data);
    damage(join(adapter, "adapter_model.safetensors"));
    const why = "adapter_model.safetensors is damaged or was changed";
    expect(await refused("eval", "--adapter", adapter, "--data", data)).toContain(why);
    expect(await refused("chat", "--adapter", adapter, "--prompt", "x", "--raw")).toContain(why);
    expect(await refused("merge", "--adapter", adapter, "--out", join(folder, "merged"))).toContain(why);
    expect(await refused("export", "gguf", "--adapter", adapter, "--out", join(folder, "m.gguf"))).toContain(why);
    expect(await refused("generate", "--adapter", adapter, "--data", data, "--out", join(folder, "o.jsonl"))).toContain(why);
  });

  test("a merged model has checksums that sha256sum checks, and --verify reads everything again", async () => {
    const merged = join(folder, "merged");
    await ok("merge", "--adapter", join(folder, "whole"), "--out", merged);
    expect(Bun.spawnSync(["sha256sum", "--check", "--strict", "SHA256SUMS"], { cwd: merged }).exitCode).toBe(0);
    await ok("eval", "--model", merged, "--data", data, "--verify");
    damage(join(merged, "model.safetensors"));
    expect(await refused("eval", "--model", merged, "--data", data)).toContain("model.safetensors is damaged");
  });
});

describe("--resume with another base model of the same sizes is refused", () => {
  const tried = async (name: string, change: (base: string) => void): Promise<string> => {
    const base = copyFolder(model, join(folder, `base-${name}`));
    const flags = ["--model", base, "--output", join(folder, name)];
    await ok(...train(name, "--steps", "1", ...flags));
    change(base);
    return refused(...train(name, "--steps", "2", "--resume", ...flags));
  };
  const edit = (path: string, from: string, to: string) => writeFileSync(path, readFileSync(path, "utf8").replace(from, to));

  test("other weights, rotary base, chat template", async () => {
    expect(await tried("weights", (base) => damage(join(base, "model.safetensors")))).toContain("the base model's weights");
    expect(await tried("theta", (base) => edit(join(base, "config.json"), "10000", "20000"))).toContain("config.json, SHA-256");
    const template = await tried("template", (base) => writeFileSync(join(base, "chat_template.jinja"), "{{ messages }}"));
    expect(template).toContain("tokenizer and chat template");
  });

  test("the same one goes on", async () => {
    await ok(...train("same", "--steps", "1"));
    expect((await remat(train("same", "--steps", "2", "--resume"))).code).toBe(0);
  });
});

test("weights that are not finite are refused by the tensor's name", async () => {
  const bad = copyFolder(model, join(folder, "not-finite"));
  const path = join(bad, "model.safetensors");
  const bytes = readFileSync(path);
  bytes.fill(0xff, bytes.length - 4);
  writeFileSync(path, bytes);
  const message = /tensor "\S+" holds a value that is infinite or no number/;
  expect(await refused("eval", "--model", bad, "--data", data)).toMatch(message);
  expect(await refused(...train("never", "--steps", "1", "--model", bad))).toMatch(message);
});

describe("training that diverges", () => {
  const flags = ["--steps", "1", "--warmup", "0"];
  const ended = async (args: readonly string[]) => {
    const { code, stderr } = await remat(args);
    expect(code).toBe(2);
    return stderr;
  };

  test("is told by the parameter's name at the export, which writes nothing", async () => {
    const said = await ended(train("diverged", ...flags, "--learning-rate", "1e39"));
    expect(said).toMatch(/\S+lora_A\.weight holds a value that is infinite or no number: training diverged/);
    expect(readdirSync(join(folder, "diverged"))).not.toContain("adapter_model.safetensors");
  });

  test("is told at an evaluation, in a run and in eval", async () => {
    const held = ["--valid", data];
    const inf = await ended(train("infinite", ...flags, ...held, "--learning-rate", "1e39"));
    expect(inf).toMatch(/step 1: the held-out loss is NaN, because \S+lora_A\.weight holds such a value: training diverged/);
    const large = await ended(train("large", ...flags, ...held, "--learning-rate", "1e30"));
    expect(large).toContain("step 1: the held-out loss is NaN, because a value within the model is too large for f32");
    await ok(...train("unseen", ...flags, "--learning-rate", "1e30"));
    const score = await refused("eval", "--model", model, "--adapter", join(folder, "unseen"), "--data", data);
    expect(score).toContain("the loss is NaN, though all weights are finite");
  });
});
