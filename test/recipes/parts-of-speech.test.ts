import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { labelled } from "../../recipes/parts-of-speech/make.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat } from "../support/cli.ts";
import { RECIPE_SEEDS, SLOW } from "../support/slow.ts";

setDefaultTimeout(600_000);

const recipes = join(import.meta.dir, "../../recipes");

test.each([
  ["train", { noun: 278, adjective: 72, verb: 51 }],
  ["valid", { noun: 34, adjective: 17, verb: 7 }],
] as const)("%s: definitions of the dictionary with their parts of speech, which they do not say", (split, counts) => {
  const textOf = (recipe: string) => readFileSync(join(recipes, recipe, `${split}.jsonl`), "utf8");
  const rows = labelled(textOf("devils-dictionary"));
  expect(rows.map((row) => `${JSON.stringify(row)}\n`).join("")).toBe(textOf("parts-of-speech"));
  for (const [label, count] of Object.entries(counts)) expect(rows.filter((row) => row.label === label).length).toBe(count);
  expect(rows.filter(({ text }) => /^(?:n|adj|v)\./.test(text))).toEqual([]);
});

/** The macro F1 of saying noun of each held-out definition. */
const MAJORITY = (2 * 34) / (58 + 34) / 3;

test("the recipe's configuration is one, and finds its data and its classes", async () => {
  const { code, stderr } = await remat(["train", "parts-of-speech", "--dry-run", "--threads", "1"]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  expect(stderr).toContain("3 classes, one for each text, with so many training examples: adjective 72, noun 278, verb 51");
});

test.skipIf(!SLOW)("the recipe learns them: macro F1 is 20 points above that of the majority", async () => {
  for (const seed of RECIPE_SEEDS) {
    const output = join(temporaryFolder(), "run");
    const flags = ["--output", output, "--threads", "2", "--seed", String(seed), "--eval-every", "75"];
    const { code, stderr } = await remat(["train", "parts-of-speech", ...flags]);
    expect(`${code} ${stderr}`).toStartWith("0 ");
    const scores = readFileSync(join(output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly f1_macro: number; readonly type: string })
      .filter(({ type }) => type === "evaluation");
    expect(Math.max(...scores.map(({ f1_macro }) => f1_macro))).toBeGreaterThan(MAJORITY + 0.2);
  }
});
