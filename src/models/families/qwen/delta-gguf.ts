import { UserError } from "../../../base/errors.ts";
import { EXPERT_NAMES } from "../../blocks/experts.ts";
import type { DeltaConfig, ModelConfig } from "../../config.ts";
import type { GgufFacts, GgufGiven, GgufPlace, GgufSetting, Raw } from "../family.ts";
import { expertsGguf } from "../llama/experts.ts";
import { LLAMA_GGUF, refuseBiases } from "../llama/llama.ts";
import { ofGroups, type Order, run } from "../orders.ts";
import { givenExperts, givenRotary } from "../reading/gguf.ts";

/** How llama.cpp has Qwens with a state of the text. */

/** The number of rows of queries and keys in front of those of values. */
const beforeValues = ({ keyHeads, keyDim }: DeltaConfig): number => 2 * keyHeads * keyDim;

/** The order of value heads of `size` rows: the first one of each key head, then the second one of each; the rows in front of them stay. */
function byTurnsOfKeys({ heads, keyHeads }: DeltaConfig, size: number, first = 0): Order {
  const share = heads / keyHeads;
  const values = run(share).flatMap((value) => run(keyHeads).flatMap((key) => run(size, first + (key * share + value) * size)));
  return () => [...run(first), ...values];
}

const { "mlp.gate_proj": gate, "mlp.up_proj": up, "mlp.down_proj": down, ...attention } = LLAMA_GGUF.modules;

const COMMON: GgufFacts["modules"] = {
  ...attention,
  post_attention_layernorm: "post_attention_norm",
  "linear_attn.norm": { name: "ssm_norm", isPlainNorm: true },
};

const place = (name: string, rows: (delta: DeltaConfig) => Order, more: Partial<GgufPlace> = {}): GgufPlace => ({
  name,
  rows: ({ delta }) => rows(delta!),
  ...more,
});

/** The modules of a Qwen3.5, whose value heads change places. */
const TURNED: GgufFacts["modules"] = {
  ...COMMON,
  "linear_attn.in_proj_qkv": place("attn_qkv", (delta) => byTurnsOfKeys(delta, delta.valueDim, beforeValues(delta))),
  "linear_attn.in_proj_z": place("attn_gate", (delta) => byTurnsOfKeys(delta, delta.valueDim)),
  "linear_attn.in_proj_b": place("ssm_beta", (delta) => byTurnsOfKeys(delta, 1)),
  "linear_attn.in_proj_a": place("ssm_alpha", (delta) => byTurnsOfKeys(delta, 1)),
  "linear_attn.conv1d": place("ssm_conv1d", (delta) => byTurnsOfKeys(delta, delta.valueDim, beforeValues(delta)), {
    isFull: true,
  }),
  "linear_attn.A_log": place("ssm_a", (delta) => byTurnsOfKeys(delta, 1), { value: "negated exp" }),
  "linear_attn.dt_bias": place("ssm_dt.bias", (delta) => byTurnsOfKeys(delta, 1)),
  "linear_attn.out_proj": { name: "ssm_out", columns: ({ delta }) => byTurnsOfKeys(delta!, delta!.valueDim) },
};

/** The rows of queries, keys, values or gates among those of the one matrix, which has them key head by key head. */
function partOf({ keyHeads, heads, keyDim, valueDim }: DeltaConfig, part: 0 | 1 | 2 | 3): Order {
  const values = (heads / keyHeads) * valueDim;
  const sizes = [keyDim, keyDim, values, values];
  const first = sizes.slice(0, part).reduce((sum, size) => sum + size, 0);
  return ofGroups(2 * (keyDim + values), first, sizes[part]!);
}

/** The modules of a Qwen3-Next, whose value heads stay where they are. */
const FUSED: GgufFacts["modules"] = {
  ...COMMON,
  "linear_attn.in_proj_qkvz": [
    place("attn_qkv", (delta) => (count) => ([0, 1, 2] as const).flatMap((part) => [...partOf(delta, part)(count)])),
    place("attn_gate", (delta) => partOf(delta, 3)),
  ],
  "linear_attn.in_proj_ba": "ssm_ba",
  "linear_attn.conv1d": { name: "ssm_conv1d", isFull: true },
  "linear_attn.A_log": { name: "ssm_a", value: "negated exp" },
  "linear_attn.dt_bias": "ssm_dt.bias",
  "linear_attn.out_proj": "ssm_out",
};

