import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { serve } from "../../src/library/serve.ts";
import { classify } from "../../src/library/texts/classify.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok, refused, remat, writeTinyModel } from "../support/cli.ts";
import { judgedRows } from "../support/judged-rows.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const sizes = { num_hidden_layers: 2, hidden_size: 32, head_dim: 8, intermediate_size: 32 };
const model = writeTinyModel(join(folder, "model"), sizes);
const write = (name: string, lines: readonly unknown[]) => {
  const path = join(folder, name);
  writeFileSync(path, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return path;
};
const data = write("texts.jsonl", judgedRows(24));
const held = write("held.jsonl", judgedRows(9));
const common = ["--model", model, "--objective", "classify", "--option-tokens", "--threads", "1", "--sequence-length", "128"];
const fast = ["--schedule", "constant", "--warmup", "0", "--learning-rate", "1e-2"];
const train = async (name: string, ...flags: string[]) => {
  const { code, stderr } = await remat(["train", ...common, ...fast, "--data", data, "--output", join(folder, name), ...flags]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  return stderr;
};
const read = (...path: string[]) => JSON.parse(readFileSync(join(folder, ...path), "utf8")) as Record<string, unknown>;
const measured = async (...flags: string[]) =>
  JSON.parse(await ok("eval", "--objective", "classify", "--data", held, "--json", "--threads", "1", ...flags)) as {
    readonly loss: number;
    readonly class_accuracy: number;
    readonly details: { readonly calibrated: { readonly temperature: number } };
  };

const running: { stop(): Promise<void> }[] = [];
afterAll(() => Promise.all(running.map((server) => server.stop())));

describe("train --objective classify --option-tokens", () => {
  test("a model learns to pick: an adapter for CAUSAL_LM alone, with the tokens beside it; eval, classify, serve and merge go by them", async () => {
    const said = await train("lora", "--steps", "90", "--rank", "16", "--valid", held);
    expect(said).toContain(
      "3 classes, one for each text, with so many training examples: bad 8, dull 8, good 8; their tokens are ",
    );
    expect(read("lora", "adapter_config.json")).toMatchObject({ task_type: "CAUSAL_LM", modules_to_save: null });
    const adapter = openSafetensors(join(folder, "lora", "adapter_model.safetensors"));
    expect([...adapter.tensors.keys()].filter((name) => !/\.lora_[AB]\.weight$/.test(name))).toEqual([]);
    adapter.close();
    const { temperature, option_token_ids: ids, id2label } = read("lora", "classifier.json");
    expect(id2label).toEqual({ 0: "bad", 1: "dull", 2: "good" });
    // As a user's question and the answer to it are tokens.
    const tokenizer = loadTokenizer(model);
    const asked = "<|im_start|>user\nprobe<|im_end|>\n<|im_start|>assistant\n";
    const first = (label: string) => tokenizer.encode(asked + label)[tokenizer.encode(asked).length]!;
    expect(ids).toEqual(["bad", "dull", "good"].map(first));

    const result = await measured("--model", join(folder, "lora"));
    expect(result.class_accuracy).toBe(1);
    expect(result.details.calibrated.temperature).toBe(temperature as number);
    const texts = judgedRows(3).map(({ text }) => text);
    const { texts: judged } = await classify({ model: join(folder, "lora"), texts, threads: 1 });
    expect(judged.map(({ label }) => label)).toEqual(["good", "bad", "dull"]);
    const chats = texts.map((content) => [{ role: "user", content }]);
    const { texts: same } = await classify({ model: join(folder, "lora"), texts: chats, threads: 1 });
    expect(same.map(({ probabilities }) => probabilities)).toEqual(judged.map(({ probabilities }) => probabilities));

    const server = await serve({ model: join(folder, "lora"), port: 0, threads: 1, maxTokens: 128 });
    running.push(server);
    const body = JSON.stringify({ input: texts });
    const answer = await fetch(`${server.url}/classify`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
    });
    const { data: told } = (await answer.json()) as {
      readonly data: readonly { readonly label: string; readonly score: number }[];
    };
    for (const [i, { label, score }] of told.entries()) {
      expect(label).toBe(judged[i]!.label as string);
      expect(score).toBeCloseTo(judged[i]!.probabilities![label]!, 6);
    }

    await ok("merge", "--adapter", join(folder, "lora"), "--out", join(folder, "merged"));
    expect(read("merged", "classifier.json")["option_token_ids"]).toEqual(ids);
    expect(read("merged", "config.json")["architectures"]).toEqual(["LlamaForCausalLM"]);
    expect(Math.abs((await measured("--model", join(folder, "merged"))).loss - result.loss)).toBeLessThan(1e-4);
    // It writes what it picks, too.
    const prompts = write("prompts.jsonl", [{ messages: chats[0] }]);
    const generate = ["generate", "--model", join(folder, "lora"), "--threads", "1", "--max-tokens", "128", "--temperature", "0"];
    await ok(...generate, "--data", prompts, "--out", join(folder, "written.jsonl"));
    expect(readFileSync(join(folder, "written.jsonl"), "utf8")).toContain(tokenizer.decode([first("good")]));
  });

  test("a run that was stopped goes on, bit for bit, and so does one with streamed weights", async () => {
    const hash = (name: string) =>
      new Bun.CryptoHasher("sha256").update(readFileSync(join(folder, name, "adapter_model.safetensors"))).digest("hex");
    await train("straight", "--steps", "4");
    await train("streamed", "--steps", "4", "--stream", "all");
    expect(hash("streamed")).toBe(hash("straight"));
    if (!SLOW) return;
    await train("stopped", "--steps", "2");
    await train("stopped", "--steps", "4", "--resume");
    expect(hash("stopped")).toBe(hash("straight"));
    const quantised = ["--quantize", "q8", "--quantize-embedding", "--steps", "2"];
    await train("quantised", ...quantised);
    await train("quantised-streamed", ...quantised, "--stream", "all");
    expect(hash("quantised-streamed")).toBe(hash("quantised"));
  });

  test("a further run keeps the tokens", async () => {
    const further = [
      "train",
      "--model",
      model,
      "--adapter",
      join(folder, "straight"),
      "--objective",
      "classify",
      "--threads",
      "1",
      "--steps",
      "1",
    ];
    await ok(...further, "--data", data, "--sequence-length", "128", "--output", join(folder, "further"));
    expect(read("further", "classifier.json")["option_token_ids"]).toEqual(
      read("straight", "classifier.json")["option_token_ids"],
    );
  });
});

test("one clear error where a model could not pick", async () => {
  const never = join(folder, "never");
  const bad = async (lines: readonly unknown[], ...flags: string[]) => {
    const said = await refused(
      "train",
      ...common,
      "--steps",
      "1",
      "--output",
      never,
      "--data",
      write("bad.jsonl", lines),
      ...flags,
    );
    expect(existsSync(never)).toBe(false);
    return said;
  };
  expect(
    await bad([
      { text: "a", label: "class one" },
      { text: "b", label: "class two" },
    ]),
  ).toMatch(
    /--option-tokens: the classes "class one" and "class two" begin with the same token ".+" \(\d+\), and a model picks by the first one; give the labels names that differ there/,
  );
  expect(await bad([{ text: "a", label: ["x"] }])).toContain(
    "--option-tokens is for labels of one class for each text; the labels are lists",
  );
  expect(await bad(judgedRows(3), "--targets", "lm_head")).toContain("--targets lm_head: --option-tokens reads single rows");
  expect(await bad(judgedRows(3), "--truncate")).toContain("--truncate cuts texts at their ends, where the answer is picked");
  const score = join(folder, "score");
  await ok(
    "train",
    "--model",
    model,
    "--objective",
    "classify",
    "--data",
    data,
    "--steps",
    "1",
    "--threads",
    "1",
    "--sequence-length",
    "64",
    "--output",
    score,
  );
  expect(await refused("train", "--adapter", score, ...common, "--steps", "1", "--data", data, "--output", never)).toContain(
    `--option-tokens: ${score} has a head that judges texts, and picks no answer`,
  );
  await train("picks", "--steps", "1");
  const prompt = write("completion.jsonl", [{ prompt: "a", completion: "b" }]);
  expect(await refused("classify", "--model", join(folder, "picks"), "--data", prompt)).toContain(
    "the model picks its answer among options",
  );
  const path = join(folder, "picks", "classifier.json");
  writeFileSync(path, JSON.stringify({ ...read("picks", "classifier.json"), option_token_ids: [1, 2, 99999] }));
  expect(await refused("classify", "--model", join(folder, "picks"), "--data", held)).toContain(
    "option_token_ids has 99999, which is no token of a vocabulary of",
  );
});
