import type { GgufGiven, Raw } from "../family.ts";

/** The part that the families' ways back from GGUF files to `config.json` share (`GgufFacts.keys`). */

/** Files divide frequencies that are not rotated by this. */
export const UNROTATED = 1e30;

/** Biases in attention are in the file or not. */
export const givenAttentionBias = ({ hasTensor }: GgufGiven): Raw => ({ attention_bias: hasTensor("blk.0.attn_q.bias") });

/** The same, and likewise of the MLP. */
export const givenBiases = (given: GgufGiven): Raw => ({
  ...givenAttentionBias(given),
  mlp_bias: given.hasTensor("blk.0.ffn_up.bias"),
});

/** The share of a head that is rotated. */
export const givenRotary = ({ rotaryDim, headDim }: GgufGiven): Raw => ({ partial_rotary_factor: rotaryDim / headDim });

/** Experts as most families have them. */
export const givenExperts = ({ own, need }: GgufGiven, normalised: boolean): Raw => ({
  num_experts: need("expert_count"),
  num_experts_per_tok: need("expert_used_count"),
  norm_topk_prob: normalised,
  moe_intermediate_size: own("expert_feed_forward_length") ?? need("feed_forward_length"),
});
