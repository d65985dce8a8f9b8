import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { answersOfBase, type Pair, shortEntries } from "../../recipes/preferences/make.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok } from "../support/cli.ts";
import { RECIPE_SEEDS, slowTest } from "../support/slow.ts";

setDefaultTimeout(600_000);

const recipes = join(import.meta.dir, "../../recipes");
const textOf = (path: string) => readFileSync(join(recipes, path), "utf8");
const pairsOf = (split: string) =>
  textOf(`preferences/${split}.jsonl`)
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Pair);

describe("the bundled preferences", () => {
  test.each([
    ["train", 300],
    ["valid", 50],
  ])("%s: chosen are the dictionary's own answers, of the same split; rejected are others", (split, count) => {
    const pairs = pairsOf(split);
    const entries = shortEntries(textOf(`devils-dictionary/${split}.jsonl`), count);
    expect(pairs.length).toBe(count);
    expect(pairs.map(({ prompt, chosen }) => [...prompt, ...chosen])).toEqual(
      entries.map(([question, answer]) => [question, answer]),
    );
    for (const { chosen, rejected } of pairs) {
      expect(rejected[0]!.content.length).toBeGreaterThan(0);
      expect(rejected[0]!.content).not.toBe(chosen[0]!.content);
    }
  });

  test("rejected answers are the base model's: made anew, the first ones are the same", async () => {
    const pairs = pairsOf("valid").slice(0, 4);
    expect(await answersOfBase(pairs.map(({ prompt }) => prompt[0]!))).toEqual(pairs.map(({ rejected }) => rejected[0]!.content));
  });
});

slowTest("the recipe learns them: held-out accuracy rises by 40 points", async () => {
  for (const seed of RECIPE_SEEDS) {
    const output = temporaryFolder();
    await ok("train", "preferences", "--output", join(output, "run"), "--threads", "2", "--seed", String(seed), "--no-sample");
    const lines = readFileSync(join(output, "run/metrics.jsonl"), "utf8").trim().split("\n");
    const accuracies = lines
      .map((line) => JSON.parse(line) as Record<string, unknown>)
      .filter(({ type }) => type === "evaluation")
      .map((line) => line["rewards/accuracies"] as number);
    expect(accuracies.at(-1)! - accuracies[0]!).toBeGreaterThanOrEqual(0.4);
  }
});
