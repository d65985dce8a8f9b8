import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseSources } from "../../src/data/examples/dataset.ts";
import type { RunEvent } from "../../src/train/run/events.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { remat, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();

describe("data sources", () => {
  test("a path, or several with weights", () => {
    expect(parseSources("a.jsonl")).toEqual([{ path: "a.jsonl", weight: 1 }]);
    expect(parseSources("a.jsonl=2, b=0.5,c.jsonl")).toEqual([
      { path: "a.jsonl", weight: 2 },
      { path: "b", weight: 0.5 },
      { path: "c.jsonl", weight: 1 },
    ]);
  });

  test("a path that exists is taken as it stands", () => {
    for (const name of ["x,y.jsonl", "run=3", "day=1"]) {
      const path = join(folder, name);
      writeFileSync(path, "");
      expect(parseSources(path)).toEqual([{ path, weight: 1 }]);
    }
    expect(parseSources(`${join(folder, "run=3")},b=2`)).toEqual([
      { path: join(folder, "run=3"), weight: 1 },
      { path: "b", weight: 2 },
    ]);
  });

  test.each(["a=0", "a=-1", "a=many", "a=", "b,a=Infinity"])("%s is no weight", (text) => {
    expect(userError(() => parseSources(text))).toContain("the weight of a must be a number above 0");
  });

  test("a run draws from each as its weight says, and evaluates on all that is held out", async () => {
    const model = writeTinyModel(join(folder, "model"), {
      num_hidden_layers: 1,
      hidden_size: 16,
      head_dim: 4,
      intermediate_size: 16,
    });
    const lines = (count: number, word: string) =>
      Array.from({ length: count }, (_, i) => `${JSON.stringify({ prompt: `${word} ${i} `, completion: "yes" })}\n`).join("");
    for (const [name, count] of [
      ["one", 4],
      ["two", 8],
    ] as const) {
      mkdirSync(join(folder, name));
      writeFileSync(join(folder, name, "train.jsonl"), lines(count, name));
      writeFileSync(join(folder, name, "valid.jsonl"), lines(1, `other ${name}`));
    }
    const train = async (weights: string) => {
      const data = `${join(folder, "one")}=${weights.split(" ")[0]},${join(folder, "two")}=${weights.split(" ")[1]}`;
      const flags = "--threads 1 --no-packing --sequence-length 32 --no-sample --json --overwrite".split(" ");
      const { code, stdout } = await remat([
        "train",
        "--model",
        model,
        "--data",
        data,
        "--output",
        join(folder, "run"),
        ...flags,
      ]);
      expect(code).toBe(0);
      return stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as RunEvent);
    };
    const steps = (events: readonly RunEvent[]) => events.filter(({ type }) => type === "step").length;
    const events = await train("3 0.5");
    // 3 x 4 rows of the one, and a half of 8 of the other.
    expect(steps(events)).toBe(16);
    expect(events.find(({ type }) => type === "start")).toMatchObject({ examples: 12, heldOut: 2 });
    expect(steps(await train("1 1"))).toBe(12);
  });
});
