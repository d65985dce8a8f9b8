import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { filesIn, temporaryFolder } from "../hf/temp.ts";
import { copyFolder, ok, refused, remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeTinyModel(join(folder, "model"));
const data = join(folder, "data.jsonl");
const chat = (word: string) => ({
  messages: [
    { role: "user", content: `Define ${word}.` },
    { role: "assistant", content: `n. A thing called ${word}.` },
  ],
});
const lines = (records: readonly unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join("");
writeFileSync(data, lines(["king", "house", "water", "tree", "sword", "bread"].map(chat)));
const adapter = join(folder, "run");
const merged = join(folder, "merged");

interface Evaluation {
  readonly examples: number;
  readonly tokens: number;
  readonly loss: number;
  readonly perplexity: number;
  readonly accuracy: number;
}

const evaluate = async (...args: string[]) =>
  JSON.parse(await ok("eval", "--data", data, "--threads", "1", "--json", ...args)) as Evaluation;
const events = (stdout: string) =>
  stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { readonly type: string; readonly [key: string]: unknown });
const greedy = ["--temperature", "0", "--max-new-tokens", "12", "--threads", "1"];

beforeAll(async () => {
  const settings = ["--steps", "60", "--rank", "8", "--learning-rate", "2e-2", "--sequence-length", "64", "--threads", "1"];
  await ok("train", "--model", model, "--data", data, "--output", adapter, ...settings, "--eval-every", "0");
  await ok("merge", "--adapter", adapter, "--out", merged);
}, 60_000);

describe("eval", () => {
  test("the adapter learns the examples, and the merged model is the adapted one: losses within a relative 1e-4", async () => {
    const base = await evaluate("--model", model);
    const adapted = await evaluate("--model", model, "--adapter", adapter);
    const whole = await evaluate("--model", merged);
    expect(base.examples).toBe(6);
    expect(Math.abs(base.loss - Math.log(2048))).toBeLessThan(1);
    expect(base.perplexity).toBeCloseTo(Math.exp(base.loss), 6);
    expect(adapted.loss).toBeLessThan(base.loss - 0.2);
    expect(adapted.accuracy).toBeGreaterThan(base.accuracy);
    expect(Math.abs(whole.loss / adapted.loss - 1)).toBeLessThan(1e-4);
    expect(whole.tokens).toBe(adapted.tokens);
  });

  test("loss (within 1e-4) and accuracy are those that training reports before its first step", async () => {
    const output = join(folder, "evaluated");
    const flags = ["--model", model, "--data", data, "--valid", data, "--output", output, "--steps", "1", "--threads", "1"];
    await ok("train", ...flags, "--sequence-length", "64");
    const metrics = readFileSync(join(output, "metrics.jsonl"), "utf8").trim().split("\n");
    const first = metrics
      .map((line) => JSON.parse(line) as { type: string; step: number; loss: number; accuracy: number })
      .find(({ type }) => type === "evaluation");
    const { loss, accuracy } = await evaluate("--model", model, "--sequence-length", "64");
    expect(first!.step).toBe(0);
    expect(Math.abs(first!.loss - loss)).toBeLessThan(1e-4);
    expect(first!.accuracy).toBe(accuracy);
  });

  test("of a folder, test.jsonl is used, else valid.jsonl", async () => {
    const splits = join(folder, "evaluation");
    mkdirSync(splits);
    const flags = ["--model", model, "--threads", "1", "--json"];
    expect(await refused("eval", ...flags, "--data", splits)).toContain("must hold test.jsonl or valid.jsonl");
    writeFileSync(join(splits, "valid.jsonl"), lines([chat("king"), chat("house")]));
    expect(JSON.parse(await ok("eval", ...flags, "--data", splits))).toMatchObject({ examples: 2 });
    writeFileSync(join(splits, "test.jsonl"), lines([chat("water")]));
    expect(JSON.parse(await ok("eval", ...flags, "--data", splits))).toMatchObject({ examples: 1 });
  });

  test("over-long examples are refused with their length", async () => {
    expect(await refused("eval", "--model", model, "--data", data, "--sequence-length", "8")).toMatch(
      /data\.jsonl:1: the example has \d+ tokens/,
    );
  });
});

describe("merge", () => {
  test("writes a model folder, with the base model taken from the adapter; refuses one that is in use", async () => {
    expect(filesIn(merged)).toContain("model.safetensors");
    expect(filesIn(merged)).toContain("tokenizer.json");
    expect(await refused("merge", "--adapter", adapter, "--out", merged)).toContain("not an empty folder");
    expect(await refused("merge", "--out", join(folder, "nothing"))).toContain(
      "merge needs an adapter: give its folder with --adapter",
    );
  });
});

describe("a run folder as --model", () => {
  const shape = (text: string) => (JSON.parse(text) as { memory: { trainable: number } }).memory.trainable;

  test("plan: the base model with the run's own adapter", async () => {
    const flags = ["--sequence-length", "64", "--threads", "1", "--json"];
    const planned = shape(await ok("plan", "--model", adapter, ...flags));
    expect(planned).toBe(shape(await ok("plan", "--model", model, "--rank", "8", ...flags)));
    expect(planned).not.toBe(shape(await ok("plan", "--model", model, "--rank", "4", ...flags)));
    expect(await refused("plan", "--model", adapter, "--last-layers", "1")).toContain("lastLayers 1 is not what the adapter has");
  });

  test("step and merge: what --adapter gives, byte for byte", async () => {
    const batch = join(import.meta.dir, "../golden/models/llama/batches/rows.safetensors");
    for (const [name, flags] of Object.entries({ a: ["--model", adapter], b: ["--adapter", adapter] })) {
      await ok("step", ...flags, "--batch", batch, "--out", join(folder, `step-${name}`), "--threads", "1");
      await ok("merge", ...flags, "--out", join(folder, `merged-${name}`));
    }
    expect(readFileSync(join(folder, "step-a"))).toEqual(readFileSync(join(folder, "step-b")));
    const weights = (name: string) => readFileSync(join(folder, name, "model.safetensors"));
    expect(weights("merged-a")).toEqual(weights("merged-b"));
  });

  test("data: the base model's tokenizer", async () => {
    expect(await ok("data", "check", data, "--model", adapter)).toBe(await ok("data", "check", data, "--model", model));
  });

  test("two adapters, and a base model that is gone, are one clear sentence each", async () => {
    expect(await refused("eval", "--model", adapter, "--adapter", merged, "--data", data)).toContain("give one of them");
    expect(await refused("merge", "--model", model, "--out", join(folder, "no"))).toContain("give its folder with --adapter");
    const moved = copyFolder(adapter, join(folder, "moved"));
    const path = join(moved, "adapter_config.json");
    const config = JSON.parse(readFileSync(path, "utf8")) as object;
    writeFileSync(path, JSON.stringify({ ...config, base_model_name_or_path: "/no/such" }));
    expect(await refused("plan", "--model", moved)).toMatch(/\/no\/such: no such folder.*is the base model that .*moved names/);
    writeFileSync(path, JSON.stringify({ ...config, base_model_name_or_path: null }));
    expect(await refused("plan", "--model", moved)).toContain("does not name its base model");
  });
});

describe("chat", () => {
  test("one prompt: the same answer from adapter and merged model, alone on stdout", async () => {
    const ask = ["--prompt", "Define king.", ...greedy];
    const answer = await ok("chat", "--model", model, "--adapter", adapter, ...ask);
    expect(answer.trim().length).toBeGreaterThan(0);
    expect(await ok("chat", "--model", merged, ...ask)).toBe(answer);
    // The adapter knows its base model; a run folder may stand for the model.
    expect(await ok("chat", "--model", adapter, ...ask)).toBe(answer);
  });

  test("in a pipe, each line is a message; /reset forgets, /exit leaves", async () => {
    const child = Bun.spawn([process.execPath, "src/cli/main.ts", "chat", "--model", model, "--adapter", adapter, ...greedy], {
      stdin: new Blob(["Define king.\n\n/reset\nDefine king.\n/exit\nDefine tree.\n"]),
      stdout: "pipe",
      stderr: "pipe",
      cwd: join(import.meta.dir, "../.."),
    });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    expect(stderr).toBe("");
    const once = await ok("chat", "--model", adapter, "--prompt", "Define king.", ...greedy);
    expect(stdout).toBe(once + once);
  });

  test("a prompt without room, and a missing model, are one clear sentence", async () => {
    expect(await refused("chat", "--model", model, "--prompt", "Define king.", "--max-tokens", "4")).toContain("more than the 4");
    expect(await refused("chat", "--model", model, "--prompt", "x", "--max-tokens", "9999")).toContain("context of 256");
    expect(await refused("chat", "--prompt", "x")).toContain("--model");
    expect(await refused("chat", "--model", model, "--temprature", "1")).toContain("did you mean --temperature?");
  });
});

describe("generate", () => {
  const prompts = join(folder, "prompts.jsonl");
  const question = { messages: [{ role: "user", content: "Define king." }] };
  writeFileSync(
    prompts,
    lines([chat("king"), question, { prompt: "Define" }, { prompt: "Define", completion: "x" }, { text: "Define" }]),
  );

  test("answers every format in order, and a chat's answer is chat's", async () => {
    const out = join(folder, "answers.jsonl");
    await ok("generate", "--model", adapter, "--data", prompts, "--out", out, ...greedy);
    const records = readFileSync(out, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, any>);
    expect(records.length).toBe(5);
    const answer = await ok("chat", "--model", adapter, "--prompt", "Define king.", ...greedy);
    expect(records[0]!["messages"].at(-1)).toEqual({ role: "assistant", content: answer.slice(0, -1) });
    expect(records[1]).toEqual(records[0]!);
    expect(records[2]!["prompt"]).toBe("Define");
    expect(records[3]).toEqual(records[2]!);
    expect(records[4]).toEqual(records[2]!);
    expect(await refused("generate", "--model", adapter, "--data", prompts, "--out", out)).toContain("--overwrite");
  });

  test("the same seed gives the same file, whatever the batch size", async () => {
    const write = async (name: string, seed: string, batchSize: string) => {
      const out = join(folder, name);
      const flags = ["--seed", seed, "--batch-size", batchSize, "--max-new-tokens", "8", "--threads", "1"];
      await ok("generate", "--model", model, "--data", prompts, "--out", out, ...flags);
      return readFileSync(out, "utf8");
    };
    const first = await write("a.jsonl", "1", "1");
    expect(await write("b.jsonl", "1", "3")).toBe(first);
    expect(await write("c.jsonl", "2", "3")).not.toBe(first);
  });

  test("the model's generation_config.json is honoured and said, flags override it, what is out of range is a warning", async () => {
    const own = copyFolder(merged, join(folder, "configured"));
    // What is changed by hand has other checksums.
    rmSync(join(own, "SHA256SUMS"));
    const config = { do_sample: false, max_new_tokens: 5, top_p: 1.5 };
    writeFileSync(join(own, "generation_config.json"), JSON.stringify(config));
    const write = async (name: string, ...flags: string[]) => {
      const out = join(folder, name);
      const { stderr } = await remat(["generate", "--model", own, "--data", prompts, "--out", out, "--threads", "1", ...flags]);
      return { stderr, text: readFileSync(out, "utf8") };
    };
    const plain = await write("plain.jsonl");
    expect(plain.stderr).toMatch(/warning: .*generation_config\.json: top_p is 1\.5 and is not used: /);
    expect(plain.stderr).toContain("sampling: greedy*, max_new_tokens 5* (*: generation_config.json)");
    expect((await write("again.jsonl", "--temperature", "0", "--max-new-tokens", "5")).text).toBe(plain.text);
    const hot = await write("hot.jsonl", "--temperature", "2", "--top-p", "1");
    expect(hot.stderr).toContain("sampling: temperature 2, max_new_tokens 5*");
    expect(hot.text).not.toBe(plain.text);
  });

  test("a bad line is refused before anything is written", async () => {
    const bad = join(folder, "bad.jsonl");
    writeFileSync(bad, `${lines([chat("king")])}{"frage": "?"}\n`);
    const out = join(folder, "none.jsonl");
    expect(await refused("generate", "--model", model, "--data", bad, "--out", out)).toContain("bad.jsonl:2");
    expect(existsSync(out)).toBe(false);
  });
});

describe("data", () => {
  test("check counts, and exits with 1 when there are errors", async () => {
    const text = await ok("data", "check", data, "--model", model);
    expect(text).toContain("examples     6 (6 chat)");
    expect(text).toMatch(/over-long +0 \(sequence length 256\)/);
    expect(await ok("check-custom-dataset", data, "--model", model)).toBe(text);
    const bad = join(folder, "wrong.jsonl");
    writeFileSync(bad, `${lines([chat("king"), chat("king")])}nonsense\n`);
    const { code, stdout } = await remat(["data", "check", bad]);
    expect(code).toBe(2);
    expect(stdout).toContain("wrong.jsonl:3: ");
    expect(stdout).toContain("wrong.jsonl:2: the same as");
  });

  test("check of a folder: each split by name; events with --json; the exit code is the worst one's", async () => {
    const splits = join(folder, "splits");
    mkdirSync(splits);
    writeFileSync(join(splits, "train.jsonl"), lines([chat("king"), chat("king")]));
    writeFileSync(join(splits, "validation.jsonl"), "nonsense\n");
    const { code, stdout } = await remat(["data", "check", splits]);
    expect(code).toBe(2);
    expect(stdout.split("\n").filter((line) => line.startsWith("file "))).toEqual(
      ["train", "validation"].map((name) => `file         ${splits}/${name}.jsonl`),
    );
    const json = await remat(["data", "check", splits, "--json", "--model", model, "--sequence-length", "4"]);
    expect(json.code).toBe(2);
    const [train, validation] = ["train", "validation"].map((name) => join(splits, `${name}.jsonl`));
    const tooLong = {
      type: "problem",
      kind: "over-long",
      message: expect.stringMatching(/^\d+ tokens, \d+ too many$/) as string,
    };
    expect(events(json.stdout)).toEqual([
      { type: "problem", kind: "duplicate", where: `${train}:2`, message: `the same as ${train}:1` },
      { ...tooLong, where: `${train}:1` },
      { ...tooLong, where: `${train}:2` },
      expect.objectContaining({ type: "report", path: train, examples: 2, errors: 0, duplicates: 1, overLong: 2 }),
      { type: "problem", kind: "error", where: `${validation}:1`, message: expect.stringContaining("JSON") as string },
      expect.objectContaining({
        type: "report",
        path: validation,
        examples: 0,
        errors: 1,
        duplicates: 0,
        overLong: 0,
        tokens: null,
      }),
    ]);
    const short = events((await remat(["data", "check", splits, "--json", "--listed", "0"])).stdout);
    expect(short.map(({ type }) => type)).toEqual(["report", "report"]);
    expect(short[1]).toMatchObject({ errors: 1 });
  });

  test("show marks what is masked", async () => {
    const text = await ok("data", "show", data, "--model", model, "--count", "1", "--from", "2");
    expect(text).toContain("data.jsonl:2: ");
    expect(text).toMatch(/\[[^\]]*Define house\.[^\]]*\]n\. A thing called house\./);
    const shown = events(await ok("data", "show", data, "--model", model, "--count", "2", "--json"));
    expect(shown.map(({ type, where }) => [type, where])).toEqual([1, 2].map((line) => ["example", `${data}:${line}`]));
    const parts = shown[1]!["parts"] as { text: string; trained: boolean }[];
    expect(parts.map(({ trained }) => trained)).toEqual([false, true, false]);
    expect(parts[1]!.text).toStartWith("n. A thing called house.");
    expect(await refused("data", "show", data)).toContain("--model");
    expect(await refused("data", "shw", data)).toContain("did you mean show?");
  });
});

