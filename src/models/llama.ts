import { Add } from "../ops/add.ts";
import { type BlockParts, gatedMlp, selfAttention } from "./parts.ts";

/**
 * A block of the Llama kind; returns its output. Llama (Touvron et al. 2023), Mistral, Qwen2/2.5 (biases), Qwen3 (norm of
 * queries and keys), SmolLM2, InternLM3.
 */
export function llamaBlock(parts: BlockParts): string {
  return preNormBlock(
    parts,
    "input_layernorm",
    (x) => selfAttention(parts, x),
    "post_attention_layernorm",
    (x) => gatedMlp(parts, x),
  );
}

/** h = x + attention(norm(x)), y = h + mlp(norm(h)), with the names of the two norms. */
export function preNormBlock(
  { builder, config, norm }: BlockParts,
  attentionNorm: string,
  attention: (x: string) => string,
  mlpNorm: string,
  mlp: (x: string) => string,
): string {
  const attended = builder.value(Add, ["x", attention(norm("x", attentionNorm, config.hiddenSize))], {}, "h");
  return builder.value(Add, [attended, mlp(norm(attended, mlpNorm, config.hiddenSize))], {}, "y");
}
