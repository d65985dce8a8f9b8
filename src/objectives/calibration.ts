import type { LabelKind } from "../hf/config/classifier.ts";
import { logSigmoid, logSoftmax } from "./logistic.ts";

/** Texts' logits, one text behind the other, and their targets. */
export interface JudgedLogits {
  readonly logits: Float32Array;
  readonly targets: Float32Array;
}

/** The temperatures that a search goes through; where all texts are judged rightly, none would be low enough. */
const [LEAST, MOST] = [0.05, 20];

/**
 * Finds the temperature T by which logits are to be divided, so that the probabilities of texts that were not learned are as likely as can be (Guo
 * et al. 2017, https://arxiv.org/abs/1706.04599). The classes' order stays. In 1 / T the loss is convex: its derivative, of which the root is wanted, only grows.
 */
export function fitTemperature(judged: readonly JudgedLogits[], kind: Exclude<LabelKind, "number">, classes: number): number {
  const slope = (inverse: number): number =>
    judged.reduce((sum, each) => sum + (kind === "single" ? singleSlope : severalSlope)(each, classes, inverse), 0);
  let [low, high] = [Math.log(1 / MOST), Math.log(1 / LEAST)];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (slope(Math.exp(middle)) < 0) low = middle;
    else high = middle;
  }
  return Math.exp(-(low + high) / 2);
}

/** The derivative of sum -log softmax(z b)[y] by b: sum_c p_c z_c - z_y. */
function singleSlope({ logits, targets }: JudgedLogits, classes: number, inverse: number): number {
  let sum = 0;
  targets.forEach((y, i) => {
    const z = logits.subarray(i * classes, (i + 1) * classes);
    const logp = logSoftmax(Float64Array.from(z, (each) => each * inverse));
    sum += logp.reduce((mean, each, c) => mean + Math.exp(each) * z[c]!, 0) - z[y]!;
  });
  return sum;
}

/** The same of each class by itself: (sigmoid(z b) - y) z. */
function severalSlope({ logits, targets }: JudgedLogits, _: number, inverse: number): number {
  return logits.reduce((sum, z, i) => sum + (Math.exp(logSigmoid(z * inverse)) - targets[i]!) * z, 0);
}

/** Logits at a temperature. */
export function tempered(logits: Float32Array, temperature: number): Float32Array {
  return temperature === 1 ? logits : logits.map((z) => z / temperature);
}
