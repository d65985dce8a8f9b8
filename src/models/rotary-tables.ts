import type { ModelConfig } from "./config.ts";
import type { RopeGrowth, RopeScaling } from "./rope.ts";

/**
 * Rotary position tables. Every step is rounded to f32 in the order in which Transformers computes in PyTorch
 * (`modeling_rope_utils.py`): at position 10^4 one unit in the last place of a frequency is already 10^-3 rad.
 */

const f = Math.fround;

type RopeShape = Pick<ModelConfig, "rotaryDim" | "rope">;

/**
 * The longest sequence, in tokens, that is rotated by the frequencies of short ones. A longer one has other frequencies from
 * its first token on.
 */
export function shortLimit({ rope: { scaling } }: Pick<ModelConfig, "rope">): number {
  return scaling.type === "longrope" ? scaling.originalMaxPositions : Infinity;
}

/**
 * @param isLong for a sequence of more tokens than `shortLimit`
 * @returns `inverse` [rotaryDim/2] in radians per token, and the factor on cos and sin
 */
export function inverseFrequencies(config: RopeShape, isLong = false): { inverse: Float32Array; attentionFactor: number } {
  const { theta, scaling } = config.rope;
  const half = config.rotaryDim / 2;
  // theta^(2i/d); its inverse is the frequency.
  const period = Float32Array.from({ length: half }, (_, i) => f(Math.pow(f(theta), f((2 * i) / config.rotaryDim))));
  const inverse = period.map((value) => f(1 / value));
  switch (scaling.type) {
    case "default":
    case "dynamic":
      return { inverse, attentionFactor: 1 };
    case "linear":
      return { inverse: inverse.map((value) => f(value / f(scaling.factor))), attentionFactor: 1 };
    case "proportional": {
      const rotated = Math.floor((scaling.share * config.rotaryDim) / 2);
      return { inverse: inverse.map((value, i) => (i < rotated ? f(value / f(scaling.factor)) : 0)), attentionFactor: 1 };
    }
    case "llama3":
      return { inverse: inverse.map((value) => llama3Frequency(value, scaling)), attentionFactor: 1 };
    case "yarn":
      return {
        inverse: yarnFrequencies(period, config.rotaryDim, theta, scaling),
        attentionFactor: yarnAttentionFactor(scaling),
      };
    case "longrope": {
      const factors = isLong ? scaling.longFactors : scaling.shortFactors;
      const inverse = period.map((value, i) => f(1 / f(f(factors[i]!) * value)));
      return { inverse, attentionFactor: longRopeAttentionFactor(scaling) };
    }
  }
}

/**
 * Waves longer than the original context / lowFreqFactor are stretched by `factor`, those shorter than it /
 * highFreqFactor are kept, and between the two s runs from 0 to 1: (1 - s) w / factor + s w.
 */
function llama3Frequency(frequency: number, scaling: Extract<RopeScaling, { type: "llama3" }>): number {
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalMaxPositions: context } = scaling;
  const wavelength = f(f(2 * Math.PI) / frequency);
  if (wavelength > f(context / low)) return f(frequency / f(factor));
  if (wavelength < f(context / high)) return frequency;
  const smooth = f(f(f(context / wavelength) - f(low)) / f(high - low));
  return f(f(f(f(1 - smooth) * frequency) / f(factor)) + f(smooth * frequency));
}

