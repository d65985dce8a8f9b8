import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import {
  allFiles,
  evaluationFiles,
  findSplits,
  heldOutFiles,
  parseSources,
  trainingFiles,
} from "../../src/data/examples/sources.ts";
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

describe("files of a source", () => {
  const data = join(folder, "files");
  const write = (...names: string[]) => {
    for (const name of names) {
      mkdirSync(dirname(join(data, name)), { recursive: true });
      writeFileSync(join(data, name), "");
    }
  };
  const names = (files: readonly string[]) => files.map((file) => relative(data, file));
  const splits = (path: string) => {
    const { train, valid, test } = findSplits(join(data, path));
    return { train: names(train), valid: names(valid), test: names(test) };
  };

  test("a folder's splits by the first word of their files' names, as on the hub; without one all files are training examples", () => {
    write(
      "hub/data/train-00000-of-00002.parquet",
      "hub/data/train-00001-of-00002.parquet",
      "hub/data/test-00000.parquet",
      "hub/README.md",
    );
    expect(splits("hub")).toEqual({
      train: ["hub/data/train-00000-of-00002.parquet", "hub/data/train-00001-of-00002.parquet"],
      valid: [],
      test: ["hub/data/test-00000.parquet"],
    });
    write(
      "plain/b.csv",
      "plain/a.json",
      "plain/trainer.jsonl",
      "plain/val.csv",
      "plain/dataset_info.json",
      "plain/.hidden.csv",
      "plain/x.txt",
    );
    expect(splits("plain")).toEqual({
      train: ["plain/a.json", "plain/b.csv", "plain/trainer.jsonl"],
      valid: ["plain/val.csv"],
      test: [],
    });
    write("mlx/train.jsonl", "mlx/train_2.csv", "mlx/valid.jsonl", "mlx/other.jsonl");
    expect(splits("mlx")).toEqual({ train: ["mlx/train.jsonl"], valid: ["mlx/valid.jsonl"], test: [] });
  });

  test("held-out files beside a file of any kind", () => {
    write("beside/train.csv", "beside/validation.parquet", "beside/test.json");
    expect(splits("beside/train.csv")).toEqual({
      train: ["beside/train.csv"],
      valid: ["beside/validation.parquet"],
      test: ["beside/test.json"],
    });
  });

  test("patterns, with braces and weights in a list; nothing is looked for beside them", () => {
    write("many/a.csv", "many/b.csv", "many/valid.jsonl", "many/deep/c.csv");
    expect(splits("many/*.csv")).toEqual({ train: ["many/a.csv", "many/b.csv"], valid: [], test: [] });
    expect(splits("many/**/*.csv").train).toEqual(["many/a.csv", "many/b.csv", "many/deep/c.csv"]);
    expect(splits("many/{b,a}.csv").train).toEqual(["many/a.csv", "many/b.csv"]);
    expect(parseSources("x/{a,b}.csv=2,y/*.json")).toEqual([
      { path: "x/{a,b}.csv", weight: 2 },
      { path: "y/*.json", weight: 1 },
    ]);
    expect(userError(() => findSplits(join(data, "many/*.parquet")))).toEndWith("many/*.parquet: no file fits the pattern");
  });

  test("what evaluation, held-out examples and prompts take of a folder", () => {
    write("all/train.csv", "all/valid.csv", "all/test.csv");
    const of = (files: readonly string[]) => names(files);
    const path = join(data, "all");
    expect(of(evaluationFiles(path))).toEqual(["all/test.csv"]);
    expect(of(heldOutFiles(path))).toEqual(["all/valid.csv"]);
    expect(of(allFiles(path))).toEqual(["all/train.csv", "all/valid.csv", "all/test.csv"]);
    expect(of(evaluationFiles(`${join(path, "train.csv")},${join(path, "valid.csv")}`))).toEqual([
      "all/train.csv",
      "all/valid.csv",
    ]);
    write("only/train.csv");
    expect(userError(() => evaluationFiles(join(data, "only")))).toContain("must hold test.jsonl or valid.jsonl");
    write("held/valid.csv");
    expect(userError(() => trainingFiles(join(data, "held")))).toContain("a data folder must hold train.jsonl");
  });

  test("the same examples in two forms are not trained on twice", () => {
    write("twins/train.csv", "twins/train.parquet");
    expect(userError(() => findSplits(join(data, "twins")))).toEndWith(
      "twins holds train.csv and train.parquet, which look like the same examples twice; name the files that are meant, with commas between them",
    );
  });
});
