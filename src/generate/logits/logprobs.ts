import type { Sampler } from "../sampler.ts";

export interface TokenLogprob {
  readonly id: number;
  readonly logprob: number;
}

/** A token that was chosen, and those that the model finds likeliest in its place. */
export interface ChosenToken extends TokenLogprob {
  /** By falling logit, equal ones by id. */
  readonly top: readonly TokenLogprob[];
}

/** Stands for the logarithm of 0, which JSON cannot say, as in OpenAI's API. */
const NEVER = -9999;

/**
 * Log-probabilities by the model's own logits, computed in float64: log softmax(x)_i = x_i - m - log(sum_j exp(x_j - m)), m the greatest.
 * @param count how many of the likeliest
 */
export function logprobsOf(
  logits: Float32Array,
  count: number,
): { of(id: number): number; readonly top: readonly TokenLogprob[] } {
  let greatest = -Infinity;
  for (let id = 0; id < logits.length; id++) if (logits[id]! > greatest) greatest = logits[id]!;
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += Math.exp(logits[id]! - greatest);
  const total = greatest + Math.log(sum);
  const of = (id: number): number => Math.max(NEVER, logits[id]! - total);
  return { of, top: likeliest(logits, count).map((id) => ({ id, logprob: of(id) })) };
}

function likeliest(logits: Float32Array, count: number): number[] {
  const ids: number[] = [];
  if (count === 0) return ids;
  for (let id = 0; id < logits.length; id++) {
    if (ids.length === count && logits[id]! <= logits[ids[count - 1]!]!) continue;
    let at = ids.length;
    while (at > 0 && logits[id]! > logits[ids[at - 1]!]!) at--;
    ids.splice(at, 0, id);
    if (ids.length > count) ids.pop();
  }
  return ids;
}

/** A sampler that tells of each token that it chooses how likely the model finds it, whatever else decides the choice. */
export function tellingLogprobs(sampler: Sampler, count: number, tell: (chosen: ChosenToken) => void): Sampler {
  return (logits, text) => {
    const own = logits.slice();
    const id = sampler(logits, text);
    const { of, top } = logprobsOf(own, count);
    tell({ id, logprob: of(id), top });
    return id;
  };
}
