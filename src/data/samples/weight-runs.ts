/**
 * Weights of tokens that are learned, where they are not 1: as runs of tokens, since a weight belongs to a message. A set's
 * runs are four 32-bit words each, in order: sample, first token, the token behind the last, the weight as f32.
 */
const WORDS = 4;

const float = new Float32Array(1);
const bits = new Int32Array(float.buffer);

/** Adds the runs of one sample's weights to a list. */
export function addWeightRuns(runs: { push(value: number): void }, sample: number, weights: Float32Array): void {
  for (let from = 0; from < weights.length;) {
    let to = from + 1;
    while (to < weights.length && weights[to] === weights[from]) to++;
    if (weights[from] !== 1) {
      float[0] = weights[from]!;
      for (const word of [sample, from, to, bits[0]!]) runs.push(word);
    }
    from = to;
  }
}

/** Gives the weights of a sample of `length` tokens; null: all are 1. */
export function createWeightReader(runs: Int32Array): (sample: number, length: number) => Float32Array | null {
  const count = runs.length / WORDS;
  return (sample, length) => {
    // The first run that is not of an earlier sample.
    let [low, high] = [0, count];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (runs[WORDS * middle]! < sample) low = middle + 1;
      else high = middle;
    }
    if (low === count || runs[WORDS * low] !== sample) return null;
    const weights = new Float32Array(length).fill(1);
    for (let run = low; run < count && runs[WORDS * run] === sample; run++) {
      const [, from, to, value] = runs.subarray(WORDS * run, WORDS * (run + 1));
      bits[0] = value!;
      weights.fill(float[0]!, from, to);
    }
    return weights;
  };
}
