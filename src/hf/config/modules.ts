import type { Family } from "./config.ts";

/** What a family calls its modules in checkpoints, PEFT adapters included. */
export interface FamilyModules {
  /** Below `ModelConfig.modulePrefix`. */
  readonly embedding: string;
  /** At the top; the checkpoint lacks it where the embedding is used in its place. */
  readonly head: string;
  /** Last parts of the names of the linear layers of a block, which are PEFT's "all-linear". */
  readonly linear: readonly string[];
}

const LLAMA: FamilyModules = {
  embedding: "embed_tokens",
  head: "lm_head",
  linear: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
};

const PHI3: FamilyModules = { ...LLAMA, linear: ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"] };

const INTERNLM2: FamilyModules = { embedding: "tok_embeddings", head: "output", linear: ["wqkv", "wo", "w1", "w3", "w2"] };

const MODULES: Readonly<Record<Family, FamilyModules>> = {
  llama: LLAMA,
  mistral: LLAMA,
  qwen2: LLAMA,
  qwen3: LLAMA,
  gemma2: LLAMA,
  gemma3_text: LLAMA,
  phi3: PHI3,
  internlm2: INTERNLM2,
  internlm3: LLAMA,
};

export function modulesOf({ family }: { readonly family: Family }): FamilyModules {
  return MODULES[family];
}

/** The decoder block that a module or weight belongs to; null outside the blocks, and below names that only look alike. */
export function layerOf(name: string, { modulePrefix }: { readonly modulePrefix: string }): number | null {
  const [, layer] = name.startsWith(modulePrefix) ? (/^layers\.(\d+)\./.exec(name.slice(modulePrefix.length)) ?? []) : [];
  return layer === undefined ? null : Number(layer);
}

/** Embeddings and heads of all families. */
export const TABLE_MODULES: readonly string[] = [
  ...new Set(Object.values(MODULES).flatMap(({ embedding, head }) => [embedding, head])),
];

/** The linear layers of all families. */
export const LINEAR_MODULES: readonly string[] = [...new Set(Object.values(MODULES).flatMap(({ linear }) => linear))];
