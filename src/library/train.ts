import { type TrainConfigInput, trainConfigSchema } from "../train/config.ts";
import type { RunEvent } from "../train/run/events.ts";
import type { MemoryControl } from "../train/run/memory-control.ts";
import { run, type RunResult } from "../train/run/run.ts";
import { validateOptions } from "./options.ts";
import { runApart } from "../train/apart/train-apart.ts";

export interface TrainOptions {
  /** Called with everything that happens, in order. An error that the sink throws ends the run. */
  readonly sink?: ((event: RunEvent) => void) | undefined;
  /** Ends the run in good order: the step under way is finished and saved, and what is trained by then is exported. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Trains in a process of its own (default: in this one). The event loop of this process then never stands still, and what the run
   * took of memory is returned at its end; relative paths mean what they mean here.
   */
  readonly isolate?: boolean | undefined;
  /** Changes the limit that `config.memory` begins with, by another schedule: no bit of what is learned changes. */
  readonly memoryControl?: MemoryControl | undefined;
}

/**
 * Fine-tunes a model. The keys of `config` are those of a configuration file; the run folder is `config.output`.
 *
 * Without `isolate`, the event loop is held for one micro-batch at a time: for a 0.5B model and 512 tokens on two cores
 * some five seconds. A server should isolate.
 * @throws {UserError} anything in configuration, files or data that is missing or does not fit; training that diverges;
 * an interruption before there is a run (exit code 130)
 */
export async function train(config: TrainConfigInput, options: TrainOptions = {}): Promise<RunResult> {
  const { isolate = false, ...running } = options;
  const valid = validateOptions(trainConfigSchema, config);
  const given = Object.keys(config);
  return isolate ? runApart(valid, given, running) : run(valid, { ...running, given });
}
