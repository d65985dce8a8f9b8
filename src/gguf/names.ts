import { UserError } from "../errors.ts";
import type { ModelConfig } from "../hf/config.ts";

/** llama.cpp's architecture of a family. */
export function architectureOf({ family }: ModelConfig): "llama" | "qwen2" | "qwen3" {
  return family === "mistral" ? "llama" : family;
}

const MODULES: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

const OUTER: Readonly<Record<string, string>> = {
  "model.embed_tokens": "token_embd",
  "model.norm": "output_norm",
  lm_head: "output",
};

/** GGUF name of a module, or null when the format has no place for it. */
export function ggufModule(module: string): string | null {
  if (Object.hasOwn(OUTER, module)) return OUTER[module]!;
  const [, layer, inner] = /^model\.layers\.(\d+)\.(.+)$/.exec(module) ?? [];
  return inner !== undefined && Object.hasOwn(MODULES, inner) ? `blk.${layer}.${MODULES[inner]}` : null;
}

/** The heads whose rows are to be interleaved (see `interleaveRows`), or 0. */
export function interleavedHeads(module: string, config: ModelConfig): number {
  if (architectureOf(config) !== "llama") return 0;
  if (module.endsWith(".self_attn.q_proj")) return config.heads;
  return module.endsWith(".self_attn.k_proj") ? config.kvHeads : 0;
}

/** @throws {UserError} what llama.cpp computes otherwise */
export function checkExportable(config: ModelConfig): void {
  const { scaling } = config.rope;
  if (config.hiddenAct !== "silu")
    throw new UserError(`GGUF's ${architectureOf(config)} models have the activation silu, not ${config.hiddenAct}`);
  if (scaling.type === "yarn" && (scaling.attentionFactor !== null || (scaling.mscale && scaling.mscaleAllDim))) {
    throw new UserError("GGUF has no place for the attention_factor or mscale of this model's rope scaling");
  }
}
