import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import type { MicroBatch } from "../../src/data/samples/batch.ts";
import { METRICS } from "../../src/objectives/index.ts";
import { addSums, type OpenHead } from "../../src/objectives/objective.ts";
import { expectWithin, relativeError } from "../support/ops.ts";
import { objectiveWith, unpairedBatches, unpairedSamples } from "../support/preferences.ts";

const SETTINGS = { ktoBeta: 0.7, ktoDesirableWeight: 1.3, ktoUndesirableWeight: 0.6 };
const objective = objectiveWith({ objective: "kto", ...SETTINGS });
const head = objective.head as OpenHead;

/** Losses of the labelled tokens as a model might have them; 0 elsewhere. */
function lossesOf({ labels }: MicroBatch): Float32Array {
  const random = createRandom(3, "losses");
  return Float32Array.from(labels, (label) => (label < 0 ? 0 : 0.2 + 3 * random.uniform()));
}

const logp = (losses: ArrayLike<number>, { from, to }: { from: number; to: number }) =>
  Array.from({ length: to - from }, (_, i) => losses[from + i]!).reduce((sum, loss) => sum - loss, 0);

/** With the log-probabilities of a reference that is not far from such a model; mismatched ones `moved` less likely. */
function withReferences(batch: MicroBatch, moved: number): MicroBatch & { readonly mismatched: MicroBatch } {
  const random = createRandom(4, "references");
  const near = (part: MicroBatch, less: number): MicroBatch => {
    const losses = lossesOf(part);
    const references = part.spans.map(([span]) => logp(losses, span!) + 2 * random.uniform() - 1 - less);
    return { ...part, references: Float64Array.from(references) };
  };
  return { ...near(batch, 0), mismatched: near(batch.mismatched!, moved) };
}

/** Judges a micro-batch whose mismatched texts have losses as a model might have them. */
const judged = (batch: MicroBatch, losses = lossesOf(batch), own = head) => own.judge(batch, losses, lossesOf(batch.mismatched!));

/** The paper's loss, in float64: the sum over answers of what the loss is the mean of. */
function defined(batch: MicroBatch & { readonly mismatched: MicroBatch }, losses: ArrayLike<number>): number {
  const { spans, targets, mismatched } = batch;
  const ratioIn = (part: MicroBatch, own: ArrayLike<number>, i: number) => logp(own, part.spans[i]![0]!) - part.references![i]!;
  const others = lossesOf(mismatched);
  const z = Math.max(0, spans.reduce((sum, _, i) => sum + ratioIn(mismatched, others, i), 0) / spans.length);
  const ratio = (i: number) => ratioIn(batch, losses, i);
  const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
  return spans.reduce((sum, _, i) => {
    const value = sigmoid((targets![i] === 1 ? 1 : -1) * SETTINGS.ktoBeta * (ratio(i) - z));
    return sum + (targets![i] === 1 ? SETTINGS.ktoDesirableWeight : SETTINGS.ktoUndesirableWeight) * (1 - value);
  }, 0);
}

