import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { counterpartOf } from "../../src/cli/flags/other-systems.ts";
import { validateConfig } from "../../src/cli/flags/config-file.ts";
import { parseFlags, parseOnlyFlags } from "../../src/cli/flags/flags.ts";
import { flagName } from "../../src/base/names.ts";
import { VERBS } from "../../src/cli/verbs.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import { userError } from "../hf/temp.ts";
import { remat } from "../support/cli.ts";

const page = readFileSync(join(import.meta.dir, "../../docs/coming-from.md"), "utf8");
const rows = [...page.matchAll(/^\| (.+?) +\| (.+?) +\|$/gm)].map(([, there, here]) => [there!, here!] as const);

test("what docs/coming-from.md says of a name is what the error says of it", async () => {
  const flags = new Map<string, string[]>();
  for (const [name, verb] of Object.entries(VERBS)) flags.set(name, Object.keys((await verb.load()).flags.shape).map(flagName));
  const all = [...new Set([...flags.values()].flat())];
  let count = 0;
  for (const [there, here] of rows) {
    for (const [, name] of there.matchAll(/`(?:--|-)?([a-z][\w-]*)(?:=[\w"]+)?`/g)) {
      if (all.includes(`--${name!.replaceAll("_", "-")}`)) continue;
      const found = counterpartOf(name!, all);
      if (!found) continue;
      count++;
      if (/^(none|on by default)/.test(here) || !here.includes("--")) continue;
      if (found.flag !== null)
        expect([name, here]).toEqual([name, expect.stringContaining(found.flag.split(" ")[0]!.replace(/^--(no-)?/, ""))]);
    }
  }
  expect(count).toBeGreaterThan(60);
});

test("every flag that is named exists, and takes the value that is named", () => {
  for (const name of ["max_steps", "bf16", "fp16", "load_in_4bit", "load_in_8bit", "group_by_length", "num_layers"]) {
    const found = counterpartOf(name, Object.keys(trainConfigSchema.shape).map(flagName));
    const words = found!.flag!.split(" ");
    expect(() =>
      parseFlags(trainConfigSchema, words[1] === undefined && !words[0]!.startsWith("--no-") ? [words[0]!, "1"] : words),
    ).not.toThrow();
  }
});

test.each([
  [["--max-steps", "3"], "unknown flag --max-steps; it is --steps here"],
  [["--per_device_train_batch_size=2"], "unknown flag --per-device-train-batch-size; it is --batch-size here"],
  [["--load-in-4bit"], "unknown flag --load-in-4bit; it is --quantize nf4 here"],
  [["--use-dora"], "unknown flag --use-dora; it is --method dora here"],
  [["--adapter-path", "x"], "unknown flag --adapter-path; it is --output here"],
  [["--lerning_rate", "1"], "unknown flag --lerning-rate; did you mean --learning-rate?"],
])("%j", (args, message) => expect(userError(() => parseFlags(trainConfigSchema, args))).toBe(message));

test("a flag that the verb does not have is not named", async () => {
  const { flags } = await VERBS["eval"]!.load();
  expect(userError(() => parseFlags(flags, ["--adapter-path", "x"]))).toBe("unknown flag --adapter-path; it is --adapter here");
  expect(userError(() => parseFlags(flags, ["--max-grad-norm", "1"]))).toBe("unknown flag --max-grad-norm; see --help");
});

test("flags of one letter, and words where there are none", async () => {
  expect(userError(() => parseFlags(trainConfigSchema, ["-c", "x.yaml"]))).toBe(
    "unknown flag -c; there is no such flag: a configuration is named without a flag, remat train FILE",
  );
  const { flags } = await VERBS["chat"]!.load();
  expect(userError(() => parseFlags(flags, ["-m", "x"]))).toBe("unknown flag -m; it is --model here");
  const root = join(import.meta.dir, "../..");
  const model = join(root, "recipes/base/model");
  expect(userError(() => parseOnlyFlags("chat", flags, [model]))).toBe(
    `chat takes flags only, got ${JSON.stringify(model)}; did you mean --model ${model}?`,
  );
  const { flags: evalFlags } = await VERBS["eval"]!.load();
  expect(userError(() => parseOnlyFlags("eval", evalFlags, [join(root, "package.json")]))).toContain("did you mean --data ");
  const adapter = join(root, "test/golden/models/llama/adapter");
  expect(userError(() => parseOnlyFlags("eval", evalFlags, [adapter]))).toContain("did you mean --adapter ");
  expect(userError(() => parseOnlyFlags("eval", evalFlags, ["nothing"]))).toBe('eval takes flags only, got "nothing"');
  expect(userError(() => validateConfig(trainConfigSchema, { model: "m", data: "d", method: "qlora" }))).toBe(
    '--method: qlora is lora with --quantize nf4; got "qlora"',
  );
});

test("verbs of other systems", async () => {
  for (const [verb, here] of [
    ["lora", "train"],
    ["fuse", "merge"],
    ["inference", "chat"],
  ] as const) {
    const { code, stderr } = await remat([verb]);
    expect([code, stderr]).toEqual([2, `remat: unknown verb "${verb}"; it is ${here} here\n`]);
  }
});

test("an axolotl configuration: each key as it is written, with what it is here", () => {
  const config = {
    base_model: "a",
    micro_batch_size: 2,
    lora_r: 8,
    bf16: true,
    flash_attention: true,
    group_by_length: true,
    lerning_rate: 1,
  };
  expect(userError(() => validateConfig(trainConfigSchema, config, "a.yml")).split("\n")).toEqual([
    "a.yml: --model: it is missing",
    "--data: it is missing",
    'unknown key "base_model"; it is model here',
    'unknown key "micro_batch_size"; it is batchSize here',
    'unknown key "lora_r"; it is rank here',
    'unknown key "bf16"; it is dtype: bf16 here',
    'unknown key "flash_attention"; there is no such key: attention and loss never form their large matrices',
    'unknown key "group_by_length"; it is packing: false here',
    'unknown key "lerning_rate"; did you mean learningRate?',
  ]);
});
