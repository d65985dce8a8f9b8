import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { halves } from "../../recipes/verses/make.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat } from "../support/cli.ts";
import { RECIPE_SEEDS, slowTest } from "../support/slow.ts";

setDefaultTimeout(600_000);

const recipe = join(import.meta.dir, "../../recipes/verses");

test("the files are halves of verses of two books; none is in both", () => {
  const { train, valid } = halves();
  for (const [split, rows] of [["train", train] as const, ["valid", valid] as const])
    expect(rows.map((row) => `${JSON.stringify(row)}\n`).join("")).toBe(readFileSync(join(recipe, `${split}.jsonl`), "utf8"));
  expect([train.length, valid.length]).toEqual([1415, 167]);
  expect(train[0]!.anchor).toStartWith("But his delight is in the law of the LORD");
  expect(new Set([...train, ...valid].map(({ anchor, positive }) => `${anchor}: ${positive}`)).size).toBeGreaterThan(1550);
});

test("the recipe's configuration is one, and finds its data", async () => {
  const { code, stderr } = await remat(["train", "verses", "--dry-run", "--threads", "1"]);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  expect(stderr).toContain("1415 examples");
});

slowTest("the recipe learns them: recall@10 of what is held out is 1.5 times that of the base model", async () => {
  for (const seed of RECIPE_SEEDS) {
    const output = join(temporaryFolder(), "run");
    const { code, stderr } = await remat(["train", "verses", "--output", output, "--threads", "2", "--seed", String(seed)]);
    expect(`${code} ${stderr}`).toStartWith("0 ");
    const scores = readFileSync(join(output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly "recall@10": number; readonly type: string })
      .filter(({ type }) => type === "evaluation")
      .map((score) => score["recall@10"]);
    expect(scores[0]).toBeGreaterThan(0.2);
    expect(Math.max(...scores)).toBeGreaterThan(1.5 * scores[0]!);
  }
});