/** YaRN (arXiv 2309.00071): a ramp over the dimensions between interpolated and original frequencies. */
function yarnFrequencies(
  period: Float32Array,
  dim: number,
  theta: number,
  scaling: Extract<RopeScaling, { type: "yarn" }>,
): Float32Array {
  // The dimension whose wave makes `rotations` turns within the original context.
  const dimension = (rotations: number) =>
    (dim * Math.log(scaling.originalMaxPositions / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  let low = dimension(scaling.betaFast);
  let high = dimension(scaling.betaSlow);
  if (scaling.truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, dim - 1);
  if (low === high) high += 0.001;
  return period.map((value, i) => {
    const ramp = Math.min(Math.max(f(f(i - f(low)) / f(high - low)), 0), 1);
    const keep = f(1 - ramp);
    return f(f(f(1 / f(f(scaling.factor) * value)) * f(1 - keep)) + f(f(1 / value) * keep));
  });
}

/** Returns what YaRN multiplies cos and sin by. */
export function yarnAttentionFactor(scaling: Extract<RopeScaling, { type: "yarn" }>): number {
  const { factor, attentionFactor, mscale, mscaleAllDim } = scaling;
  const scale = (by: number) => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1);
  if (attentionFactor !== null) return attentionFactor;
  return mscale && mscaleAllDim ? scale(mscale) / scale(mscaleAllDim) : scale(1);
}

/** LongRoPE (arXiv 2402.13753): sqrt(1 + ln s / ln L) for a context stretched s times from L tokens. */
export function longRopeAttentionFactor(scaling: Extract<RopeScaling, { type: "longrope" }>): number {
  const { factor, attentionFactor, originalMaxPositions } = scaling;
  return attentionFactor ?? (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions)));
}

/** cos and sin, f32 [positions.length, rotaryDim/2]. */
export interface RopeTables {
  readonly cos: Float32Array;
  readonly sin: Float32Array;
}

/**
 * Fills the tables of `positions` (token positions within their example), the attention factor included. `length` is that of
 * the sequence they belong to; without it, positions that count up are an example, and its last one says how long it is.
 */
export type FillRope = (positions: Int32Array, into?: RopeTables, length?: number) => RopeTables;

/**
 * Makes a function that fills rotary tables. It keeps one row per position seen so far, so that a batch costs copies
 * instead of trigonometry.
 */
export function createRope(config: RopeShape): FillRope {
  const half = config.rotaryDim / 2;
  const limit = shortLimit(config);
  const factor = growthFactor(config.rope.growth);
  const short = createRows(inverseFrequencies(config), factor);
  const long = createRows(inverseFrequencies(config, true), factor);
  return (positions, into, length) => {
    const size = positions.length * half;
    const tables = into ?? { cos: new Float32Array(size), sin: new Float32Array(size) };
    const end = (t: number) => t + 1 === positions.length || positions[t + 1] !== positions[t]! + 1;
    for (let first = 0, t = 0; t < positions.length; t++) {
      if (!end(t)) continue;
      const { cos, sin } = ((length ?? positions[t]! + 1) > limit ? long : short)(positions[t]! + 1);
      const [from, to] = [positions[first]! * half, (positions[t]! + 1) * half];
      tables.cos.set(cos.subarray(from, to), first * half);
      tables.sin.set(sin.subarray(from, to), first * half);
      first = t + 1;
    }
    return tables;
  };
}

/** The factor at each position, in f32 (Transformers' `get_llama_4_attn_scale`). */
function growthFactor(growth: RopeGrowth | undefined): (position: number) => number {
  if (!growth) return () => 1;
  const { beta, every } = growth;
  return (position) => f(1 + f(f(beta) * f(Math.log(1 + Math.floor(position / every)))));
}

/** Tables of the positions 0, 1, ..., at least `count` of them. */
function createRows(
  { inverse, attentionFactor }: ReturnType<typeof inverseFrequencies>,
  factor: (position: number) => number,
): (count: number) => RopeTables {
  const half = inverse.length;
  const scale = f(attentionFactor);
  let rows = 0;
  let tables: RopeTables = { cos: new Float32Array(0), sin: new Float32Array(0) };
  return (count) => {
    if (count <= rows) return tables;
    const size = Math.max(count, 2 * rows);
    const [cos, sin] = [new Float32Array(size * half), new Float32Array(size * half)];
    cos.set(tables.cos);
    sin.set(tables.sin);
    for (let i = rows * half; i < cos.length; i++) {
      const position = Math.floor(i / half);
      const angle = f(position * inverse[i % half]!);
      const grown = factor(position);
      cos[i] = f(f(Math.cos(angle)) * scale) * grown;
      sin[i] = f(f(Math.sin(angle)) * scale) * grown;
    }
    rows = size;
    tables = { cos, sin };
    return tables;
  };
}
