import { Add } from "../ops/add.ts";
import type { BlockParts } from "./parts.ts";

/**
 * A block of the Llama kind; returns its output. Llama (Touvron et al. 2023), Mistral, Qwen2/2.5 (biases), Qwen3 (norm of
 * queries and keys), SmolLM2.
 */
export function llamaBlock({ builder, config, norm, headNorm, project, rotate, attention, gated }: BlockParts): string {
  const { heads, kvHeads, headDim, hiddenSize, intermediateSize } = config;
  const n1 = norm("x", "input_layernorm", hiddenSize);
  let q = project(n1, "self_attn.q_proj", hiddenSize, heads * headDim, config.attentionBias);
  let k = project(n1, "self_attn.k_proj", hiddenSize, kvHeads * headDim, config.attentionBias);
  const v = project(n1, "self_attn.v_proj", hiddenSize, kvHeads * headDim, config.attentionBias);
  if (config.qkNorm) {
    q = headNorm(q, "self_attn.q_norm", heads);
    k = headNorm(k, "self_attn.k_norm", kvHeads);
  }
  const result = attention(rotate(q, heads), rotate(k, kvHeads), v);
  const attended = builder.value(
    Add,
    ["x", project(result, "self_attn.o_proj", heads * headDim, hiddenSize, config.attentionOutputBias)],
    {},
    "h",
  );

  const n2 = norm(attended, "post_attention_layernorm", hiddenSize);
  const gate = project(n2, "mlp.gate_proj", hiddenSize, intermediateSize, config.mlpBias);
  const up = project(n2, "mlp.up_proj", hiddenSize, intermediateSize, config.mlpBias);
  const activated = gated(gate, up);
  return builder.value(
    Add,
    [attended, project(activated, "mlp.down_proj", intermediateSize, hiddenSize, config.mlpBias)],
    {},
    "y",
  );
}
