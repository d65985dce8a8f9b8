import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Label } from "../../src/data/examples/example.ts";
import { createLabelFinder } from "../../src/data/examples/judged/labels.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import type { LabelKind } from "../../src/hf/config/classifier.ts";
import { lastTokens } from "../../src/load/head-batch.ts";
import { createRandom } from "../../src/base/random.ts";
import { fitTemperature, tempered } from "../../src/objectives/calibration.ts";
import { classify } from "../../src/objectives/classify.ts";
import { addSums, type LogitsHead } from "../../src/objectives/objective.ts";
import { CLASSIFY_FOLDER } from "../support/classify.ts";
import { expectWithin, relativeError } from "../support/ops.ts";

interface LossCase {
  readonly kind: "single" | "several" | "number";
  readonly weight?: readonly number[];
  readonly label_smoothing?: number;
  readonly logits: readonly number[];
  readonly target: readonly number[];
  readonly loss: number;
  readonly gradient: readonly number[];
}

interface MetricCase extends Pick<LossCase, "kind" | "logits" | "target"> {
  readonly metrics: Readonly<Record<string, number>>;
  /** At the temperature that is the likeliest. */
  readonly calibrated?: Readonly<Record<"temperature" | "ece" | "brier", number>>;
}

const four = ["a", "b", "c", "d"];
const cases = JSON.parse(readFileSync(join(CLASSIFY_FOLDER, "losses.json"), "utf8")) as {
  readonly losses: readonly LossCase[];
  readonly metrics: readonly MetricCase[];
};

test.each(cases.losses.map((each) => [each.kind, each.weight ?? null, each.label_smoothing ?? 0, each] as const))(
  "the loss of labels of the kind %s, class weights %j, smoothing %p, and its derivatives are PyTorch's within 1e-6",
  (kind, weight, labelSmoothing, { logits, target, loss, gradient }) => {
    const classWeights = weight?.map((each, i) => `${four[i]}=${each}`);
    const head = classify.create({ labels: four, labelKind: kind, classWeights, labelSmoothing }) as LogitsHead;
    const batch = { examples: 6, targets: Float32Array.from(target) } as MicroBatch;
    const { sums, weights } = head.judge(batch, Float32Array.from(logits));
    expect(head.values(sums).loss).toBeCloseTo(loss, 6);
    const share = head.share(batch);
    expectWithin(
      "derivatives",
      relativeError(
        weights.map((each) => each / share),
        gradient,
      ),
      1e-6,
    );
  },
);

test.each(cases.metrics.map((each) => [each.kind, each] as const))(
  "metrics of labels of the kind %s are PyTorch's within 1e-6, added up over micro-batches",
  (kind, { logits, target, metrics }) => {
    const head = classify.create({ labels: four, labelKind: kind, labelSmoothing: 0 }) as LogitsHead;
    const part = (from: number, to: number) => {
      const [outputs, width] = [logits.length / 300, target.length / 300];
      const batch = { examples: to - from, targets: Float32Array.from(target.slice(from * width, to * width)) } as MicroBatch;
      return head.judge(batch, Float32Array.from(logits.slice(from * outputs, to * outputs))).sums;
    };
    const sums = [part(0, 7), part(7, 120), part(120, 300)].reduce(addSums);
    const { metrics: found, details } = head.values(sums);
    expect(Object.keys(found).sort()).toEqual(Object.keys(metrics).sort());
    for (const [name, value] of Object.entries(metrics))
      expectWithin(`${name}: ${found[name]}, ${value}`, Math.abs(found[name]! - value), 1e-6);
    if (kind !== "single") return;
    const { counts } = details!["confusion"] as { counts: number[][] };
    expect(counts.flat().reduce((sum, each) => sum + each, 0)).toBe(300);
    counts.forEach((row, y) => expect(row.reduce((sum, each) => sum + each, 0)).toBe(target.filter((each) => each === y).length));
  },
);