describe("recipes and completion", () => {
  test("a copied recipe is a configuration whose paths still lead to the model and the data", async () => {
    expect(await ok("recipes", "list")).toContain("devils-dictionary");
    expect(await ok("list-cfg", "devil")).not.toContain("base ");
    const copy = join(folder, "mine", "recipe.yaml");
    await ok("copy-cfg", "devils-dictionary", copy);
    for (const [, path] of readFileSync(copy, "utf8").matchAll(/^(?:model|data): (\S+)$/gm)) {
      expect(existsSync(join(folder, "mine", path!))).toBe(true);
    }
    expect(await refused("recipes", "copy", "devils-dictionary", copy)).toContain("exists");
    expect(await refused("recipes", "copy", "devils-dictionry")).toContain("did you mean devils-dictionary?");
  });

  test("bash accepts its script, which completes verbs, flags and values", async () => {
    const script = join(folder, "completion.bash");
    writeFileSync(script, await ok("completion", "bash"));
    const complete = (...words: string[]) => {
      const list = words.map((word) => `"${word}"`).join(" ");
      const code = `source ${script}; COMP_WORDS=(remat ${list}); COMP_CWORD=${words.length}; _remat; printf '%s\\n' "\${COMPREPLY[@]}"`;
      return Bun.spawnSync(["bash", "-c", code]).stdout.toString().trim().split("\n");
    };
    expect(complete("ch")).toEqual(["chat", "check-custom-dataset"]);
    expect(complete("chat", "--temp")).toEqual(["--template-args", "--temperature"]);
    expect(complete("train", "--method", "")).toEqual(["lora", "dora", "ia3", "full"]);
    for (const shell of ["zsh", "fish"])
      expect(await ok("completion", shell)).toContain("--temperature".replace(shell === "fish" ? "--" : "", ""));
    expect(await refused("completion", "bsh")).toContain("did you mean bash?");
  });

  test("a flag that is on is named by what switches it off, in lists too", async () => {
    const { stdout } = await remat(["federate", "--help"]);
    expect(stdout).toContain("as remat train --help explains them: --no-gradient-checkpointing, --strategy,");
    expect(stdout).not.toMatch(/--gradient-checkpointing|--weight-cache/);
  });

  test("each verb's help fits a screen of 50 lines", async () => {
    const { VERBS } = await import("../../src/cli/verbs.ts");
    for (const verb of Object.values(VERBS)) expect((await verb.load()).help().split("\n").length).toBeLessThanOrEqual(50);
  });
});
