import type { ModelConfig } from "../../src/models/config.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import type { WeightStorage } from "../../src/load/weights.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";

/** A step of a model of a published shape, with random weights. */
export interface LargeCase {
  readonly config: ModelConfig;
  readonly storage: WeightStorage;
  readonly tokens: number;
  /** Rank of adapters on all linear layers; null: everything is trained. */
  readonly rank: number | null;
  readonly strategy: Checkpointing;
  /** Bytes of the process, at most. */
  readonly limit: number;
  /** Bytes of stash, workspace and what is trained, at most. */
  readonly stateBytes?: number;
  /** Bytes that its files take, about. */
  readonly diskBytes: number;
}

const GIB = 2 ** 30;

/** Qwen2.5's shapes, from their config.json. */
function qwen(hidden: number, inner: number, layers: number, heads: number, groups: number, vocabulary: number, tied: boolean) {
  return parseConfig(
    {
      architectures: ["Qwen2ForCausalLM"],
      model_type: "qwen2",
      hidden_size: hidden,
      intermediate_size: inner,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      num_key_value_heads: groups,
      vocab_size: vocabulary,
      max_position_embeddings: 32768,
      rms_norm_eps: 1e-6,
      rope_theta: 1e6,
      tie_word_embeddings: tied,
      hidden_act: "silu",
    },
    "bench/large",
  );
}

const SMALL = qwen(896, 4864, 24, 14, 2, 151936, true);
const MIDDLE = qwen(1536, 8960, 28, 12, 2, 151936, true);
const SEVEN = qwen(3584, 18944, 28, 28, 4, 152064, false);
const FOURTEEN = qwen(5120, 13824, 48, 40, 8, 152064, false);
const THIRTY_TWO = qwen(5120, 27648, 64, 40, 8, 152064, false);

const BF16: WeightStorage = { dtype: "bf16" };
const NF4: WeightStorage = { quantize: "nf4" };
const PER_SEGMENT: Checkpointing = { name: "per-segment" };

export const CASES = {
  "0.5b-small": {
    config: SMALL,
    storage: { quantize: "nf4", quantizeEmbedding: true },
    tokens: 256,
    rank: 8,
    strategy: PER_SEGMENT,
    limit: 350 * 2 ** 20,
    stateBytes: 150e6,
    diskBytes: 0.4e9,
  },
  "0.5b-full": {
    config: SMALL,
    storage: {},
    tokens: 512,
    rank: null,
    strategy: { name: "budget", bytes: 3 * GIB },
    limit: 3 * GIB,
    diskBytes: 8.2e9,
  },
  "1.5b-bf16": { config: MIDDLE, storage: BF16, tokens: 512, rank: 16, strategy: PER_SEGMENT, limit: GIB, diskBytes: 3.2e9 },
  // The planner chooses what stays in memory: the head, which is read more often than anything else.
  "1.5b-budget": {
    config: MIDDLE,
    storage: BF16,
    tokens: 512,
    rank: 16,
    strategy: { name: "budget", bytes: 1.25 * GIB },
    limit: 1.25 * GIB,
    diskBytes: 3.2e9,
  },
  "7b-nf4": { config: SEVEN, storage: NF4, tokens: 512, rank: 16, strategy: PER_SEGMENT, limit: 1.5 * GIB, diskBytes: 6e9 },
  "7b-bf16": { config: SEVEN, storage: BF16, tokens: 512, rank: 16, strategy: PER_SEGMENT, limit: 2.3 * GIB, diskBytes: 15.3e9 },
  "14b-nf4": { config: FOURTEEN, storage: NF4, tokens: 128, rank: 16, strategy: PER_SEGMENT, limit: 2 * GIB, diskBytes: 10.6e9 },
  "32b-nf4": { config: THIRTY_TWO, storage: NF4, tokens: 128, rank: 16, strategy: PER_SEGMENT, limit: 4 * GIB, diskBytes: 21e9 },
} as const satisfies Record<string, LargeCase>;