const EXPERTS: GgufFacts["modules"] = {
  ...expertsGguf(EXPERT_NAMES),
  "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
  "mlp.shared_expert.up_proj": "ffn_up_shexp",
  "mlp.shared_expert.down_proj": "ffn_down_shexp",
  "mlp.shared_expert_gate": { name: "ffn_gate_inp_shexp", isFull: true },
};

/** The layers with a state: by the period of those that attend, where there is one. */
function layersSetting(layers: readonly boolean[]): Readonly<Record<string, GgufSetting>> {
  const period = layers.indexOf(false) + 1;
  const isPeriodic = layers.every((hasState, i) => hasState === ((i + 1) % period !== 0));
  return period > 0 && isPeriodic
    ? { full_attention_interval: { u32: period } }
    : { "attention.recurrent_layers": { bools: layers } };
}

/** The parts of a rotated half for positions in time and in an image; those of a text are all the same. */
function sections(rotaryDim: number): number[] {
  const pairs = rotaryDim / 2;
  const time = Math.ceil(pairs / 3);
  const height = Math.ceil((pairs - time) / 2);
  return [time, height, pairs - time - height, 0];
}

function settingsOf({ delta, rotaryDim }: ModelConfig): Readonly<Record<string, GgufSetting>> {
  const { width, keyDim, keyHeads, heads, valueDim, fused, layers } = delta!;
  return {
    "ssm.conv_kernel": { u32: width },
    "ssm.state_size": { u32: keyDim },
    "ssm.group_count": { u32: keyHeads },
    "ssm.time_step_rank": { u32: heads },
    "ssm.inner_size": { u32: heads * valueDim },
    ...layersSetting(layers),
    ...(!fused && { "rope.dimension_sections": { i32s: sections(rotaryDim) } }),
  };
}

/** Layers with a state are listed, or all but one in each period. */
function stateKeys(given: GgufGiven): Raw {
  const { need, own, layers } = given;
  const states = given.flags("attention.recurrent_layers");
  const interval = own("full_attention_interval") ?? 4;
  const heads = need("ssm.time_step_rank");
  const hasState = (layer: number) => (states ? states[layer] === true : (layer + 1) % interval !== 0);
  return {
    layer_types: run(layers).map((layer) => (hasState(layer) ? "linear_attention" : "full_attention")),
    linear_conv_kernel_dim: need("ssm.conv_kernel"),
    linear_key_head_dim: need("ssm.state_size"),
    linear_num_key_heads: need("ssm.group_count"),
    linear_num_value_heads: heads,
    linear_value_head_dim: need("ssm.inner_size") / heads,
    ...givenRotary(given),
  };
}

const sharedExpertKeys = (given: GgufGiven): Raw => ({
  ...givenExperts(given, true),
  shared_expert_intermediate_size: given.need("expert_shared_feed_forward_length"),
  decoder_sparse_step: 1,
  mlp_only_layers: [],
});

/** How llama.cpp has a Qwen3.5, a Qwen3.5-MoE or a Qwen3-Next. */
export function deltaGguf(architecture: "qwen35" | "qwen35moe" | "qwen3next"): GgufFacts {
  const hasExperts = architecture !== "qwen35";
  const refuse = (what: string) => new UserError(`llama.cpp's ${architecture} models have ${what}`);
  return {
    ...LLAMA_GGUF,
    architecture,
    modules: {
      ...(architecture === "qwen3next" ? FUSED : TURNED),
      ...(hasExperts ? EXPERTS : { "mlp.gate_proj": gate!, "mlp.up_proj": up!, "mlp.down_proj": down! }),
    },
    rotatesNeighbours: false,
    scalings: [],
    settings: settingsOf,
    keys: (given) => ({ ...stateKeys(given), ...(hasExperts && sharedExpertKeys(given)) }),
    check(config) {
      const { delta, experts } = config;
      refuseBiases(architecture)(config);
      if (delta === null) throw refuse("layers with a state, and this one has none");
      const { keyDim, valueDim } = delta;
      if (keyDim !== valueDim) throw refuse(`value heads as wide as key heads, ${keyDim}, not ${valueDim}`);
      if (!hasExperts) return;
      if (experts === null || experts.layers.includes(false)) throw refuse("experts in all layers, and this one has not");
      if (!experts.normalised) throw refuse("norm_topk_prob true, not false");
    },
  };
}
