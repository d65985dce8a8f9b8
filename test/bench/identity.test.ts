import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { compareFolders, type Mode } from "../../bench/identity/compare.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { temporaryFolder } from "../hf/temp.ts";

const folder = temporaryFolder();
let count = 0;

type Content = string | Readonly<Record<string, readonly number[]>>;

/** A folder with files of text, and of tensors by name. */
function written(files: Readonly<Record<string, Content>>): string {
  const target = join(folder, String(count++));
  for (const [name, content] of Object.entries(files)) {
    const path = join(target, name);
    mkdirSync(dirname(path), { recursive: true });
    if (typeof content === "string") writeFileSync(path, content);
    else {
      const tensors = Object.entries(content).map(([tensor, values]): TensorData => ({
        name: tensor,
        dtype: "f32",
        shape: [values.length],
        data: Float32Array.from(values),
      }));
      writeSafetensors(path, tensors, { written: String(count) });
    }
  }
  return target;
}

type Files = Parameters<typeof written>[0];

const differences = (left: Files, right: Files, mode: Mode, measured = false): readonly string[] =>
  compareFolders(written(left), written(right), mode, measured).differences;

const step = (values: object): string => `${JSON.stringify({ type: "step", step: 1, ...values })}\n`;

describe("what two checkouts write is compared", () => {
  test("times of metrics may differ, losses may not in their last bit", () => {
    const metrics = (loss: number, seconds: number, memory = 7) => ({ "run/metrics.jsonl": step({ loss, seconds, memory }) });
    for (const mode of ["bytes", "tensors"] as const) {
      expect(differences(metrics(0.5, 1), metrics(0.5, 2), mode)).toEqual([]);
      expect(differences(metrics(0.5, 1), metrics(0.5 + 2 ** -53, 1), mode)).toHaveLength(1);
      expect(differences(metrics(0.5, 1), metrics(0.5, 1, 8), mode)).toHaveLength(1);
      expect(differences(metrics(0.5, 1), metrics(0.5, 1, 8), mode, true)).toEqual([]);
    }
  });

  test("a new key of metrics is a difference of bytes alone", () => {
    const [old, now] = [{ "metrics.jsonl": step({ loss: 1 }) }, { "metrics.jsonl": step({ loss: 1, metric: 2 }) }];
    expect(differences(old, now, "bytes")).toHaveLength(1);
    expect(differences(old, now, "tensors")).toEqual([]);
    expect(differences(now, old, "tensors")).toHaveLength(1);
  });

  test("a record that is missing is a difference", () => {
    const line = step({ loss: 1 });
    expect(differences({ "metrics.jsonl": line + line }, { "metrics.jsonl": line }, "tensors")).toHaveLength(1);
  });

  test("a file that only one of the two has is a difference", () => {
    expect(differences({ "run/a.txt": "a" }, {}, "bytes")).toEqual(["run/a.txt: only in the first"]);
    expect(differences({}, { "run/a.txt": "a" }, "bytes")).toEqual(["run/a.txt: only in the second"]);
    expect(differences({ "run/a.txt": "a" }, {}, "tensors")).toHaveLength(1);
  });

  test("other metadata are a difference of bytes, another bit of a tensor is one of tensors too", () => {
    const tensors = (last: number) => ({ "run/adapter_model.safetensors": { a: [1, 2], b: [last] } });
    expect(differences(tensors(0), tensors(0), "bytes")).toHaveLength(1);
    expect(differences(tensors(0), tensors(0), "tensors")).toEqual([]);
    expect(differences(tensors(0), tensors(-0), "tensors")).toEqual(["run/adapter_model.safetensors: b differs from byte 3 on"]);
  });

  test("a checkpoint may have its numbers under other names, not other numbers", () => {
    const name = "run/checkpoints/step-00000002/state.safetensors";
    const old: Files = { [name]: { param: [1, 2, 3, 0], moment1: [4, 5, 6, 0] } };
    const named = (last: number): Files => ({ [name]: { "a.param": [1], "b.param": [2, 3], "a.m": [4], "b.m": [last, 5] } });
    expect(differences(old, named(6), "tensors")).toEqual([]);
    expect(differences(old, named(7), "tensors")).toEqual(["run/checkpoints/step-00000002: other numbers under other names"]);
    expect(differences(old, { [name]: { "a.param": [1] } }, "tensors")).toHaveLength(1);
    expect(differences(old, {}, "tensors")).toHaveLength(1);
  });

  test("segment models are compared by bytes, not by tensors, which they have none of", () => {
    const [old, now] = [{ "run/segments/block.forward.onnx": "a" }, { "run/segments/block.forward.onnx": "b" }];
    expect(differences(old, now, "bytes")).toHaveLength(1);
    expect(differences(old, now, "tensors")).toEqual([]);
  });
});
