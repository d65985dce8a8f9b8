import { createRandom } from "../base/random.ts";

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

/** Changes logits before a token is chosen, by the text so far. */
export type LogitRule = (logits: Float32Array, text: readonly number[]) => void;

/** Keeps a text to a form: says which tokens may come next, and takes the chosen one. */
export interface Constraint {
  /** The token that comes next in any case, for the form is complete; null: one is to be chosen. */
  readonly end: number | null;
  /** Leaves only the tokens that may come; all other logits become -Infinity. */
  allow(logits: Float32Array, text: readonly number[]): void;
  /** Goes on by a token, or refuses it: then logits say which else may not come. */
  take(id: number, logits: Float32Array): boolean;
}

/**
 * The filters in the order of Transformers: repetition penalty (Keskar et al. 2019, https://arxiv.org/abs/1909.05858),
 * temperature, top-k, top-p (Holtzman et al. 2020, https://arxiv.org/abs/1904.09751), min-p (Nguyen et al. 2024,
 * https://arxiv.org/abs/2407.01082). Equal logits rank by token id.
 * @param rules further ones, behind the repetition penalty
 */
export function createSampler(
  options: SamplingOptions,
  rules: readonly LogitRule[] = [],
  constraint: Constraint | null = null,
): Sampler {
  const { repetitionPenalty } = options;
  const choose = createChooser(options);
  return (logits, text) => {
    const end = constraint?.end ?? null;
    if (end !== null) return end;
    if (repetitionPenalty !== 1) {
      for (const id of new Set(text)) logits[id]! *= logits[id]! > 0 ? 1 / repetitionPenalty : repetitionPenalty;
    }
    for (const rule of rules) rule(logits, text);
    if (constraint === null) return choose(logits);
    constraint.allow(logits, text);
    for (;;) {
      const id = choose(logits);
      if (constraint.take(id, logits)) return id;
    }
  };
}

function createChooser({ temperature, topK, topP, minP, seed }: SamplingOptions): (logits: Float32Array) => number {
  const random = createRandom(seed, "sampling");
  return (logits) => {
    if (temperature === 0) return argmax(logits);
    const greatest = logits[argmax(logits)]!;
    const weightOf = (id: number) => Math.exp((logits[id]! - greatest) / temperature);
    let candidates: Iterable<number> = fallingIds(logits);
    let total = 0;
    if (topK > 0) {
      candidates = take(candidates, topK);
      for (const id of candidates) total += weightOf(id);
    } else {
      for (let id = 0; id < logits.length; id++) total += weightOf(id);
    }
    if (topP < 1 || minP > 0) {
      const kept: number[] = [];
      let sum = 0;
      for (const id of candidates) {
        const weight = weightOf(id);
        // The likeliest token is always kept; its weight is 1.
        if (kept.length > 0 && (weight < minP || (topP < 1 && sum >= topP * total))) break;
        kept.push(id);
        sum += weight;
      }
      candidates = kept;
      total = sum;
    }
    let left = random.uniform() * total;
    let chosen = 0;
    for (const id of candidates) {
      const weight = weightOf(id);
      // What cannot be is not chosen by a rounding of the sum either.
      if (weight === 0) break;
      chosen = id;
      left -= weight;
      if (left < 0) break;
    }
    return chosen;
  };
}

/** The first of the greatest values. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

function take(ids: Iterable<number>, count: number): number[] {
  const taken: number[] = [];
  for (const id of ids) if (taken.push(id) === count) break;
  return taken;
}

/** Buckets of equal width between the greatest and the least logit. */
const BUCKETS = 1024;
/** Ids that are sorted first, about. */
const FIRST_BATCH = 128;

/**
 * Token ids by falling logit, equal ones by id, sorted no further than they are taken: nearly always a few of many thousands.
 * Logits lie in buckets, which say how far down the next batch reaches.
 */
function* fallingIds(logits: Float32Array): Generator<number, void> {
  const buckets = bucketsOf(logits);
  const counts = new Int32Array(BUCKETS);
  for (let id = 0; id < buckets.length; id++) counts[buckets[id]!]!++;
  let batch = FIRST_BATCH;
  for (let end = 0; end < BUCKETS; batch *= 2) {
    const begin = end;
    let count = 0;
    while (end < BUCKETS && count < batch) count += counts[end++]!;
    yield* between(buckets, begin, end, count).sort((a, b) => logits[b]! - logits[a]! || a - b);
  }
}

/** The bucket of each logit, the greatest in the first; whatever is no number in the last. */
function bucketsOf(logits: Float32Array): Uint16Array {
  let [least, greatest] = [Infinity, -Infinity];
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (logit > greatest) greatest = logit;
    if (logit < least && logit !== -Infinity) least = logit;
  }
  const perUnit = BUCKETS / Math.max(greatest - least, 1e-6);
  const buckets = new Uint16Array(logits.length);
  for (let id = 0; id < logits.length; id++) {
    const at = (greatest - logits[id]!) * perUnit;
    buckets[id] = at < BUCKETS - 1 ? at : BUCKETS - 1;
  }
  return buckets;
}

/** The `count` ids in buckets from `begin` up to `end`. */
function between(buckets: Uint16Array, begin: number, end: number, count: number): Int32Array {
  const ids = new Int32Array(count);
  let filled = 0;
  for (let id = 0; id < buckets.length; id++) if (buckets[id]! >= begin && buckets[id]! < end) ids[filled++] = id;
  return ids;
}
