import { Add } from "../../ops/add.ts";
import type { ModelConfig } from "../config.ts";
import { attentionLayer, attentionOf, fusedAttention, type ProjectionNames, selfAttention } from "./attention.ts";
import type { BlockParts, Layer } from "./layer.ts";
import { fusedMlp, plainMlp } from "./mlp.ts";
import { layerNorm } from "./norm.ts";

/** Names of the modules of a block of BERT's kind. */
export interface EncoderNames {
  readonly attention: ProjectionNames;
  /** The norm behind attention. */
  readonly attentionNorm: string;
  readonly up: string;
  readonly down: string;
  /** The norm behind the MLP. */
  readonly outputNorm: string;
}

/** The blocks of an encoder with norms behind the sums (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762). */
export function encoderLayers(names: EncoderNames): (config: ModelConfig) => readonly Layer[] {
  return (config) =>
    Array.from({ length: config.layers }, (_, number) => {
      const settings = attentionOf(config, number);
      return attentionLayer(settings, (parts) => {
        const h = postNorm(parts, "x", selfAttention(parts, settings, "x", names.attention), names.attentionNorm);
        return postNorm(parts, h, plainMlp(parts, h, names), names.outputNorm);
      });
    });
}

/** The blocks of a ModernBERT: norms in front of the branches but in front of the first one, which has what is normed before. */
export function modernLayers(config: ModelConfig): readonly Layer[] {
  return Array.from({ length: config.layers }, (_, number) => {
    const settings = attentionOf(config, number);
    return attentionLayer(settings, (parts) => {
      const { builder, scope } = parts;
      const normed = (x: string, norm: string) => layerNorm(scope, config, x, norm, config.hiddenSize);
      const names = { qkv: "attn.Wqkv", output: "attn.Wo", groups: 1 };
      const attended = fusedAttention(parts, settings, number === 0 ? "x" : normed("x", "attn_norm"), names);
      const h = builder.value(Add, ["x", attended], {}, "h");
      return builder.value(Add, [h, fusedMlp(parts, normed(h, "mlp_norm"), { both: "mlp.Wi", down: "mlp.Wo" })], {}, "y");
    });
  });
}

/** LayerNorm(x + added). */
function postNorm({ builder, scope, config }: BlockParts, x: string, added: string, norm: string): string {
  return layerNorm(scope, config, builder.value(Add, [x, added], {}, `${norm}.sum`), norm, config.hiddenSize);
}
