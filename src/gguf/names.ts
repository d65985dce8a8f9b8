import { UserError } from "../base/errors.ts";
import type { ModelConfig } from "../hf/config/config.ts";
import { modulesOf } from "../hf/config/modules.ts";
import type { RopeScaling } from "../hf/config/rope-config.ts";
import { groupRows, interleaveRows } from "./encode.ts";

/** llama.cpp's architecture of a family. */
export function architectureOf({
  family,
}: ModelConfig): "llama" | "qwen2" | "qwen3" | "gemma2" | "gemma3" | "phi3" | "internlm2" {
  if (family === "gemma3_text") return "gemma3";
  return family === "mistral" || family === "internlm3" ? "llama" : family;
}

/** Names of a block's modules; several where llama.cpp has the rows of one matrix in as many. */
type Modules = Readonly<Record<string, string | readonly string[]>>;

const MODULES: Modules = {
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
const GEMMA_MODULES: Modules = {
  ...MODULES,
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};

const PHI3_MODULES: Modules = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.qkv_proj": "attn_qkv",
  "self_attn.o_proj": "attn_output",
  // Gate and up, one after the other.
  "mlp.gate_up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

const INTERNLM2_MODULES: Modules = {
  attention_norm: "attn_norm",
  ffn_norm: "ffn_norm",
  "attention.wqkv": ["attn_q", "attn_k", "attn_v"],
  "attention.wo": "attn_output",
  "feed_forward.w1": "ffn_gate",
  "feed_forward.w3": "ffn_up",
  "feed_forward.w2": "ffn_down",
};

function blockNames(config: ModelConfig): Modules {
  if (isGemma(config)) return GEMMA_MODULES;
  if (config.family === "phi3") return PHI3_MODULES;
  return config.family === "internlm2" ? INTERNLM2_MODULES : MODULES;
}

/** A tensor of a GGUF file, made of rows of a module's. */
export interface GgufPart {
  /** Without `.weight` or `.bias`. */
  readonly name: string;
  /** How many of so many rows it has. */
  count(rows: number): number;
  /** Its values, of those of all rows. */
  take(values: Float32Array, columns: number): Float32Array;
}

/** The tensors that a module becomes; none when the format has no place for it. */
export function ggufParts(module: string, config: ModelConfig): GgufPart[] {
  const whole = (name: string): GgufPart[] => [{ name, count: (rows) => rows, take: (values) => values }];
  const { embedding, head } = modulesOf(config);
  if (module === head) return whole("output");
  if (!module.startsWith(config.modulePrefix)) return [];
  const local = module.slice(config.modulePrefix.length);
  if (local === embedding) return whole("token_embd");
  if (local === "norm") return whole("output_norm");
  const [, layer, inner = ""] = /^layers\.(\d+)\.(.+)$/.exec(local) ?? [];
  const modules = blockNames(config);
  const names = Object.hasOwn(modules, inner) ? modules[inner]! : [];
  if (typeof names !== "string") return names.flatMap((name, i) => groupedPart(`blk.${layer}.${name}`, i, config));
  const heads = interleavedHeads(inner, config);
  if (heads === 0) return whole(`blk.${layer}.${names}`);
  return [{ ...whole(`blk.${layer}.${names}`)[0]!, take: (values, columns) => interleaveRows(values, heads, columns) }];
}

/** Queries (0), keys (1) or values (2) of an InternLM2: in each group of rows, those of its query heads, of key and value. */
function groupedPart(name: string, part: number, { heads, kvHeads, headDim }: ModelConfig): GgufPart {
  const perKey = heads / kvHeads;
  const size = (part === 0 ? perKey : 1) * headDim;
  const from = (part === 0 ? 0 : perKey + part - 1) * headDim;
  const group = (perKey + 2) * headDim;
  return {
    name,
    count: (rows) => (rows / group) * size,
    take(values, columns) {
      const rows = groupRows(values, columns, group, from, size);
      return part === 2 ? rows : interleaveRows(rows, part === 0 ? heads : kvHeads, columns);
    },
  };
}

/** GGUF names of the modules that every block of the family has. */
export function blockModules(config: ModelConfig): string[] {
  const optional = config.qkNorm ? [] : ["attn_q_norm", "attn_k_norm"];
  return Object.values(blockNames(config))
    .flat()
    .filter((name) => !optional.includes(name));
}

/** llama.cpp adds nothing to the weights of norms: what the model adds is in the file. */
export function normOffset(module: string, config: ModelConfig): number {
  return module.endsWith("norm") ? config.normOffset : 0;
}

/** The heads of a block's module whose rows are to be interleaved (see `interleaveRows`), or 0. */
function interleavedHeads(module: string, config: ModelConfig): number {
  if (architectureOf(config) !== "llama") return 0;
  if (module === "self_attn.q_proj") return config.heads;
  return module === "self_attn.k_proj" ? config.kvHeads : 0;
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

/** llama.cpp reads no betas of YaRN from these architectures' files: it has the usual ones, rounded to whole dimensions. */
export function isUsualYarn({ betaFast, betaSlow, truncate }: Extract<RopeScaling, { type: "yarn" }>): boolean {
  return betaFast === 32 && betaSlow === 1 && truncate;
}

/** @throws {UserError} what llama.cpp computes otherwise */
export function checkExportable(config: ModelConfig): void {
  const { scaling } = config.rope;
  const activation = isGemma(config) ? "gelu_pytorch_tanh" : "silu";
  if (config.hiddenAct !== activation)
    throw new UserError(`GGUF's ${architectureOf(config)} models have the activation ${activation}, not ${config.hiddenAct}`);
  if (config.family === "gemma2" || config.family === "gemma3_text") checkGemma(config, config.family);
  if (config.family === "internlm2" && config.attentionBias)
    throw new UserError("llama.cpp's internlm2 models have no biases in attention");
  if (scaling.type === "longrope" && config.family !== "phi3")
    throw new UserError(`llama.cpp's ${architectureOf(config)} models have no longrope scaling`);
  if (scaling.type === "yarn" && !isUsualYarn(scaling) && architectureOf(config) !== "llama") {
    throw new UserError(
      `llama.cpp's ${architectureOf(config)} models have YaRN with beta_fast 32, beta_slow 1 and truncate, ` +
        `not beta_fast ${scaling.betaFast}, beta_slow ${scaling.betaSlow}, truncate ${scaling.truncate}`,
    );
  }
}
