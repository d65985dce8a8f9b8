import type { SelectiveOptions } from "../../autodiff/selective.ts";
import { DECODER_TOKENS } from "../../generate/decoders.ts";
import type { FloatType } from "../../base/dtype.ts";
import { batchBytes } from "../../load/batch-memory.ts";
import { type Residency, windowBytes } from "../../load/residency.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { BatchSize, HeadKind, LabelSlots, WeightTypes } from "../../models/parts.ts";
import type { Tuning } from "../../models/tuning.ts";
import type { OptimizerChoice } from "../../optimizers/index.ts";
import type { OptimizerPlan } from "../../optimizers/plan.ts";
import { align } from "../../runtime/executor.ts";
import { type ParamInfo, residentBytes } from "../../runtime/resident.ts";
import { stepWordBytes } from "../../runtime/step-words.ts";
import type { Link } from "../../schedule/chain.ts";
import type { Costs } from "./costs.ts";
import type { FixedBytes } from "./forecast.ts";
import type { Checkpointing } from "./step-plan.ts";
import type { StreamOptions } from "./stream.ts";

export interface ModelPlanOptions {
  readonly config: ModelConfig;
  readonly tuning: Tuning;
  /** Type in memory of a frozen weight matrix, by checkpoint name. */
  readonly weightType: WeightTypes;
  /** The type that programs compute in: f32 by default, or a half type, which frozen weights then must have too; see autodiff/precision.ts. */
  readonly compute?: FloatType;
  readonly strategy: Checkpointing;
  /** Names of forward values to keep or to recompute in any case. */
  readonly selective?: Omit<SelectiveOptions, "count">;
  /** Smaller-tape variants of the blocks, besides those that the strategy makes use of: for a comparison. */
  readonly variants?: number;
  /** Numbers of tokens in a micro-batch that is trained or evaluated on. */
  readonly tokens: readonly number[];
  /** Numbers of tokens that logits are wanted for, and the most positions at a time. */
  readonly logits?: { readonly tokens: readonly number[]; readonly rows: number };
  /** The longest text that is to be continued, in tokens, by `Engine.decoder`. */
  readonly decode?: number;
  /** Batches have weights. */
  readonly weighted?: boolean;
  /** How the chain ends; with the loss by default. */
  readonly head?: HeadKind;
  /** Texts in a micro-batch, at most, where the head gives logits of texts. */
  readonly texts?: number;
  /** See `SegmentOptions.slots`. */
  readonly slots?: LabelSlots | undefined;
  /** Check that what is computed again comes out as before; see runtime/verify.ts. */
  readonly verifyReplay?: boolean;
  /** The optimizer of the trained weights; null: there is none. */
  readonly optimizer: OptimizerChoice | null;
  /** Boundaries and tapes may leave memory by this link. */
  readonly link?: Link | null;
  /** Frozen weights may lie in their file; absent: they lie in memory. */
  readonly stream?: StreamOptions | undefined;
  /** Temporary memory from before, and where it is kept. Without it, it is always measured. */
  readonly costs?: Pick<Costs, "temporaryOf" | "setTemporary">;
}

/** Bytes of what is not scheduled. */
export function fixedBytes(
  options: ModelPlanOptions,
  segments: number,
  params: readonly ParamInfo[],
  optimizer: OptimizerPlan | null,
  checks: number,
  residency: Residency,
  carried: number,
): FixedBytes {
  const { config, logits } = options;
  return {
    ...residentBytes(params, optimizer, residency.streamed),
    window: windowBytes(residency, rowTokens(options)),
    batch: batchBytes(config, batchSizeOf(options)) + stepWordBytes(segments),
    carried,
    logits: logits ? align(4 * logits.rows * config.vocabSize) : 0,
    checks,
  };
}

/** The most tokens that a batch has, generation included. */
export function mostTokens({ tokens, logits }: Pick<ModelPlanOptions, "tokens" | "logits">): number {
  return Math.max(...tokens, ...(logits?.tokens ?? []));
}

/** The most rows of a table that are read at a time; a decoder takes so many tokens at most. */
export function rowTokens(options: Pick<ModelPlanOptions, "tokens" | "logits">): number {
  return Math.max(mostTokens(options), DECODER_TOKENS);
}

/** Returns what the batch inputs of a model have room for. */
export function batchSizeOf(
  options: Pick<ModelPlanOptions, "tokens" | "logits" | "weighted" | "head" | "texts" | "slots">,
): BatchSize {
  const { logits, weighted, head, texts, slots } = options;
  return { tokens: mostTokens(options), weighted, head, texts, slots, ...(logits && { rows: logits.rows }) };
}
