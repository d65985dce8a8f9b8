/** A Llama-architecture model folder with random weights, the start of the bundled base model's training. */
import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { makeFolder, writeTextAtomic } from "../../src/base/files/files.ts";
import { writeSafetensors, type TensorData } from "../../src/hf/weights/safetensors-write.ts";
import { createRandom } from "../../src/base/random.ts";

/** The keys of `config.json` that shape the weights. */
export interface Shape {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly head_dim: number;
}

const DEVIATION = 0.02;

/**
 * Normal weights of deviation 0.02, norms 1. The two projections that write to the residual stream are narrower by
 * sqrt(2 layers), which keeps the stream's variance independent of the depth (GPT-2; Radford et al. 2019, section 2.3).
 * Seeded per name; embeddings are tied, so there is no head.
 */
export function randomWeights(shape: Shape, seed: number): TensorData[] {
  const { hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers, head_dim: dim } = shape;
  const residual = DEVIATION / Math.sqrt(2 * layers);
  const tensors: TensorData[] = [];
  const ones = (name: string) => {
    tensors.push({ name, dtype: "f32", shape: [hidden], data: new Float32Array(hidden).fill(1) });
  };
  const normal = (name: string, dims: readonly number[], deviation = DEVIATION) => {
    const random = createRandom(seed, name);
    const data = Float32Array.from({ length: elements(dims) }, () => deviation * random.normal());
    tensors.push({ name, dtype: "f32", shape: dims, data });
  };
  normal("model.embed_tokens.weight", [shape.vocab_size, hidden]);
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `model.layers.${layer}.${part}.weight`;
    ones(name("input_layernorm"));
    normal(name("self_attn.q_proj"), [shape.num_attention_heads * dim, hidden]);
    normal(name("self_attn.k_proj"), [shape.num_key_value_heads * dim, hidden]);
    normal(name("self_attn.v_proj"), [shape.num_key_value_heads * dim, hidden]);
    normal(name("self_attn.o_proj"), [hidden, shape.num_attention_heads * dim], residual);
    ones(name("post_attention_layernorm"));
    normal(name("mlp.gate_proj"), [inner, hidden]);
    normal(name("mlp.up_proj"), [inner, hidden]);
    normal(name("mlp.down_proj"), [hidden, inner], residual);
  }
  ones("model.norm.weight");
  return tensors;
}

/** Writes `config.json`, `generation_config.json` and `model.safetensors`. @throws {UserError} */
export function writeRandomModel(
  folder: string,
  config: Shape & Record<string, unknown>,
  generation: object,
  seed: number,
): void {
  makeFolder(folder);
  writeTextAtomic(join(folder, "config.json"), `${JSON.stringify(config, null, 2)}\n`);
  writeTextAtomic(join(folder, "generation_config.json"), `${JSON.stringify(generation, null, 2)}\n`);
  writeSafetensors(join(folder, "model.safetensors"), randomWeights(config, seed));
}
