import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { METRICS } from "../../src/objectives/index.ts";
import { addSums, type OpenHead } from "../../src/objectives/objective.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { objectiveWith, preferenceBatches, preferenceSamples } from "../support/preferences.ts";

const objective = objectiveWith({ objective: "simpo", simpoBeta: 1.7, simpoGamma: 0.6 });
const head = objective.head as OpenHead;

/** Losses of the labelled tokens as a model might have them; 0 elsewhere. */
function lossesOf({ labels }: MicroBatch): Float32Array {
  const random = createRandom(3, "losses");
  return Float32Array.from(labels, (label) => (label < 0 ? 0 : 0.2 + 3 * random.uniform()));
}

/** SimPO as the paper has it, in float64: the sum over pairs of what the loss is the mean of. */
function defined({ labels, spans }: MicroBatch, losses: ArrayLike<number>): number {
  const likelihood = ({ from, to }: { from: number; to: number }) => {
    const at = Array.from({ length: to - from }, (_, i) => from + i).filter((t) => labels[t]! >= 0);
    return at.reduce((sum, t) => sum - losses[t]!, 0) / at.length;
  };
  return spans.reduce((sum, [chosen, rejected]) => {
    const margin = 1.7 * likelihood(chosen!) - 1.7 * likelihood(rejected!) - 0.6;
    return sum - Math.log(1 / (1 + Math.exp(-margin)));
  }, 0);
}

describe("SimPO", () => {
  for (const packing of [false, true]) {
    test(`loss within 1e-11 of its definition, weights within 1e-7 of its central differences: ${packing ? "packed" : "padded"}`, () => {
      const batch = preferenceBatches(preferenceSamples(), packing).batch(0, 1);
      const losses = lossesOf(batch);
      const { sums, weights } = head.judge(batch, losses);
      const exact = Float64Array.from(losses);
      expect(head.values(sums).loss * head.share(batch)).toBeCloseTo(defined(batch, exact), 11);
      const differences = exact.map((loss, t) => {
        if (head.labels(batch)[t]! < 0) return 0;
        const at = (moved: number) => defined(batch, exact.with(t, moved));
        return (at(loss + 1e-5) - at(loss - 1e-5)) / 2e-5;
      });
      expectWithin("weights", relativeError(weights, differences), 1e-7);
      expect(Math.min(...weights)).toBeLessThan(0);
      expect(Math.max(...weights)).toBeGreaterThan(0);
    });
  }

  test.each([
    [0, 0],
    [0, 1e4],
    [1e4, 0],
    [1e4, 1e4],
  ])("is finite where the losses of all tokens of the answers are %d and %d", (first, second) => {
    const batch = preferenceBatches().batch(0, 0);
    const [chosen, rejected] = batch.spans[0]!;
    const losses = lossesOf(batch);
    losses.fill(first, chosen!.from, chosen!.to).fill(second, rejected!.from, rejected!.to);
    const { sums, weights } = head.judge(batch, losses);
    const { loss, metrics } = head.values(sums);
    for (const value of [loss, ...Object.values(metrics), ...weights]) expect(Number.isFinite(value)).toBe(true);
  });

  test("every metric that is declared comes of the sums, and no other; sums of micro-batches add up by their pairs", () => {
    const [one, other] = [preferenceBatches(preferenceSamples(), true).batch(0, 0), preferenceBatches().batch(0, 0)];
    const [a, b] = [one, other].map((batch) => head.judge(batch, lossesOf(batch)).sums);
    const [n, m] = [one, other].map((batch) => head.share(batch)) as [number, number];
    expect(n).not.toBe(m);
    const together = head.values(addSums(a!, b!)).metrics;
    expect(Object.keys(together).sort()).toEqual(objective.metrics.map(({ name }) => name).sort());
    for (const [name, value] of Object.entries(together)) {
      expect(METRICS.has(name)).toBe(true);
      expect(value).toBeCloseTo((n * head.values(a!).metrics[name]! + m * head.values(b!).metrics[name]!) / (n + m), 12);
    }
  });
});
