import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { z } from "zod";
import { findConfig, readConfigFile, validateConfig, withFlags } from "../../src/cli/flags/config-file.ts";
import { describeFlags, parseFlags } from "../../src/cli/flags/flags.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { remat } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const file = (name: string, text: string) => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};

describe("configuration files", () => {
  const expected = {
    model: "base",
    data: "/data/chats.jsonl",
    learningRate: 0.001,
    targets: ["q_proj", "v_proj"],
    gradientCheckpointing: false,
  };
  test.each([
    [
      "a.yaml",
      "model: base\ndata: /data/chats.jsonl\nlearning-rate: 1e-3\ntargets: [q_proj, v_proj]\ngradient-checkpointing: false\n",
    ],
    [
      "b.yml",
      "model: base\ndata: /data/chats.jsonl\nlearning_rate: 0.001\ntargets:\n  - q_proj\n  - v_proj\ngradient_checkpointing: false\n",
    ],
    [
      "c.json",
      '{"model": "base", "data": "/data/chats.jsonl", "learningRate": 1e-3, "targets": ["q_proj", "v_proj"], "gradientCheckpointing": false}',
    ],
    [
      "d.ts",
      'import { defineConfig } from "remat";\n' +
        'export default defineConfig({ model: "base", data: "/data/chats.jsonl", learningRate: 1e-3, targets: ["q_proj", "v_proj"], gradientCheckpointing: false });\n',
    ],
  ])("%s: keys in any case, data relative to the file", async (name, text) => {
    expect((await readConfigFile(file(name, text))).values).toEqual(expected);
  });

  test("are found by path, without extension, as a folder, and as a recipe's name", () => {
    const path = file("train.yaml", "model: x\n");
    expect(findConfig(path, () => "/none")).toBe(path);
    expect(findConfig(path.slice(0, -5), () => "/none")).toBe(path);
    expect(findConfig(folder, () => "/none")).toBe(path);
    const recipes = join(import.meta.dir, "../../recipes");
    expect(findConfig("devils-dictionary", () => recipes)).toBe(join(recipes, "devils-dictionary/train.yaml"));
    expect(userError(() => findConfig("no-such", () => recipes))).toMatch(/no-such.*recipe/);
  });

  test("lists as text and text as lists, numbers in quotes, YAML 1.1's words, keys without a value", async () => {
    const text =
      'targets: all-linear\nlearning_rate: "1e-4"\npacking: no\nresume: On\nseed:\ndata: [a.jsonl=2, /b.jsonl]\nvalid: c.jsonl,d.jsonl\nother:\n';
    expect((await readConfigFile(file("python.yaml", text))).values).toEqual({
      targets: ["all-linear"],
      learningRate: 1e-4,
      packing: false,
      resume: true,
      // Each part is relative to the file.
      data: `${join(folder, "a.jsonl=2")},/b.jsonl`,
      valid: `${join(folder, "c.jsonl")},${join(folder, "d.jsonl")}`,
      other: null,
    });
    expect((await readConfigFile(file("part.yaml", "valid: 5%\nmodel: org/name\nrank: many\n"))).values).toEqual({
      valid: "5%",
      model: "org/name",
      rank: "many",
    });
  });

  test("a run's own configuration has paths as flags have them, relative to the working directory", async () => {
    const config = { model: "models/a", data: "a.jsonl", valid: "5%", output: "where/it/was" };
    const read = await readConfigFile(file("train-config.json", JSON.stringify(config)));
    // The folder that is named is the run, wherever it was made.
    expect(read.values).toEqual({ ...config, output: relative(process.cwd(), folder) });
  });

  test("a run of all weights wrote down the defaults of adapters once; it is gone on with all the same", async () => {
    const old = { method: "full", rank: 8, dropout: 0, rslora: false, bias: "none", targets: ["all-linear"], seed: 3 };
    const { values } = await readConfigFile(file("train-config.json", JSON.stringify(old)));
    expect(values).toEqual({ method: "full", seed: 3, output: relative(process.cwd(), folder) });
  });

  test("a method among the flags takes away what the file says of another; what the file or the flags ask for themselves stays", async () => {
    const read = await readConfigFile(file("lora.yaml", "rank: 16\ntargets: [q_proj]\nseed: 3\n"));
    expect(withFlags(read, { method: "full", alpha: 2 })).toEqual({
      values: { method: "full", alpha: 2, seed: 3 },
      notes: ["rank, targets of the file: left out, since --method full has no such setting"],
    });
    for (const flags of [{}, { method: "dora" }, { method: "nonsense" }])
      expect(withFlags(read, flags)).toEqual({ values: { ...read.values, ...flags }, notes: [] });
    const both = await readConfigFile(file("both.yaml", "method: full\nrank: 16\n"));
    expect(withFlags(both, { method: "full" }).values).toEqual({ method: "full", rank: 16 });
  });

  test("every wrong key is named, with its file", () => {
    const message = userError(() =>
      validateConfig(trainConfigSchema, { model: "m", data: "d", rank: 0, schedule: "cosin", lerningRate: 1 }, "my.yaml"),
    );
    expect(message).toStartWith("my.yaml: ");
    expect(message).toMatch(/--rank: .*; got 0/);
    expect(message).toMatch(/--schedule: .*"cosine".*; got "cosin"/);
    expect(message).toMatch(/"lerningRate"; did you mean learningRate\?/);
    expect(userError(() => validateConfig(trainConfigSchema, {}))).toMatch(/--model: .*it is missing/);
  });
});

