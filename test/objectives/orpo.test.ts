import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { METRICS, metricOf, metricTexts } from "../../src/objectives/index.ts";
import { addSums, type OpenHead } from "../../src/objectives/objective.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { objectiveWith, preferenceBatches, preferenceSamples } from "../support/preferences.ts";

const headOf = (orpoLambda: number, orpoNll: "response" | "all") =>
  objectiveWith({ objective: "orpo", orpoLambda, orpoNll }).head as OpenHead;

/** Losses of the labelled tokens as a model might have them; 0 elsewhere. */
function lossesOf(batch: MicroBatch, head: OpenHead, scale = 1): Float32Array {
  const random = createRandom(2, "losses");
  return Float32Array.from(head.labels(batch), (label) => (label < 0 ? 0 : scale * (0.2 + 3 * random.uniform())));
}

/** ORPO as the paper has it, in float64: the sum over pairs of what the loss is the mean of. */
function defined({ labels, spans }: MicroBatch, losses: ArrayLike<number>, lambda: number, all: boolean): number {
  const mean = (at: number[]) => at.reduce((sum, t) => sum + losses[t]!, 0) / at.length;
  const positions = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
  const answer = ({ from, to }: { from: number; to: number }) => positions(from, to).filter((t) => labels[t]! >= 0);
  const odds = (nll: number) => Math.exp(-nll) / (1 - Math.exp(-nll));
  const learned = spans.flatMap(([chosen]) => (all ? positions(chosen!.from, chosen!.to - 1) : answer(chosen!)));
  const preference = spans.reduce(
    (sum, [chosen, rejected]) => sum - Math.log(1 / (1 + odds(mean(answer(rejected!))) / odds(mean(answer(chosen!))))),
    0,
  );
  return spans.length * mean(learned) + lambda * preference;
}

describe("ORPO", () => {
  for (const nll of ["response", "all"] as const) {
    for (const packing of [false, true]) {
      test(`loss within 1e-12 of its definition, weights within 1e-7 of its central differences: nll of ${nll}, ${packing ? "packed" : "padded"}`, () => {
        const head = headOf(0.7, nll);
        const batches = preferenceBatches(preferenceSamples(), packing);
        const batch = batches.batch(0, 1);
        const losses = lossesOf(batch, head);
        const { sums, weights } = head.judge(batch, losses);
        const exact = Float64Array.from(losses);
        const value = defined(batch, exact, 0.7, nll === "all");
        expect(head.values(sums).loss * head.share(batch)).toBeCloseTo(value, 11);
        const differences = exact.map((loss, t) => {
          if (head.labels(batch)[t]! < 0) return 0;
          const at = (moved: number) => defined(batch, exact.with(t, moved), 0.7, nll === "all");
          return (at(loss + 1e-5) - at(loss - 1e-5)) / 2e-5;
        });
        expectWithin("weights", relativeError(weights, differences), 1e-7);
        expect(Math.min(...weights)).toBeLessThan(0);
        expect(Math.max(...weights)).toBeGreaterThan(0);
      });
    }
  }

  test("labels: of a chosen text everything with --orpo-nll all, of a rejected one the answer", () => {
    const batch = preferenceBatches().batch(0, 0);
    const [all, response] = [headOf(0.1, "all").labels(batch), headOf(0.1, "response").labels(batch)];
    expect(response).toBe(batch.labels);
    for (const [chosen, rejected] of batch.spans) {
      expect([...all.subarray(chosen!.from, chosen!.to)]).toEqual([...batch.ids.subarray(chosen!.from + 1, chosen!.to), -100]);
      expect(all.subarray(rejected!.from, rejected!.to)).toEqual(batch.labels.subarray(rejected!.from, rejected!.to));
    }
  });

  test("is finite where a model is certain, of the right answer or the wrong one, and where it finds an answer impossible", () => {
    const head = headOf(1, "response");
    const batch = preferenceBatches().batch(0, 0);
    const [chosen, rejected] = batch.spans[0]!;
    for (const [first, second] of [
      [0, 0],
      [0, 5],
      [5, 0],
      [1e-8, 2],
      [80, 0],
      [0, 200],
      [1e4, 1e4],
    ] as const) {
      const losses = lossesOf(batch, head);
      losses.fill(first, chosen!.from, chosen!.to).fill(second, rejected!.from, rejected!.to);
      const { sums, weights } = head.judge(batch, losses);
      const { loss, metrics } = head.values(sums);
      for (const value of [loss, ...Object.values(metrics), ...weights]) expect(Number.isFinite(value)).toBe(true);
    }
  });

  test("sums of micro-batches add up: means count pairs, whatever the micro-batch", () => {
    const head = headOf(0.5, "response");
    const one = preferenceBatches(preferenceSamples(), true).batch(0, 0);
    const other = preferenceBatches().batch(0, 0);
    const [a, b] = [one, other].map((batch) => head.judge(batch, lossesOf(batch, head)).sums);
    const [n, m] = [one, other].map((batch) => head.share(batch));
    const together = head.values(addSums(a!, b!));
    const mean = (name: string) => (n! * head.values(a!).metrics[name]! + m! * head.values(b!).metrics[name]!) / (n! + m!);
    for (const name of Object.keys(together.metrics)) expect(together.metrics[name]!).toBeCloseTo(mean(name), 12);
    expect(n).not.toBe(m);
  });
});

describe("metrics", () => {
  test("every one that an objective declares comes of its sums, and no other", () => {
    const head = headOf(0.5, "response");
    const batch = preferenceBatches().batch(0, 0);
    const { metrics } = head.values(head.judge(batch, lossesOf(batch, head)).sums);
    const objective = objectiveWith({ objective: "orpo", orpoLambda: 0.5, orpoNll: "response" });
    expect(Object.keys(metrics).sort()).toEqual(objective.metrics.map(({ name }) => name).sort());
    for (const name of Object.keys(metrics)) expect(METRICS.has(name)).toBe(true);
  });

  test("are words in their order, and a name that an objective has not is refused with those that it has", () => {
    expect(metricTexts({ accuracy: 0.256, perplexity: 1.2345, nll_loss: 2 }).join(", ")).toBe(
      "perplexity 1.23, token accuracy 25.6 %, nll 2.0000",
    );
    const objective = objectiveWith({ objective: "next-token" });
    expect(metricOf(objective, "accuracy").better).toBe("higher");
    expect(() => metricOf(objective, "nll_loss")).toThrow("the objective next-token has the metrics loss, perplexity, accuracy");
  });
});
