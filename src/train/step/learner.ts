import type { MicroBatch, TokenBatch } from "../../data/samples/batch.ts";
import type { Head, JudgedTexts, Judgement, LogitsHead, OpenHead, Sums } from "../../objectives/objective.ts";
import { headBatch } from "../../load/head-batch.ts";
import { createSweeper } from "../../base/process/garbage.ts";
import type { Engine } from "./engine.ts";

/** An engine that learns an objective. */
export interface Learner {
  readonly head: Head;
  /**
   * Forward and backward of one micro-batch; adds to the gradients. `total` is what all micro-batches of the step count; `draw` counts
   * micro-batches and keys dropout. Returns its part of the step's loss, and with an open head what its metrics are made of.
   */
  learn(batch: MicroBatch, total: number, seed: number, draw: number): { readonly loss: number; readonly sums: Sums | null };
  /** Judges the texts of all micro-batches of a step together, before it learns them one by one; absent: each is judged by itself. */
  prepare?(group: readonly MicroBatch[]): void;
  /** Forward alone, dropout off. */
  evaluate(batch: MicroBatch): Sums;
}

export function createLearner(engine: Engine, head: Head): Learner {
  switch (head.kind) {
    case "loss":
      return {
        head,
        learn: (batch, total, seed, draw) => ({ loss: engine.forwardBackward(batch, 1 / total, seed, draw), sums: null }),
        evaluate: (batch) => head.sums(batch, engine.evaluate(batch)),
      };
    case "token-losses":
      return openLearner(engine, head, (batch) => engine.tokenLosses(batch));
    case "logits":
      return head.wholeStep ? stepLearner(engine, head) : openLearner(engine, head, (batch) => engine.textLogits(batch));
  }
}

/** @param found forward alone: what the head gives */
function openLearner(engine: Engine, head: OpenHead | LogitsHead, found: (batch: TokenBatch) => Float32Array): Learner {
  const { config } = engine;
  /** Texts that nothing is learned from have a forward alone, before those that are learned have theirs. */
  const foundMismatched = ({ mismatched }: MicroBatch) => mismatched && found(headBatch(head, mismatched, config)).slice();
  return {
    head,
    learn(batch, total, seed, draw) {
      let sums: Sums = {};
      const mismatched = foundMismatched(batch);
      engine.forwardBackwardOpen(headBatch(head, batch, config), 1 / total, seed, draw, (values) => {
        const judgement = judged(head, batch, values, mismatched);
        sums = judgement.sums;
        return judgement.weights;
      });
      return { loss: (head.values(sums).loss * head.share(batch)) / total, sums };
    },
    evaluate(batch) {
      const mismatched = foundMismatched(batch);
      const values = found(headBatch(head, batch, config));
      return (head.kind === "logits" && head.evaluate?.(batch, values)) || judged(head, batch, values, mismatched).sums;
    },
  };
}

function judged(head: OpenHead | LogitsHead, batch: MicroBatch, values: Float32Array, mismatched?: Float32Array): Judgement {
  return head.kind === "logits" ? head.judge(batch, values) : head.judge(batch, values, mismatched);
}

/**
 * GradCache (Gao et al. 2021, https://arxiv.org/abs/2101.06983): the texts' numbers of all micro-batches are computed without tapes, what is made of them
 * together gives the derivatives by each, and with these every micro-batch is learned by itself. The gradients are those of one micro-batch of
 * the step's size, at the memory of a small one and one more forward.
 */
function stepLearner(engine: Engine, head: LogitsHead): Learner {
  const { config } = engine;
  const sweep = createSweeper();
  const known = new WeakMap<MicroBatch, { readonly weights: Float64Array; readonly loss: number; readonly sums: Sums }>();
  return {
    ...openLearner(engine, head, (batch) => engine.textLogits(batch)),
    prepare(group) {
      const found = group.map((batch) => {
        // What the batches before it were made of is not to add up: the step is to take what a small one takes.
        sweep();
        return engine.textLogits(headBatch(head, batch, config)).slice();
      });
      const logits = new Float32Array(found.reduce((sum, { length }) => sum + length, 0));
      const places = found.map((_, i) => found.slice(0, i).reduce((sum, { length }) => sum + length, 0));
      for (const [i, values] of found.entries()) logits.set(values, places[i]!);
      const { sums, weights } = head.judge(together(group), logits);
      const { loss } = head.values(sums);
      for (const [i, batch] of group.entries()) {
        const own = weights.subarray(places[i]!, places[i]! + found[i]!.length);
        // Loss and metrics are the step's, and told with its first micro-batch.
        known.set(batch, i === 0 ? { weights: own, loss, sums } : { weights: own, loss: 0, sums: {} });
      }
    },
    learn(batch, total, seed, draw) {
      const judged = known.get(batch);
      if (!judged) throw new Error("a micro-batch that was not prepared");
      engine.forwardBackwardOpen(headBatch(head, batch, config), 1 / total, seed, draw, () => judged.weights);
      return { loss: judged.loss, sums: judged.sums };
    },
  };
}

/** The examples of several micro-batches as those of one. */
function together(group: readonly MicroBatch[]): JudgedTexts {
  const ids = new Int32Array(group.reduce((sum, { tokens }) => sum + tokens, 0));
  const targets = group.flatMap((batch) => (batch.targets ? [...batch.targets] : []));
  let start = 0;
  const spans = group.flatMap((batch) => {
    const at = start;
    ids.set(batch.ids, at);
    start += batch.tokens;
    return batch.spans.map((texts) => texts.map(({ from, to }) => ({ from: at + from, to: at + to })));
  });
  return { examples: spans.length, spans, ids, ...(targets.length > 0 && { targets: Float32Array.from(targets) }) };
}
