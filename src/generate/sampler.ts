import { createRandom } from "../random.ts";

export interface SamplingOptions {
  /** 0: the likeliest token. */
  readonly temperature: number;
  /** Only the likeliest `topK`; 0: all. */
  readonly topK: number;
  /** Only the likeliest that together reach this probability; 1: all. */
  readonly topP: number;
  /** Only those of at least this share of the likeliest one's probability; 0: all. */
  readonly minP: number;
  /** Positive logits of tokens in the text are divided by it, negative ones multiplied; 1: none. */
  readonly repetitionPenalty: number;
  readonly seed: number;
}

export const GREEDY: SamplingOptions = { temperature: 0, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, seed: 0 };

/** Chooses the next token from logits, which it may change, and the text so far. */
export type Sampler = (logits: Float32Array, text: readonly number[]) => number;

/**
 * The filters in the order of Transformers: repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858),
 * temperature, top-k, top-p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751), min-p (Nguyen et al. 2024,
 * https://arxiv.org/abs/2407.01082). Equal logits rank by token id.
 */
export function createSampler(options: SamplingOptions): Sampler {
  const { temperature, topK, topP, minP, repetitionPenalty, seed } = options;
  const random = createRandom(seed, "sampling");
  return (logits, text) => {
    if (repetitionPenalty !== 1) {
      for (const id of new Set(text)) logits[id]! *= logits[id]! > 0 ? 1 / repetitionPenalty : repetitionPenalty;
    }
    if (temperature === 0) return argmax(logits);
    let kept = likeliest(logits, topK > 0 ? Math.min(topK, logits.length) : logits.length);
    const greatest = logits[kept[0]!]!;
    const weights = Float64Array.from(kept, (id) => Math.exp((logits[id]! - greatest) / temperature));
    let total = weights.reduce((sum, weight) => sum + weight, 0);
    if (topP < 1) {
      let sum = 0;
      let count = 0;
      while (count < kept.length && (count === 0 || sum < topP * total)) sum += weights[count++]!;
      kept = kept.subarray(0, count);
    }
    // The likeliest has weight 1.
    let count = kept.length;
    while (count > 1 && weights[count - 1]! < minP) count--;
    total = weights.subarray(0, count).reduce((sum, weight) => sum + weight, 0);
    let left = random.uniform() * total;
    for (let i = 0; i < count; i++) {
      left -= weights[i]!;
      if (left < 0) return kept[i]!;
    }
    return kept[count - 1]!;
  };
}

/** The first of the greatest values. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** The `count` greatest, in falling order. */
function likeliest(logits: Float32Array, count: number): Int32Array {
  let ids = Int32Array.from(logits.keys());
  if (count < logits.length) {
    // Sorting numbers natively is much faster than sorting ids by a function.
    const least = logits.slice().sort()[logits.length - count]!;
    ids = ids.filter((id) => logits[id]! >= least);
  }
  return ids.sort((a, b) => logits[b]! - logits[a]! || a - b).subarray(0, count);
}