describe("flags", () => {
  const schema = z.strictObject({
    rate: z.number().default(1).describe("the rate"),
    longName: z.string().optional(),
    dryRun: z.boolean().default(true),
    parts: z.array(z.string()).default(["a"]),
  });

  test("values, equals signs, booleans and their negation, lists, words", () => {
    expect(parseFlags(schema, ["--rate", "2e-3", "first", "--long-name=x=y", "--no-dry-run", "--parts", "b, c"])).toEqual({
      values: { rate: 0.002, longName: "x=y", dryRun: false, parts: ["b", "c"] },
      words: ["first"],
    });
    expect(parseFlags(schema, ["--dry-run", "--rate=-1"]).values).toEqual({ dryRun: true, rate: -1 });
    expect(parseFlags(schema, ["--dry-run=false"]).values).toEqual({ dryRun: false });
    expect(parseFlags(schema, ["--long_name", "a_b", "--dry_run", "False", "word"])).toEqual({
      values: { longName: "a_b", dryRun: false },
      words: ["word"],
    });
    expect(parseFlags(schema, ["--dry-run", "auto"])).toEqual({ values: { dryRun: true }, words: [] });
    expect(parseFlags(schema, ["--no-dry-run", "true"])).toEqual({ values: { dryRun: false }, words: ["true"] });
  });

  test.each([
    [["--rat", "1"], /unknown flag --rat; did you mean --rate\?/],
    [["--zzzzzzzzz"], /unknown flag --zzzzzzzzz; see --help/],
    [["-rate", "1"], /unknown flag -rate; did you mean --rate\?/],
    [["--rate"], /--rate needs a value/],
    [["--rate", "--dry-run"], /--rate needs a value/],
    [["--rate", "fast"], /--rate takes a number, got "fast"/],
    [["--dry-run=perhaps"], /--dry-run takes true or false/],
  ])("%j is refused", (args, message) => {
    expect(userError(() => parseFlags(schema, args))).toMatch(message);
  });

  test("the help has a line for each flag, with its default", () => {
    const help = describeFlags(schema);
    expect(help).toMatch(/--rate N +the rate \(1\)/);
    expect(help.split("\n")).toHaveLength(4);
  });
});

describe("help", () => {
  test("an overview, and every flag of train with its default", async () => {
    const overview = await remat(["--help"]);
    expect(overview.code).toBe(0);
    expect(overview.stdout).toMatch(/train +fine-tune a model/);
    const { stdout, code } = await remat(["train", "--help"]);
    expect(code).toBe(0);
    for (const key of Object.keys(trainConfigSchema.shape))
      expect(stdout).toMatch(new RegExp(`--(no-)?${key.replaceAll(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}\\b`));
    expect(stdout).toMatch(/--no-gradient-checkpointing/);
    expect(stdout).toMatch(/--learning-rate N .*\(adamw, .*0\.0002; .*muon 0\.0005/);
  });
});
