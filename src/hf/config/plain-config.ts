import { isRecord } from "../../base/json.ts";

type Raw = Readonly<Record<string, unknown>>;

/**
 * The `config.json` of a Phi-3 (Phi-3.5, Phi-4-mini and Phi-4 included) with Transformers' defaults. Its early versions call
 * LongRoPE "su" or "yarn".
 */
export function plainPhi3(raw: Raw): Raw {
  const renamed = (rope: unknown): unknown => {
    const type = isRecord(rope) ? (rope.rope_type ?? rope.type) : undefined;
    return isRecord(rope) && (type === "su" || type === "yarn") ? { ...rope, rope_type: "longrope" } : rope;
  };
  return {
    rms_norm_eps: 1e-5,
    sliding_window: null,
    original_max_position_embeddings: 4096,
    ...raw,
    rope_scaling: renamed(raw.rope_scaling),
    rope_parameters: renamed(raw.rope_parameters),
  };
}

/** The `config.json` of an InternLM2 (2.5 included): one `bias`, on by default, for both matrices of attention. */
export function plainInternlm2(raw: Raw): Raw {
  return { ...raw, attention_bias: raw.bias ?? true };
}

/** The `config.json` of an InternLM3: `qkv_bias` is of queries, keys and values, `bias` of the other linear layers. */
export function plainInternlm3(raw: Raw): Raw {
  return {
    rms_norm_eps: 1e-5,
    ...raw,
    attention_bias: raw.qkv_bias ?? raw.attention_bias,
    mlp_bias: raw.bias ?? raw.mlp_bias,
  };
}
