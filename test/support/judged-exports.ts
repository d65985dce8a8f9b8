import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { merge } from "../../src/library/merge.ts";
import { train } from "../../src/library/train.ts";
import { writeTinyModel } from "./cli.ts";

const words = ["king", "house", "water", "tree", "sword", "bread", "stone", "night"];

/** Texts that are judged by what the fixture's folders hold, one of them a pair. */
export const JUDGED_TEXTS = [
  "the king near the house was fine",
  "bread was awful",
  "plain",
  "the water and the stone and the night were there, and the sword was plain",
] as const;

/** Trains tiny models and leaves what a run exports in a folder: `lora`, `merged`, `full`. The same each time, on any machine. */
export async function makeJudgedExports(folder: string): Promise<void> {
  const model = writeTinyModel(join(folder, "model"), {
    num_hidden_layers: 2,
    hidden_size: 16,
    head_dim: 4,
    intermediate_size: 24,
  });
  const marks = ["fine", "awful", "plain"];
  const rows = Array.from({ length: 24 }, (_, i) => ({ text: `the ${words[i % 8]} was ${marks[i % 3]}`, label: marks[i % 3]! }));
  const file = (name: string, records: readonly object[]) => {
    const path = join(folder, name);
    writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
    return path;
  };
  const common = {
    model,
    objective: "classify",
    threads: 1,
    sequenceLength: 64,
    steps: 8,
    learningRate: 2e-2,
    matmul: "wasm",
    device: "wasm",
  } as const;
  const single = file("single.jsonl", rows);
  await train({ ...common, data: single, output: join(folder, "lora"), rank: 2, sample: false, saveMinutes: 0 });
  await merge({ adapter: join(folder, "lora"), out: join(folder, "merged") });
  const several = file(
    "several.jsonl",
    rows.map(({ text, label }, i) => ({ text, label: i % 2 === 0 ? [label] : [label, "odd"] })),
  );
  await train({ ...common, data: several, output: join(folder, "full"), method: "full", sample: false, saveMinutes: 0 });
}
