import { UserError } from "../errors.ts";
import type { ModelConfig } from "../hf/config.ts";

/** llama.cpp's architecture of a family. */
export function architectureOf({ family }: ModelConfig): "llama" | "qwen2" | "qwen3" | "gemma2" | "gemma3" {
  if (family === "gemma3_text") return "gemma3";
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

/** In a Gemma, norms follow attention and MLP too. */
const GEMMA_MODULES: Readonly<Record<string, string>> = {
  ...MODULES,
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};

const OUTER: Readonly<Record<string, string>> = {
  embed_tokens: "token_embd",
  norm: "output_norm",
};

const modulesOf = (config: ModelConfig) => (isGemma(config) ? GEMMA_MODULES : MODULES);

/** GGUF name of a module, or null when the format has no place for it. */
export function ggufModule(module: string, config: ModelConfig): string | null {
  if (module === "lm_head") return "output";
  if (!module.startsWith(config.modulePrefix)) return null;
  const local = module.slice(config.modulePrefix.length);
  if (Object.hasOwn(OUTER, local)) return OUTER[local]!;
  const [, layer, inner] = /^layers\.(\d+)\.(.+)$/.exec(local) ?? [];
  const modules = modulesOf(config);
  return inner !== undefined && Object.hasOwn(modules, inner) ? `blk.${layer}.${modules[inner]}` : null;
}

/** GGUF names of the modules that every block of the family has. */
export function blockModules(config: ModelConfig): string[] {
  const optional = config.qkNorm ? [] : ["attn_q_norm", "attn_k_norm"];
  return Object.values(modulesOf(config)).filter((name) => !optional.includes(name));
}

/** llama.cpp adds nothing to the weights of norms: what the model adds is in the file. */
export function normOffset(module: string, config: ModelConfig): number {
  return module.endsWith("norm") ? config.normOffset : 0;
}

/** The heads whose rows are to be interleaved (see `interleaveRows`), or 0. */
export function interleavedHeads(module: string, config: ModelConfig): number {
  if (architectureOf(config) !== "llama") return 0;
  if (module.endsWith(".self_attn.q_proj")) return config.heads;
  return module.endsWith(".self_attn.k_proj") ? config.kvHeads : 0;
}

const isGemma = ({ family }: ModelConfig): boolean => family === "gemma2" || family === "gemma3_text";

/** What llama.cpp knows of a Gemma without being told: layers up to one with full attention, and the layers of the 27B model. */
const GEMMAS = { gemma2: { period: 2, largest: 46 }, gemma3_text: { period: 6, largest: 62 } } as const;

/** Whether llama.cpp has the model's sliding window; in the other families every token sees the whole text there. */
export function hasWindows(config: ModelConfig): boolean {
  return isGemma(config) && config.slidingWindow !== null;
}

/** @throws {UserError} what llama.cpp computes otherwise */
function checkGemma(config: ModelConfig, family: "gemma2" | "gemma3_text"): void {
  const { heads, headDim, hiddenSize, layers, windowLayers, windowRope, attentionScale } = config;
  const { period, largest } = GEMMAS[family];
  const refuse = (what: string) => new UserError(`llama.cpp's ${architectureOf(config)} models have ${what}`);
  const scalar = layers === largest ? Math.floor(hiddenSize / heads) : headDim;
  if (Math.abs(attentionScale * Math.sqrt(scalar) - 1) > 1e-6) {
    throw refuse(`query_pre_attn_scalar ${scalar}, not ${Math.round(attentionScale ** -2)}`);
  }
  const isUsual = Array.from({ length: layers }, (_, i) => i).every((i) => windowLayers[i] === ((i + 1) % period !== 0));
  if (!isUsual) throw refuse(`a sliding window in all but one of each ${period} layers, and this one has it elsewhere`);
  if (windowRope && (windowRope.theta !== 10_000 || windowRope.scaling.type !== "default"))
    throw refuse(`rotary positions of base 10000 in the layers with a window, not ${windowRope.theta}`);
  if (config.attentionBias) throw refuse("no biases in attention");
  const capped = family === "gemma2";
  if ((config.attentionSoftCap !== null) !== capped || (config.logitSoftCap !== null) !== capped)
    throw refuse(capped ? "soft caps on scores and logits" : "no soft caps");
}

/** @throws {UserError} what llama.cpp computes otherwise */
export function checkExportable(config: ModelConfig): void {
  const { scaling } = config.rope;
  const activation = isGemma(config) ? "gelu_pytorch_tanh" : "silu";
  if (config.hiddenAct !== activation)
    throw new UserError(`GGUF's ${architectureOf(config)} models have the activation ${activation}, not ${config.hiddenAct}`);
  if (config.family === "gemma2" || config.family === "gemma3_text") checkGemma(config, config.family);
  if (scaling.type === "yarn" && (scaling.attentionFactor !== null || (scaling.mscale && scaling.mscaleAllDim))) {
    throw new UserError("GGUF has no place for the attention_factor or mscale of this model's rope scaling");
  }
}
