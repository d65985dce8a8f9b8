import { createRandom } from "../../../base/random.ts";

/** Draws that decide whether others can tell an example: who may take part in a step, and noise. */
export interface PrivateRandom {
  /** Uniform in [0, 1) with 53 random bits. */
  uniform(): number;
  /** Standard normal. */
  normal(): number;
}

/** Words that are drawn from the system at a time: 64 KiB, the most that one call gives. */
const WORDS = 16384;

/**
 * The system's cryptographic generator: nobody can tell a draw from those before it, so nobody can take the noise off again. A normal number is
 * half the sum of four, since the rounding of a single one may tell its neighbours apart (Mironov 2012; Holohan, Braghin 2021,
 * https://arxiv.org/abs/2107.10138).
 */
export function secureRandom(): PrivateRandom {
  const words = new Uint32Array(WORDS);
  let at = WORDS;
  const word = () => {
    if (at === WORDS) {
      crypto.getRandomValues(words);
      at = 0;
    }
    return words[at++]!;
  };
  return fromUniform(() => ((word() >>> 5) * 2 ** 26 + (word() >>> 6)) / 2 ** 53);
}

/** A generator that anybody can follow who knows the seed: for tests alone. */
export function seededRandom(seed: number, key: string): PrivateRandom {
  const random = createRandom(seed, key);
  return fromUniform(() => (random.next() + random.next() / 2 ** 32) / 2 ** 32);
}

function fromUniform(uniform: () => number): PrivateRandom {
  let spare: number | null = null;
  /** Half a pair of Box and Muller's. */
  const single = () => {
    if (spare !== null) {
      const kept = spare;
      spare = null;
      return kept;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  };
  return { uniform, normal: () => (single() + single() + single() + single()) / 2 };
}

/** The sum of one step's gradients, to each of which an example adds no more than a vector of the norm `clip`. */
export interface PrivateSum {
  /** Adds an example's gradient, clipped. Returns its norm before. */
  add(gradient: Float32Array): number;
  /**
   * Returns the noisy mean: the sum, with noise of deviation `noise` times `clip` on each value, over `examples`, which is the expected number of
   * a step and not the drawn one, which nobody is to learn. Begins the next sum.
   */
  finish(examples: number): Float32Array<ArrayBuffer>;
}

export function createPrivateSum(
  size: number,
  { clip, noise, random }: { readonly clip: number; readonly noise: number; readonly random: PrivateRandom },
): PrivateSum {
  const sum = new Float64Array(size);
  return {
    add(gradient) {
      let squares = 0;
      for (let i = 0; i < size; i++) squares += gradient[i]! ** 2;
      const norm = Math.sqrt(squares);
      // Not `clip / norm` where that is rounded up: the noise is for no more than `clip`.
      const factor = norm <= clip ? 1 : (clip / norm) * (1 - 2 ** -50);
      for (let i = 0; i < size; i++) sum[i]! += factor * gradient[i]!;
      return norm;
    },
    finish(examples) {
      const deviation = noise * clip;
      const mean = new Float32Array(size);
      for (let i = 0; i < size; i++) mean[i] = (sum[i]! + (deviation > 0 ? deviation * random.normal() : 0)) / examples;
      sum.fill(0);
      return mean;
    },
  };
}
