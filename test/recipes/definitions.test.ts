import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { entriesOf, firstSentences, type Pair, pairsOf, PARTNERS } from "../../recipes/definitions/make.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { ok } from "../support/cli.ts";
import { RECIPE_SEEDS, SLOW } from "../support/slow.ts";

setDefaultTimeout(900_000);

const recipes = join(import.meta.dir, "../../recipes");
const textOf = (path: string) => readFileSync(join(recipes, path), "utf8");
const linesOf = (text: string) =>
  text
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as unknown);
const bundled = (split: string) => linesOf(textOf(`definitions/${split}.jsonl`)) as Pair[];

describe("pairs of definitions", () => {
  test.each([
    ["n. One who is better off.", "n. One who is better off."],
    ['v.t. To eat. "Well," he said. And so on, for ever and ever.', 'v.t. To eat. "Well," he said.'],
    ["n. A sentence.\n\nAnother paragraph.", "n. A sentence."],
    ["n. A sentence that is longer than what fits, and has no end that anybody could find.", null],
  ])("first sentences of %j", (definition, expected) => {
    expect(firstSentences(definition, 40)).toBe(expected);
  });

  test.each(["train", "valid"] as const)("%s: the bundled file is what make.ts makes", (split) => {
    expect(bundled(split)).toEqual(pairsOf(entriesOf(textOf(`devils-dictionary/${split}.jsonl`)), PARTNERS[split]));
  });

  test("every definition is rejected as often as it is chosen, by one of another kind; no word of the held-out pairs is trained on", () => {
    for (const split of ["train", "valid"]) {
      const counts = new Map<string, number>();
      for (const { chosen, rejected } of bundled(split)) {
        const kinds = [chosen, rejected].map(([{ content }]) => /^(n|adj|v)\./.exec(content)![1]);
        expect(kinds.filter((kind) => kind === "n")).toHaveLength(1);
        counts.set(chosen[0].content, (counts.get(chosen[0].content) ?? 0) + 1);
        counts.set(rejected[0].content, (counts.get(rejected[0].content) ?? 0) - 1);
      }
      expect([...counts].filter(([, count]) => count !== 0)).toEqual([]);
    }
    const words = (split: string) => new Set(bundled(split).map(({ prompt }) => prompt[0].content));
    expect([...words("valid")].filter((word) => words("train").has(word))).toEqual([]);
  });
});

describe("the recipes learn them: of held-out pairs 10 points more are told apart than by chance", () => {
  test.skipIf(!SLOW).each(["definitions-dpo", "definitions"])("%s", async (recipe) => {
    for (const seed of RECIPE_SEEDS) {
      const output = join(temporaryFolder(), "run");
      const settings = ["--output", output, "--threads", "2", "--seed", String(seed), "--no-sample"];
      await ok("train", recipe, ...settings);
      const lines = linesOf(readFileSync(join(output, "metrics.jsonl"), "utf8")) as Record<string, unknown>[];
      const accuracies = lines.filter(({ type }) => type === "evaluation").map((line) => line["rewards/accuracies"] as number);
      // At the begin DPO's reference is the model itself, and prefers nothing.
      expect(accuracies[0]).toBeLessThan(0.6);
      expect(accuracies.at(-1)).toBeGreaterThan(0.85);
    }
  });
});
