import { Add } from "../ops/add.ts";
import { type BlockParts, gatedMlp, selfAttention } from "./parts.ts";

/**
 * A block of the Llama kind; returns its output. Llama (Touvron et al. 2023), Mistral, Qwen2/2.5 (biases), Qwen3 (norm of
 * queries and keys), SmolLM2.
 */
export function llamaBlock(parts: BlockParts): string {
  const { builder, config, norm } = parts;
  const attention = selfAttention(parts, norm("x", "input_layernorm", config.hiddenSize));
  const attended = builder.value(Add, ["x", attention], {}, "h");
  const mlp = gatedMlp(parts, norm(attended, "post_attention_layernorm", config.hiddenSize));
  return builder.value(Add, [attended, mlp], {}, "y");
}
