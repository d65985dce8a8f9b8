import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { version } from "../../package.json" with { type: "json" };
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { filesIn, temporaryFolder } from "../hf/temp.ts";
import { copyFolder, remat, rematApart, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"));
const data = join(folder, "data.jsonl");
writeFileSync(
  data,
  `${JSON.stringify({
    messages: [
      { role: "user", content: "Hi." },
      { role: "assistant", content: "Hello." },
    ],
  })}\n`.repeat(4),
);

let copies = 0;
/** A copy of the model folder, changed. */
function changedModel(change: (folder: string) => void): string {
  const copy = copyFolder(model, join(folder, `model-${copies++}`));
  change(copy);
  return copy;
}

function changedConfig(values: Readonly<Record<string, unknown>>): string {
  return changedModel((copy) => {
    const path = join(copy, "config.json");
    writeFileSync(path, JSON.stringify({ ...(JSON.parse(readFileSync(path, "utf8")) as object), ...values }));
  });
}

/** The checkpoint with one tensor replaced. */
function changedTensor(name: string, change: (tensor: TensorData) => TensorData): string {
  return changedModel((copy) => {
    const source = openSafetensors(copy);
    const tensors = [...source.tensors.values()].map((entry): TensorData => {
      const tensor = { name: entry.name, dtype: entry.dtype!, shape: entry.shape, data: readBytes(source, entry) };
      return entry.name === name ? change(tensor) : tensor;
    });
    source.close();
    writeSafetensors(join(copy, "model.safetensors"), tensors);
  });
}

function dataFile(text: string): string {
  const path = join(folder, `data-${copies++}.jsonl`);
  writeFileSync(path, text);
  return path;
}

const chat = (assistant: object) => `${JSON.stringify({ messages: [{ role: "user", content: "Hi." }, assistant] })}\n`;

/** Runs `train` and expects one message, exit code 2, and no run folder. */
async function refused(flags: readonly string[], ...expected: (string | RegExp)[]): Promise<void> {
  const output = join(folder, `run-${copies++}`);
  const { code, stderr, stdout } = await remat(["train", "--threads", "1", "--steps", "1", "--output", output, ...flags]);
  for (const text of expected) expect(stderr).toMatch(text);
  expect(stderr).toStartWith("remat: ");
  expect(stderr).not.toMatch(/\n\s+at /);
  expect(stdout).toBe("");
  expect(code).toBe(2);
  expect(existsSync(output)).toBe(false);
}

const on = (path: string) => ["--model", path, "--data", data];

describe("a model that cannot be trained is refused before anything is written", () => {
  test("no such folder", () => refused(on(join(folder, "nowhere")), "nowhere", /no such folder/));
  test("no weights", () =>
    refused(on(changedModel((copy) => Bun.spawnSync(["rm", join(copy, "model.safetensors")]))), "model.safetensors"));
  test("truncated weights", () =>
    refused(on(changedModel((copy) => truncateSync(join(copy, "model.safetensors"), 5000))), "truncated"));
  test("a weight of another shape", () =>
    refused(
      on(changedTensor("model.layers.1.mlp.up_proj.weight", (tensor) => ({ ...tensor, shape: tensor.shape.toReversed() }))),
      "up_proj",
      "[32, 48]",
      "[48, 32]",
    ));
  test("a weight of another dtype", () =>
    refused(
      on(changedTensor("model.norm.weight", (tensor) => ({ ...tensor, dtype: "i32" }))),
      "model.norm.weight",
      "I32",
      "F32",
    ));
  test("a weight that is missing", () =>
    refused(on(changedTensor("model.norm.weight", (tensor) => ({ ...tensor, name: "other" }))), "model.norm.weight"));
  test("unknown architecture", () =>
    refused(on(changedConfig({ architectures: ["MambaForCausalLM"], model_type: "mamba" })), "Mamba", "Llama"));
  test("wrong value in config.json", () =>
    refused(on(changedConfig({ num_attention_heads: "four" })), "config.json", "num_attention_heads"));
  test("broken tokenizer", () =>
    refused(on(changedModel((copy) => writeFileSync(join(copy, "tokenizer.json"), "{"))), "tokenizer.json"));
  test("no tokenizer", () =>
    refused(on(changedModel((copy) => rmSync(join(copy, "tokenizer.json")))), "neither tokenizer.json nor tokenizer.model"));
  test("quantised weights", () =>
    refused(on(changedConfig({ quantization_config: { quant_method: "gptq", bits: 4 } })), "config.json", "quantised", "bf16"));
  test("sequences longer than the context", () => refused([...on(model), "--sequence-length", "257"], "257", "256"));
});

describe("bad data is refused with file and line", () => {
  const withData = (path: string) => ["--model", model, "--data", path];
  const good = chat({ role: "assistant", content: "Hello." });
  test("no such file", () => refused(withData(join(folder, "none.jsonl")), "none.jsonl"));
  test("broken JSON", () => refused(withData(dataFile(`${good}{"messages": [\n`)), /data-\d+\.jsonl:2/));
  test("unknown keys", () => refused(withData(dataFile(`${good}{"question": "a", "reply": "b"}\n`)), /:2/, "question"));
  test("no trainable token", () =>
    refused(withData(dataFile(`${good}${good}${chat({ role: "user", content: "Hello?" })}`)), /:3/, /trainable/));
  test("longer than the sequence length", () =>
    refused(
      [...withData(dataFile(`${good}${chat({ role: "assistant", content: "word ".repeat(300) })}`)), "--sequence-length", "64"],
      /:2/,
      "64",
      "trunca",
    ));
  // An epoch without an example would never end.
  test("a weight that leaves no example, and one that takes too many", async () => {
    const path = dataFile(good.repeat(3));
    await refused(withData(`${path}=0.1`), "an epoch has 0 of the 3 examples", "raise a weight");
    await refused(withData(`${path}=1e12`), "an epoch has 3000000000000 of the 3 examples", "lower a weight");
  });
  test("empty file", () => refused(withData(dataFile("")), "no examples"));
});

describe("a bad command line or configuration is refused", () => {
  test("unknown flag, with the nearest known one", () =>
    refused(["--learning-rat", "1"], "--learning-rat", "did you mean --learning-rate?"));
  test("a value of the wrong kind", () => refused([...on(model), "--rank", "eight"], "--rank", "number", "eight"));
  test("a value out of range", () => refused([...on(model), "--rank", "0"], "--rank"));
  test("an unknown choice", () => refused([...on(model), "--schedule", "step"], "--schedule", "cosine"));
  test("a flag without its value", () => refused([...on(model), "--rank"], "--rank", "value"));
  test("unknown key in a file", async () => {
    const file = join(folder, "train.yaml");
    writeFileSync(file, `model: ${model}\ndata: ${data}\nlearningrate: 1\n`);
    await refused([file], "train.yaml", "learningrate", "learningRate");
  });
  test("a file that is not there", () => refused([join(folder, "missing.yaml")], "missing.yaml"));
  test("an output folder that holds something else", async () => {
    const { code, stderr } = await remat(["train", ...on(model), "--output", model]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/not empty/);
    const overwrite = await remat(["train", ...on(model), "--output", model, "--overwrite"]);
    expect(overwrite.code).toBe(2);
    expect(overwrite.stderr).toMatch(/not overwritten/);
    expect(filesIn(model)).toContain("model.safetensors");
  });
  test("an output folder that cannot be made", async () => {
    const { code, stderr } = await remat(["train", ...on(model), "--output", join(data, "run")]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/data\.jsonl/);
  });
  test("unknown verb", async () => {
    const { code, stderr } = await remat(["trian"]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/did you mean train\?/);
  });
});

describe("a process of its own ends with the code, and has its words on the right stream", () => {
  test("of an error, for people and for programs", async () => {
    const message = `${join(folder, "nowhere")}: no such folder`;
    const flags = ["train", ...on(join(folder, "nowhere"))];
    const said = { code: 2, stderr: expect.stringMatching(/^remat: [^\n]+\n$/) };
    expect(await rematApart(flags)).toEqual({ ...said, stdout: "" });
    const { stdout, ...rest } = await rematApart([...flags, "--json"]);
    expect(rest).toEqual(said);
    expect(JSON.parse(stdout)).toEqual({ type: "error", message: expect.stringContaining(message), exitCode: 2 });
  });

  test("of an answer", async () => {
    expect(await rematApart(["--version"])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
    const { code, stdout, stderr } = await rematApart(["data", "check", data, "--model", model]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toContain("examples     4 (4 chat)");
  });
});

describe("step refuses a bad batch and leaves no file", () => {
  const batch = (name: string, tensors: readonly TensorData[]) => {
    const path = join(folder, name);
    writeSafetensors(path, tensors);
    return path;
  };
  const int64 = (name: string, values: readonly (readonly number[])[]): TensorData => ({
    name,
    dtype: "i64",
    shape: [values.length, values[0]!.length],
    data: BigInt64Array.from(values.flat(), BigInt),
  });
  const plain = [int64("input_ids", [[1, 2, 3]]), int64("labels", [[1, 2, 3]])];
  const cases: [string, TensorData[], RegExp][] = [
    ["no labels", [int64("input_ids", [[1, 2, 3]])], /labels/],
    ["other shapes", [int64("input_ids", [[1, 2, 3]]), int64("labels", [[1, 2]])], /labels.*\[1, 2\].*\[1, 3\]/],
    ["an id outside the vocabulary", [int64("input_ids", [[1, 4096, 3]]), int64("labels", [[1, 2, 3]])], /4096.*2047/],
    ["all masked", [int64("input_ids", [[1, 2, 3]]), int64("labels", [[-100, -100, -100]])], /no position has a target/],
    [
      "left padding",
      [int64("input_ids", [[1, 2]]), int64("labels", [[-100, 2]]), int64("attention_mask", [[0, 1]])],
      /right padding/,
    ],
    ["a tensor of another name", [...plain, int64("segment_ids", [[0, 0, 0]])], /"segment_ids" would not count; a batch has/],
    ["types that the model has none of", [...plain, int64("token_type_ids", [[0, 0, 0]])], /the model has no types/],
    ["a mask of other values", [...plain, int64("attention_mask", [[1, 2, 1]])], /attention_mask\[0, 1\] is 2; expected 1 .* 0/],
    ["a label on padding", [...plain, int64("attention_mask", [[1, 1, 0]])], /labels\[0, 2\] is 3 at a place of padding/],
    ["positions that jump", [...plain, int64("position_ids", [[0, 1, 5]])], /position_ids\[0, 2\] is 5; expected 2/],
    ["positions that begin late", [...plain, int64("position_ids", [[7, 8, 9]])], /position_ids\[0, 0\] is 7; expected 0/],
  ];
  test.each(cases)("%s", async (name, tensors, expected) => {
    const out = join(folder, `${name}.out.safetensors`);
    const { code, stderr } = await remat([
      "step",
      "--model",
      model,
      "--method",
      "full",
      "--batch",
      batch(`${name}.safetensors`, tensors),
      "--out",
      out,
    ]);
    expect(stderr).toMatch(expected);
    expect(code).toBe(2);
    expect(existsSync(out)).toBe(false);
  });
});