test("the temperature is PyTorch's within 1e-4, and with it the calibration error within 0.005 and the Brier score", () => {
  const { logits, target, calibrated } = cases.metrics[0]!;
  const part = (from: number, to: number) => ({
    logits: Float32Array.from(logits.slice(4 * from, 4 * to)),
    targets: Float32Array.from(target.slice(from, to)),
  });
  const temperature = fitTemperature([part(0, 17), part(17, 300)], "single", 4);
  expectWithin("temperature", Math.abs(temperature - calibrated!.temperature), 1e-4);
  const head = classify.create({ labels: four, labelKind: "single", labelSmoothing: 0 }) as LogitsHead;
  const all = part(0, 300);
  const batch = { examples: 300, targets: all.targets } as MicroBatch;
  const { metrics } = head.values(head.judge(batch, tempered(all.logits, temperature)).sums);
  expectWithin("calibration error", Math.abs(metrics["ece"]! - calibrated!.ece), 0.005);
  expectWithin("Brier score", Math.abs(metrics["brier"]! - calibrated!.brier), 1e-5);
});

test("a temperature undoes a factor of the logits; of any number of classes too; where all texts are right it ends", () => {
  const random = createRandom(1, "temperature");
  const logits = Float32Array.from({ length: 4000 }, () => 3 * random.normal());
  const several = Float32Array.from(logits, (z) => Number(random.uniform() < 1 / (1 + Math.exp(-z / 2.5))));
  expectWithin("temperature", Math.abs(fitTemperature([{ logits, targets: several }], "several", 4) - 2.5), 0.3);
  const right = Float32Array.from(logits, (z) => Number(z > 0));
  expect(fitTemperature([{ logits, targets: right }], "several", 4)).toBeCloseTo(0.05, 6);
});

test("the last token of a text is the last one that is not padding by its id; without such an id the last one", () => {
  const ids = Int32Array.of(5, 6, 0, 7, 8, 0, 0, 0, 0, 9);
  const spans = [[{ from: 0, to: 3 }], [{ from: 3, to: 5 }], [{ from: 5, to: 8 }], [{ from: 8, to: 10 }]];
  expect([...lastTokens({ ids, spans }, 0)]).toEqual([1, 4, 5, 9]);
  expect([...lastTokens({ ids, spans }, null)]).toEqual([2, 4, 7, 9]);
});

describe("what labels are", () => {
  const found = (labels: readonly Label[], asked: LabelKind | null = null) => {
    const finder = createLabelFinder(asked);
    labels.forEach((label, i) => finder.add(label, `d:${i + 1}`));
    const { kind, counts } = finder.found();
    return [kind, ...counts] as const;
  };

  test("names, whole numbers in their order, lists, numbers with fractions, also as texts of a table", () => {
    expect(found(["b", "a", "b"])).toEqual(["single", ["a", 1], ["b", 2]]);
    expect(found([10, 9, 10])).toEqual(["single", ["9", 1], ["10", 2]]);
    expect(found(["10", "9"])).toEqual(["single", ["9", 1], ["10", 1]]);
    expect(found([["b", "a", "b"], [], ["b"]])).toEqual(["several", ["a", 1], ["b", 2]]);
    expect(found([1, 2.5])).toEqual(["number"]);
    expect(found(["1", "2.5"])).toEqual(["number"]);
    expect(found([1, 2], "number")).toEqual(["number"]);
    expect(found(["1", "2.5"], "single")).toEqual(["single", ["1", 1], ["2.5", 1]]);
  });

  test("labels of several kinds are refused where the second one is", () => {
    expect(() => found(["a", "b", 1])).toThrow('d:3: "label" is 1, and "a" at d:1; expected labels of one kind');
    expect(() => found(["a", ["b"]])).toThrow('d:2: "label" is ["b"], and "a" at d:1');
    expect(() => found(["1.5", "a"])).toThrow('d:2: "label" is "a"; some labels are numbers with fractions and some are none');
    expect(() => found(["a"], "several")).toThrow('d:1: "label" is "a"; --label-kind several wants a list');
    expect(() => found([["a"]], "single")).toThrow('d:1: "label" is a list; --label-kind single wants one label for each text');
    expect(() => found(["x"], "number")).toThrow('d:1: "label" is "x"; --label-kind number wants a number');
  });
});
