import type { TrainConfig } from "../config.ts";
import type { ModelPlan } from "../memory/model-plan.ts";
import type { ComputedTime } from "../step/tally.ts";
import type { DataReport } from "../../data/samples/check.ts";
import type { PrepareProgress } from "../../data/samples/prepare.ts";
import type { SamplePart } from "../../data/samples/sample.ts";
import type { HubProgress } from "../../hf/hub/hub.ts";
import type { WeightCacheProgress } from "../../load/stored/cache.ts";
import type { Summary } from "../../schedule/summary.ts";
import type { Evaluation, StepMetrics } from "./loop.ts";

/**
 * Describes what a run tells while it goes on: the terminal shows it, `--json` prints each as a line of JSON on standard output,
 * `metrics.jsonl` and TensorBoard's files get the steps and evaluations.
 */
export type RunEvent =
  /** A file of the model is being downloaded; at most one event for each tenth of the file. */
  | ({ readonly type: "download" } & HubProgress)
  /** Examples are being read and tokenized. */
  | ({ readonly type: "prepare" } & PrepareProgress)
  /** Weights that are read while training are being converted on disk. */
  | ({ readonly type: "weights" } & WeightCacheProgress)
  | StartEvent
  /** The run goes on after so many optimizer steps. */
  | { readonly type: "resume"; readonly step: number }
  /** `--dry-run`: what the run would take, by a step that was timed. Nothing was trained or written. */
  | ({ readonly type: "estimate" } & Estimate)
  | StepEvent
  | EvaluationEvent
  | { readonly type: "checkpoint"; readonly step: number }
  | MemoryEvent
  /** Greedy answers to a held-out prompt; `before` is null in a resumed run. */
  | { readonly type: "sample"; readonly prompt: string; readonly before: string | null; readonly after: string }
  /** The run ends before its last step: it was interrupted, or the held-out loss (or `--best-metric`) no longer gets better (`--patience`). */
  | { readonly type: "stop"; readonly step: number; readonly reason: "interrupted" | "patience" }
  | DoneEvent
  /** Something is not as it should be, and the run goes on. */
  | { readonly type: "warning"; readonly text: string }
  /** Anything else that is worth a line. */
  | { readonly type: "message"; readonly text: string };

export interface StartEvent {
  readonly type: "start";
  readonly model: string;
  readonly family: string;
  readonly layers: number;
  readonly method: TrainConfig["method"];
  readonly parameters: { readonly all: number; readonly trainable: number };
  readonly examples: number;
  readonly tokens: number;
  readonly labelled: number;
  readonly heldOut: number;
  /** Some training tokens count more than others. */
  readonly weighted: boolean;
  /** The adapter that is trained further, as it was named. */
  readonly adapter: string | null;
  readonly strategy: string;
  /** The memory limit as it was given, and what that is in bytes. */
  readonly limit: string | null;
  readonly limitBytes: number | null;
  /**
   * Where no strategy was asked for: the limit of the activations that was taken, in bytes (null: as little as per-segment takes), what they would
   * take if everything was saved, whether the limit comes from that or is half of what was free, and the peak with per-segment.
   */
  readonly automatic: ModelPlan["automatic"];
  readonly schedule: Summary;
  /** Bytes. */
  readonly predictedPeak: number;
  readonly withoutCheckpointing: number;
  readonly device: string;
  /** Where boundaries and tapes go that leave memory. */
  readonly offload: string | null;
  /** Frozen weights that are read from their files in a micro-batch, in words; null: all are in memory. */
  readonly stream: string | null;
  /** Sentences about model, device and offload that a user may not expect. */
  readonly notes: readonly string[];
  /** The first training example, cut where the masking changes. */
  readonly firstExample: readonly SamplePart[];
  readonly output: string;
}

/** Describes what a whole run would take. */
export interface Estimate {
  /** Optimizer steps, and passes over the data. */
  readonly steps: number;
  readonly epochs: number;
  /** The seconds of an optimizer step, by forward and backward passes that were timed. */
  readonly secondsPerStep: number;
  /** The seconds of all steps; evaluations come on top. */
  readonly seconds: number;
}

export interface StepEvent extends StepMetrics {
  readonly type: "step";
  /** Smoothed. */
  readonly tokensPerSecond: number;
  /** Bytes: the greatest of what is planned since the limit of memory changed last. */
  readonly memory: number;
  readonly secondsLeft: number;
  /** With offload: bytes that went out and came in during the step, and seconds that the computation waited for them. */
  readonly offload?: { readonly out: number; readonly in: number; readonly waited: number };
}

/** Another limit of memory holds from the next micro-batch on, as a `MemoryControl` has asked. */
export interface MemoryEvent {
  readonly type: "memory";
  /** Bytes: the limit that was asked for, and the one that the schedule keeps, which is larger where none keeps the former. */
  readonly asked: number;
  readonly limit: number;
  /** False where the system takes back nothing of what the process has: it may keep what it had before. */
  readonly returned: boolean;
  readonly schedule: Summary;
  /** Bytes: the peak of what is planned with it. */
  readonly predictedPeak: number;
}

