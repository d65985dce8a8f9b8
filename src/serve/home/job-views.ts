import type { JobEvent } from "../../jobs/events.ts";
import { checkpointModel } from "../../jobs/job-config.ts";
import type { Job } from "../../jobs/job-store.ts";
import { metricsAt, type MetricsLine } from "../../jobs/metrics.ts";
import type { Progress } from "../../jobs/worker.ts";
import type { Job as JobView } from "../../page/api/types.ts";
import type { SavedCheckpoint } from "../../train/run/checkpoint.ts";

/** A job as OpenAI's API has it, with what this server knows besides under `remat`. */
export function jobView(job: Job, progress: Progress | null): JobView & Readonly<Record<string, unknown>> {
  const { examination } = job;
  const request = job.request as Readonly<Record<string, unknown>> & Pick<JobView, "model" | "hyperparameters" | "seed">;
  // Jobs of earlier versions were all supervised.
  const method = request["method"] === "dpo" ? "dpo" : "supervised";
  const isEnded = job.finished_at !== null;
  const left = progress === null ? null : Math.ceil(progress.secondsLeft);
  return {
    id: job.id,
    object: "fine_tuning.job",
    created_at: job.created_at,
    finished_at: job.finished_at,
    estimated_finish: left === null || isEnded ? null : Math.floor(Date.now() / 1000) + left,
    status: job.status,
    error: job.error,
    model: request.model,
    fine_tuned_model: job.status === "succeeded" && job.kept !== "nothing" ? job.name : null,
    organization_id: "remat",
    result_files: job.result_file === null ? [] : [job.result_file],
    trained_tokens: job.trained_tokens,
    training_file: job.config.training,
    validation_file: job.config.validation,
    hyperparameters: request.hyperparameters,
    method: { type: method, [method]: { hyperparameters: request.hyperparameters } },
    seed: request.seed,
    metadata: request["metadata"] ?? null,
    integrations: [],
    remat: {
      // The model's name from the first moment on; `fine_tuned_model` has it when there is such a model.
      name: job.name,
      paused: job.paused,
      attempt: job.attempt,
      step: progress?.step ?? job.step,
      steps: progress?.steps ?? examination.steps,
      loss: progress?.loss ?? null,
      tokens_per_second: progress?.tokensPerSecond ?? null,
      memory: { planned: progress?.memory ?? null, limit: progress?.limit ?? null, ...memoryView(job) },
      settings: job.config.settings,
      run_folder: job.kept,
    },
  };
}

const memoryView = ({ examination: { memory } }: Job) => ({ least: memory.least, most: memory.most });

export const eventId = (number: number): string => `ftevent-${String(number).padStart(12, "0")}`;

/** The number in an event's id; null: it is none. */
export function eventNumber(id: string): number | null {
  const digits = /^ftevent-(\d{1,15})$/.exec(id)?.[1];
  return digits === undefined ? null : Number(digits);
}

export function eventView({ number, job, created_at, level, type, message, data }: JobEvent) {
  return {
    id: eventId(number),
    object: "fine_tuning.job.event",
    created_at,
    level,
    message,
    type,
    data,
    fine_tuning_job_id: job,
  };
}

export const checkpointId = (job: string, step: number): string => `ftckpt-${job.slice("ftjob-".length)}-${step}`;

export function checkpointView(job: Job, { step, at }: SavedCheckpoint, lines: readonly MetricsLine[]) {
  return {
    id: checkpointId(job.id, step),
    object: "fine_tuning.job.checkpoint",
    created_at: Math.floor(at / 1000),
    fine_tuned_model_checkpoint: checkpointModel(job, step),
    fine_tuning_job_id: job.id,
    step_number: step,
    metrics: metricsAt(lines, step),
  };
}
