import { Add } from "../ops/add.ts";
import { type BlockParts, gatedMlp, selfAttention } from "./parts.ts";

/**
 * A block of the Gemma kind; returns its output. Gemma 2 (arXiv 2408.00118), Gemma 3 (arXiv 2503.19786): what attention and
 * MLP give is normed too, before it is added.
 */
export function gemmaBlock(parts: BlockParts): string {
  const { builder, config, norm } = parts;
  const normed = (x: string, local: string) => norm(x, local, config.hiddenSize);
  const attention = selfAttention(parts, normed("x", "input_layernorm"));
  const attended = builder.value(Add, ["x", normed(attention, "post_attention_layernorm")], {}, "h");
  const mlp = gatedMlp(parts, normed(attended, "pre_feedforward_layernorm"));
  return builder.value(Add, [attended, normed(mlp, "post_feedforward_layernorm")], {}, "y");
}
