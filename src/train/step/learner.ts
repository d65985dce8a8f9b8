import type { MicroBatch, TokenBatch } from "../../data/samples/batch.ts";
import type { Head, LogitsHead, OpenHead, Sums } from "../../objectives/objective.ts";
import { headBatch } from "../../load/head-batch.ts";
import type { Engine } from "./engine.ts";

/** An engine that learns an objective. */
export interface Learner {
  readonly head: Head;
  /**
   * Forward and backward of one micro-batch; adds to the gradients. `total` is what all micro-batches of the step count; `draw` counts
   * micro-batches and keys dropout. Returns its part of the step's loss, and with an open head what its metrics are made of.
   */
  learn(batch: MicroBatch, total: number, seed: number, draw: number): { readonly loss: number; readonly sums: Sums | null };
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
      return openLearner(engine, head, (batch) => engine.textLogits(batch));
  }
}

/** @param found forward alone: what the head gives */
function openLearner(engine: Engine, head: OpenHead | LogitsHead, found: (batch: TokenBatch) => Float32Array): Learner {
  const { config } = engine;
  return {
    head,
    learn(batch, total, seed, draw) {
      let sums: Sums = {};
      engine.forwardBackwardOpen(headBatch(head, batch, config), 1 / total, seed, draw, (values) => {
        const judgement = head.judge(batch, values);
        sums = judgement.sums;
        return judgement.weights;
      });
      return { loss: (head.values(sums).loss * head.share(batch)) / total, sums };
    },
    evaluate: (batch) => head.judge(batch, found(headBatch(head, batch, config))).sums,
  };
}
