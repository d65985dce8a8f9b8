/** How rotary frequencies are stretched beyond the context of pre-training (Transformers' `rope_type`). */
export type RopeScaling =
  | { readonly type: "default" }
  | { readonly type: "linear"; readonly factor: number }
  /**
   * Beyond `maxPositions` each length has frequencies of its own in Transformers; such texts are refused, and up to it this is the
   * same as `default`.
   */
  | { readonly type: "dynamic"; readonly factor: number }
  /** Only the first pairs of a head are rotated, as many as are `share` of its features, with the frequencies that a head rotated as a whole has. */
  | { readonly type: "proportional"; readonly share: number; readonly factor: number }
  | {
      readonly type: "llama3";
      readonly factor: number;
      readonly lowFreqFactor: number;
      readonly highFreqFactor: number;
      readonly originalMaxPositions: number;
    }
  | {
      readonly type: "yarn";
      readonly factor: number;
      readonly originalMaxPositions: number;
      /** Multiplies cos and sin; null: derived from `factor`, `mscale` and `mscaleAllDim`. */
      readonly attentionFactor: number | null;
      readonly betaFast: number;
      readonly betaSlow: number;
      readonly mscale: number | null;
      readonly mscaleAllDim: number | null;
      readonly truncate: boolean;
    }
  | {
      readonly type: "longrope";
      /** The divisors of the frequencies, in sequences of up to `originalMaxPositions` tokens and in longer ones. */
      readonly shortFactors: readonly number[];
      readonly longFactors: readonly number[];
      readonly originalMaxPositions: number;
      /** How far the context is stretched. */
      readonly factor: number;
      /** Multiplies cos and sin; null: derived from `factor`. */
      readonly attentionFactor: number | null;
    };

/** A factor on cos and sin that grows along the text: 1 + beta ln(1 + floor(position / every)). */
export interface RopeGrowth {
  readonly beta: number;
  /** Tokens from one step of the factor to the next. */
  readonly every: number;
}

export interface RopeConfig {
  readonly theta: number;
  readonly scaling: RopeScaling;
  /** Absent: the factor is 1 at every position. */
  readonly growth?: RopeGrowth;
}
