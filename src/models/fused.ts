import { SplitColumns } from "../ops/split-columns.ts";
import { preNormBlock } from "./llama.ts";
import { type BlockParts, gatedMlp } from "./parts.ts";

/**
 * Blocks whose queries, keys and values come from one matrix. It stays one, as in the checkpoint, so that an adapter of it
 * is one pair of matrices; its product is cut.
 */

/**
 * Phi-3, Phi-3.5 (arXiv 2404.14219), Phi-4 and Phi-4-mini: queries, keys and values one after another; gate and up are one
 * matrix too.
 */
export function phi3Block(parts: BlockParts): string {
  return preNormBlock(
    parts,
    "input_layernorm",
    (x) => fusedAttention(parts, x, { qkv: "self_attn.qkv_proj", output: "self_attn.o_proj", groups: 1 }),
    "post_attention_layernorm",
    (x) => fusedMlp(parts, x),
  );
}

/** InternLM2, InternLM2.5 (arXiv 2403.17297): for each key head, its query heads, then the key and the value. */
export function internlm2Block(parts: BlockParts): string {
  const names = { qkv: "attention.wqkv", output: "attention.wo", groups: parts.config.kvHeads };
  return preNormBlock(
    parts,
    "attention_norm",
    (x) => fusedAttention(parts, x, names),
    "ffn_norm",
    (x) => gatedMlp(parts, x, { gate: "feed_forward.w1", up: "feed_forward.w3", down: "feed_forward.w2" }),
  );
}

interface FusedAttention {
  readonly qkv: string;
  readonly output: string;
  /** How often queries, keys and values follow each other in the rows of the matrix: 1, or once for each key head. */
  readonly groups: number;
}

function fusedAttention(parts: BlockParts, x: string, { qkv, output, groups }: FusedAttention): string {
  const { builder, config, project, rotate, attention } = parts;
  const { heads, kvHeads, headDim, hiddenSize } = config;
  const sizes = [heads, kvHeads, kvHeads].map((count) => (count / groups) * headDim);
  const product = project(x, qkv, hiddenSize, (heads + 2 * kvHeads) * headDim, config.attentionBias);
  const [q, k, v] = builder.node(SplitColumns, [product], { groups, sizes }, `${qkv}.split`);
  const result = attention(rotate(q!, heads), rotate(k!, kvHeads), v!);
  return project(result, output, heads * headDim, hiddenSize, config.attentionOutputBias);
}

function fusedMlp({ builder, config, project, gated }: BlockParts, x: string): string {
  const { hiddenSize, intermediateSize: size } = config;
  const product = project(x, "mlp.gate_up_proj", hiddenSize, 2 * size, false);
  const [gate, up] = builder.node(SplitColumns, [product], { groups: 1, sizes: [size, size] }, "mlp.gate_up_proj.split");
  return project(gated(gate!, up!), "mlp.down_proj", size, hiddenSize, false);
}