export interface EvaluationEvent extends Evaluation {
  readonly type: "evaluation";
}

/** An event as a line of JSON has it: metrics stand beside the other keys. */
export function lineOf(event: {
  readonly type: string;
  readonly metrics?: Readonly<Record<string, unknown>>;
}): Readonly<Record<string, unknown>> {
  if (!("metrics" in event)) return { ...event };
  const { metrics, ...rest } = event;
  return { ...rest, ...metrics };
}

export interface DoneEvent {
  readonly type: "done";
  readonly method: TrainConfig["method"];
  readonly step: number;
  readonly reason: "finished" | "interrupted" | "patience" | "dry-run";
  /** The step whose weights were exported, if not the last one's. */
  readonly bestStep: number | null;
  readonly seconds: number;
  /** Bytes. */
  readonly predictedPeak: number;
  readonly measuredPeak: number;
  /** ONNX Runtime's temporary memory, which is in both peaks. */
  readonly temporary: number;
  readonly withoutCheckpointing: number;
  readonly processPeak: number;
  /** Medians over the last steps of this process; null when there were none. */
  readonly forwardBackward: ComputedTime | null;
  /** With `--nodes`, by step: bytes that went to other processes and came from them, and micro-batches that they computed. */
  readonly nodes?: { readonly sent: number; readonly received: number; readonly elsewhere: number };
  readonly output: string;
}

/** Describes what other verbs print with `--json`. */
export type VerbEvent =
  /** `generate`, `chat`, `serve`: how answers are sampled, in words. */
  | { readonly type: "sampling"; readonly text: string }
  /** `eval`: mean loss, and the metrics of the objective. `tokens` are those with a target. */
  | {
      readonly type: "score";
      readonly examples: number;
      readonly tokens: number;
      readonly loss: number;
      readonly metrics: Readonly<Record<string, number>>;
    }
  /** `generate`: the `number`-th of `of` answers, for the prompt at `where`. */
  | { readonly type: "answer"; readonly number: number; readonly of: number; readonly where: string; readonly tokens: number }
  /** `generate`, `classify`, `merge`, `export`: what was written. */
  | { readonly type: "written"; readonly files: readonly string[]; readonly seconds: number }
  /** `data check`: something is wrong with the example at `where`. Only the first of a kind are listed (`--listed`). */
  | {
      readonly type: "problem";
      readonly kind: "error" | "duplicate" | "over-long";
      readonly where: string;
      readonly message: string;
    }
  /** `data check`: a whole file, with the number of all problems of a kind. `tokens` is null without a model. */
  | {
      readonly type: "report";
      readonly path: string;
      readonly examples: number;
      readonly kinds: DataReport["kinds"];
      readonly roles: DataReport["roles"];
      readonly unused: DataReport["unused"];
      readonly notices: DataReport["notices"];
      readonly errors: number;
      readonly duplicates: number;
      readonly overLong: number;
      readonly tokens: DataReport["tokens"];
    }
  /** `data show`: a sample, cut where the masking changes. */
  | {
      readonly type: "example";
      readonly where: string;
      readonly tokens: number;
      readonly trained: number;
      readonly parts: readonly SamplePart[];
    }
  /** `serve`: it takes requests now; `context` is the longest text in tokens, prompt and answer together. */
  | { readonly type: "listening"; readonly url: string; readonly model: string; readonly context: number }
  | RequestEvent
  /** `keys`: one that is there, was made (with its secret, `key`) or deleted. `created_at` is Unix time. */
  | {
      readonly type: "key";
      readonly id: string;
      readonly name: string;
      readonly scopes: readonly string[];
      readonly created_at: number;
      readonly key?: string;
      readonly deleted?: true;
    }
  /** Something that a user should know and that stops nothing. */
  | { readonly type: "note"; readonly text: string }
  | { readonly type: "warning"; readonly text: string }
  /** The verb failed; the last line. The message is on standard error too. */
  | { readonly type: "error"; readonly message: string; readonly exitCode: number };

/** `serve`: a request is over. */
export interface RequestEvent {
  readonly type: "request";
  readonly method: string;
  readonly path: string;
  /** The answer's; 499 when the client went before it was whole. */
  readonly status: number;
  readonly seconds: number;
  /** Counts of requests that came to the model; `cachedTokens` of the prompt's tokens were in the cache. */
  readonly promptTokens?: number;
  readonly cachedTokens?: number;
  readonly answerTokens?: number;
  /** null when it was not finished. */
  readonly reason?: "stop" | "length" | null;
  /** Seconds in the queue. */
  readonly waited?: number;
  /** Why it was refused or cut. */
  readonly message?: string;
}

/** Something that takes events. */
export type EventSink = (event: RunEvent) => void;
