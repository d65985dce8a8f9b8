import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { addSums, type OpenHead } from "../../src/objectives/objective.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { objectiveWith, preferenceBatches, preferenceSamples } from "../support/preferences.ts";

const BETA = 0.7;
const CASES = [
  { dpoLoss: "sigmoid", dpoLabelSmoothing: 0 },
  { dpoLoss: "sigmoid", dpoLabelSmoothing: 0.2 },
  { dpoLoss: "hinge", dpoLabelSmoothing: 0 },
  { dpoLoss: "ipo", dpoLabelSmoothing: 0 },
] as const;

/** Losses of the labelled tokens as a model might have them; 0 elsewhere. */
function lossesOf({ labels }: MicroBatch): Float32Array {
  const random = createRandom(3, "losses");
  return Float32Array.from(labels, (label) => (label < 0 ? 0 : 0.2 + 3 * random.uniform()));
}

/** With the log-probabilities of a reference that is not far from such a model. */
function withReferences(batch: MicroBatch): MicroBatch {
  const random = createRandom(4, "references");
  const losses = lossesOf(batch);
  const near = batch.spans.flat().map(({ from, to }) => {
    const own = losses.subarray(from, to).reduce((sum, loss) => sum - loss, 0);
    return own + 2 * random.uniform() - 1;
  });
  return { ...batch, references: Float64Array.from(near) };
}

/** The papers' losses, in float64: the sum over pairs of what the loss is the mean of. */
function defined(
  { labels, spans, references }: MicroBatch,
  losses: ArrayLike<number>,
  { dpoLoss, dpoLabelSmoothing: e }: (typeof CASES)[number],
): number {
  const ratio = ({ from, to }: { from: number; to: number }, reference: number) => {
    const at = Array.from({ length: to - from }, (_, i) => from + i).filter((t) => labels[t]! >= 0);
    const whole = at.reduce((sum, t) => sum - losses[t]!, 0) - reference;
    return dpoLoss === "ipo" ? whole / at.length : whole;
  };
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
  return spans.reduce((sum, [chosen, rejected], i) => {
    const d = ratio(chosen!, references![2 * i]!) - ratio(rejected!, references![2 * i + 1]!);
    switch (dpoLoss) {
      case "sigmoid":
        return sum - (1 - e) * Math.log(sigmoid(BETA * d)) - e * Math.log(sigmoid(-BETA * d));
      case "hinge":
        return sum + Math.max(0, 1 - BETA * d);
      case "ipo":
        return sum + (d - 1 / (2 * BETA)) ** 2;
    }
  }, 0);
}

describe.each(CASES)("DPO, %j", (flags) => {
  const head = objectiveWith({ objective: "dpo", dpoBeta: BETA, ...flags }).head as OpenHead;
  for (const packing of [false, true]) {
    test(`loss within 1e-9 of its definition, weights within 1e-6 of its central differences: ${packing ? "packed" : "padded"}`, () => {
      const batch = withReferences(preferenceBatches(preferenceSamples(), packing).batch(0, 1));
      const losses = lossesOf(batch);
      const { sums, weights } = head.judge(batch, losses);
      const exact = Float64Array.from(losses);
      expect(head.values(sums).loss * head.share(batch)).toBeCloseTo(defined(batch, exact, flags), 9);
      const differences = exact.map((loss, t) => {
        if (head.labels(batch)[t]! < 0) return 0;
        const at = (moved: number) => defined(batch, exact.with(t, moved), flags);
        return (at(loss + 1e-5) - at(loss - 1e-5)) / 2e-5;
      });
      expectWithin("weights", relativeError(weights, differences), 1e-6);
      expect(Math.max(...weights)).toBeGreaterThan(0);
    });
  }

  test("is finite where the losses of all tokens of an answer are 1e4", () => {
    const batch = withReferences(preferenceBatches().batch(0, 0));
    for (const side of [0, 1]) {
      const losses = lossesOf(batch);
      const { from, to } = batch.spans[0]![side]!;
      losses.fill(1e4, from, to);
      const { sums, weights } = head.judge(batch, losses);
      const { loss, metrics } = head.values(sums);
      for (const value of [loss, ...Object.values(metrics), ...weights]) expect(Number.isFinite(value)).toBe(true);
    }
  });
});

test("every metric that is declared comes of the sums, and no other; sums of micro-batches add up by their pairs", () => {
  const objective = objectiveWith({ objective: "dpo", dpoBeta: BETA });
  const head = objective.head as OpenHead;
  const [one, other] = [preferenceBatches(preferenceSamples(), true).batch(0, 0), preferenceBatches().batch(0, 0)].map(
    withReferences,
  );
  const [a, b] = [one!, other!].map((batch) => head.judge(batch, lossesOf(batch)).sums);
  const [n, m] = [one!, other!].map((batch) => head.share(batch)) as [number, number];
  expect(n).not.toBe(m);
  const together = head.values(addSums(a!, b!)).metrics;
  expect(Object.keys(together).sort()).toEqual(objective.metrics.map(({ name }) => name).sort());
  const [first, second] = [head.values(a!).metrics, head.values(b!).metrics];
  for (const [name, value] of Object.entries(together))
    expect(value).toBeCloseTo((n * first[name]! + m * second[name]!) / (n + m), 9);
});

test("a micro-batch without a reference is an error, not a loss", () => {
  const head = objectiveWith({ objective: "dpo" }).head as OpenHead;
  const batch = preferenceBatches().batch(0, 0);
  expect(() => head.judge(batch, lossesOf(batch))).toThrow("the log-probabilities of the reference were not computed");
});
