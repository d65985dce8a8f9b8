import type { ModelConfig } from "../../src/models/config.ts";
import { parseConfig } from "../../src/models/families/index.ts";

/** Sizes that every family's `config.json` has. */
export const BASE = {
  hidden_size: 64,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 96,
  vocab_size: 128,
};

/** Reads a Llama's configuration, with changes. */
export const llama = (extra: object = {}): ModelConfig =>
  parseConfig({ architectures: ["LlamaForCausalLM"], model_type: "llama", ...BASE, ...extra });

/** Reads the configuration of a family that is named by its type alone. */
export const ofType = (type: string, extra: object = {}): ModelConfig => parseConfig({ model_type: type, ...BASE, ...extra });
