/**
 * Seeded generators for the host side (initialisation, shuffling). Dropout has its own counter-based generator in the
 * kernels. Draws are keyed by a name, so what is drawn for one thing does not depend on what was drawn before.
 */
export interface Random {
  /** Uniform in [0, 2^32), an integer. */
  next(): number;
  /** Uniform in [0, 1) with 32 random bits. */
  uniform(): number;
  /** Standard normal (Box-Muller). */
  normal(): number;
  /** Uniform integer in [0, n). */
  below(n: number): number;
}

/** xoshiro128** (Blackman & Vigna 2021, https://doi.org/10.1145/3460772), its state hashed from `seed` and `key`. */
export function createRandom(seed: number, key = ""): Random {
  const state = hashState(`${seed}:${key}`);
  const next = () => {
    const result = Math.imul(rotate(Math.imul(state[1]!, 5), 7), 9) >>> 0;
    const shifted = state[1]! << 9;
    state[2]! ^= state[0]!;
    state[3]! ^= state[1]!;
    state[1]! ^= state[2]!;
    state[0]! ^= state[3]!;
    state[2]! ^= shifted;
    state[3] = rotate(state[3]!, 11);
    return result;
  };
  const uniform = () => next() / 2 ** 32;
  return {
    next,
    uniform,
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
    below: (n) => Math.floor(uniform() * n),
  };
}

function rotate(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits));
}

/** Four words from a text: FNV-1a over its characters, then MurmurHash3's finaliser with a different salt for each. */
function hashState(text: string): Uint32Array {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return Uint32Array.from({ length: 4 }, (_, word) => {
    let x = hash + Math.imul(word + 1, 0x9e3779b9);
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return (x ^ (x >>> 16)) >>> 0;
  });
}

/** Fisher-Yates, in place. */
export function shuffle<T extends unknown[] | Int32Array>(items: T, random: Random): T {
  for (let i = items.length - 1; i > 0; i--) {
    const j = random.below(i + 1);
    // Not by destructuring, which makes an array for each swap.
    const item = items[i];
    items[i] = items[j];
    items[j] = item;
  }
  return items;
}

/** 0 to count - 1, in order. Filled in a loop: `Int32Array.from` first makes a list, of several times the size. */
export function indices(count: number): Int32Array {
  const all = new Int32Array(count);
  for (let i = 0; i < count; i++) all[i] = i;
  return all;
}