describe("KTO", () => {
  for (const [packing, moved] of [
    [false, 2],
    [true, 2],
    [false, -2],
  ] as const) {
    test(`loss within 1e-9 of its definition, weights within 1e-6 of central differences, nothing learned from mismatched texts: ${packing ? "packed" : "padded"}, z ${moved > 0 ? "above" : "at"} 0`, () => {
      const batch = withReferences(unpairedBatches(unpairedSamples(), packing).batch(0, 1), moved);
      const losses = lossesOf(batch);
      const { sums, weights } = judged(batch, losses);
      const exact = Float64Array.from(losses);
      const { loss, metrics } = head.values(sums);
      expect(loss * head.share(batch)).toBeCloseTo(defined(batch, exact), 9);
      expect(metrics["kl"]! > 0).toBe(moved > 0);
      const differences = new Float64Array(exact.length);
      for (const [text] of batch.spans)
        for (let t = text!.from; t < text!.to; t++) {
          if (head.labels(batch)[t]! < 0) continue;
          const at = (by: number) => defined(batch, exact.with(t, exact[t]! + by));
          differences[t] = (at(1e-5) - at(-1e-5)) / 2e-5;
        }
      expectWithin("weights", relativeError(weights, differences), 1e-6);
      expect(Math.max(...weights)).toBeGreaterThan(0);
      expect(Math.min(...weights)).toBeLessThan(0);
      // They have no place among the tokens that are learned.
      expect(weights.length).toBe(batch.tokens);
      expect(batch.spans.every((texts) => texts.length === 1)).toBe(true);
    });
  }

  test("apo_zero_unpaired: z is 0, no second text is needed and none counts; weights within 1e-6 of central differences", () => {
    const apo = objectiveWith({ objective: "kto", ktoLoss: "apo_zero_unpaired", ...SETTINGS });
    expect([apo.texts, apo.mismatched, apo.metrics.some(({ name }) => name === "kl")]).toEqual([1, false, false]);
    expect([objective.texts, objective.mismatched]).toEqual([1, true]);
    const own = apo.head as OpenHead;
    // At z = 0 the paper's loss is this one.
    const pairs = withReferences(unpairedBatches().batch(0, 1), -2);
    const losses = lossesOf(pairs);
    const { sums, weights } = own.judge(pairs, losses);
    expect(own.values(sums).loss * own.share(pairs)).toBeCloseTo(defined(pairs, Float64Array.from(losses)), 9);
    const { mismatched: _, ...alone } = pairs;
    const single = own.judge(alone, losses);
    expect([single.sums, [...single.weights]]).toEqual([sums, [...weights]]);
    expect(own.values(sums).metrics["kl"]).toBeUndefined();
  });

  test("is finite where the losses of all tokens of a text are 1e4", () => {
    const batch = withReferences(unpairedBatches().batch(0, 0), 0);
    for (const texts of batch.spans)
      for (const { from, to } of texts) {
        const losses = lossesOf(batch).fill(1e4, from, to);
        const { sums, weights } = judged(batch, losses);
        const { loss, metrics } = head.values(sums);
        for (const value of [loss, ...Object.values(metrics), ...weights]) expect(Number.isFinite(value)).toBe(true);
      }
  });

  test("metrics of several micro-batches: of a kind the mean over its answers; without any of a kind there are none", () => {
    const [a, b] = [0, 1].map((index) => withReferences(unpairedBatches().batch(0, index), 1)) as [MicroBatch, MicroBatch];
    const all = (batch: MicroBatch, is: boolean): MicroBatch => ({
      ...batch,
      targets: Float32Array.from(batch.spans, () => Number(is)),
    });
    const values = (...batches: MicroBatch[]) => head.values(batches.map((batch) => judged(batch).sums).reduce(addSums)).metrics;
    const [good, bad] = [values(all(a, true)), values(all(b, false))];
    expect(Object.keys(good).sort()).toEqual(["kl", "logps/chosen", "rewards/chosen"]);
    expect(Object.keys(bad).sort()).toEqual(["kl", "logps/rejected", "rewards/rejected"]);
    const together = values(all(a, true), all(b, false));
    expect(together["rewards/chosen"]).toBe(good["rewards/chosen"]!);
    expect(together["logps/rejected"]).toBe(bad["logps/rejected"]!);
    expect(together["rewards/margins"]).toBeCloseTo(good["rewards/chosen"]! - bad["rewards/rejected"]!, 9);
    expect(together["kl"]).toBeCloseTo((good["kl"]! + bad["kl"]!) / 2, 9);
    expect(Object.keys(together).sort()).toEqual(objective.metrics.map(({ name }) => name).sort());
    for (const { name } of objective.metrics) expect(METRICS.get(name)).toBeDefined();
  });

  test("a micro-batch without a reference is an error, not a loss", () => {
    const batch = unpairedBatches().batch(0, 0);
    expect(() => judged(batch)).toThrow("the log-probabilities of the reference were not computed");
    expect(() => head.judge(withReferences(batch, 0), lossesOf(batch))).toThrow("the mismatched texts were not computed");
  });
});
