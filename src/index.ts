/**
 * Remat as a library. Nothing here prints, ends the process, or takes a signal of it: what happens is told to a `sink`, what
 * went wrong is thrown, and an `AbortSignal` ends long work in good order. A mistake that a user can mend is a `UserError`.
 */
export { UserError } from "./base/errors.ts";
export { type ChatOptions, type Conversation, openChat, type SayOptions } from "./library/chat.ts";
export { classify, type ClassifyOptions, type ClassifyResult, type JudgedText } from "./library/texts/classify.ts";
export { rerank, type RankedQuery, type RankedText, type RerankOptions, type RerankResult } from "./library/texts/rerank.ts";
export { embed, type EmbeddedText, type EmbedOptions, type EmbedResult } from "./library/texts/embed.ts";
export {
  type JoinEvent,
  joinFederation,
  type JoinFederationOptions,
  type JoinFederationResult,
  leadFederation,
  type LeadEvent,
  type LeadFederationOptions,
  type LeadFederationResult,
} from "./library/fleet/federate.ts";
export { evaluate, type EvaluateOptions, type EvaluateResult } from "./library/evaluate.ts";
export { exportGguf, type ExportGgufOptions, type ExportGgufResult } from "./library/export-gguf.ts";
export { exportOnnx, type ExportOnnxOptions, type ExportOnnxResult } from "./library/export-onnx.ts";
export { generate, type GeneratedAnswer, type GenerateOptions, type GenerateResult } from "./library/generate.ts";
export { createKey, deleteKey, type Key, type KeyOptions, listKeys, type NewKey } from "./library/keys.ts";
export { merge, type MergeOptions, type MergeResult } from "./library/merge.ts";
export type { CallOptions } from "./library/options.ts";
export {
  type CurvePoint,
  plan,
  type PlannedMemory,
  type PlannedSegment,
  type PlanOptions,
  type PlanReport,
} from "./library/plan.ts";
export { type FleetNodeOptions, node, type RunningNode } from "./library/fleet/node.ts";
export { type RunningServer, serve, type ServeCallOptions, type ServeOptions } from "./library/serve.ts";
export { step, type StepOptions, type StepResult } from "./library/step.ts";
export { train, type TrainOptions } from "./library/train.ts";
export { defineConfig, type TrainConfig, type TrainConfigInput } from "./train/config.ts";
export type { DoneEvent, EvaluationEvent, MemoryEvent, RunEvent, StartEvent, StepEvent, VerbEvent } from "./train/run/events.ts";
export { createMemoryControl, type MemoryControl } from "./train/run/memory-control.ts";
export type { RunResult } from "./train/run/run.ts";
