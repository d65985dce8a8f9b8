import type { Batches, MicroBatch } from "../data/batch.ts";
import { UserError } from "../errors.ts";
import type { TrainConfig } from "./config.ts";
import type { Engine } from "./engine.ts";
import { learningRate } from "./learning-rate.ts";
import type { Optimizer } from "./optimizer.ts";

export interface TrainingData {
  readonly train: Batches;
  /** The same micro-batches at every evaluation. */
  readonly valid: readonly MicroBatch[];
}

/** One optimizer step. */
export interface StepMetrics {
  /** Counted from 1. */
  readonly step: number;
  readonly steps: number;
  readonly epoch: number;
  /** Mean cross entropy (nats) of the step's labelled tokens. */
  readonly loss: number;
  readonly learningRate: number;
  /** Global norm of the gradients before clipping. */
  readonly gradientNorm: number;
  /** Tokens of examples, padding excluded. */
  readonly tokens: number;
  readonly seconds: number;
}

export interface Evaluation {
  readonly step: number;
  /** Mean cross entropy (nats) of the labelled tokens. */
  readonly loss: number;
  readonly labelled: number;
}

export interface TrainingEvents {
  step(metrics: StepMetrics): void;
  evaluation(evaluation: Evaluation): void;
}

/** Number of optimizer steps of a run: `steps`, or `epochs` passes over the data. */
export function totalSteps(config: Pick<TrainConfig, "steps" | "epochs" | "gradientAccumulation">, microBatches: number): number {
  if (config.steps !== undefined) return config.steps;
  return Math.max(1, Math.ceil((config.epochs * microBatches) / config.gradientAccumulation));
}

/** Mean held-out loss. */
export function evaluate(engine: Engine, batches: readonly MicroBatch[], step: number): Evaluation {
  let loss = 0;
  let labelled = 0;
  for (const batch of batches) {
    loss += engine.evaluate(batch);
    labelled += batch.labelled;
  }
  return { step, loss: loss / labelled, labelled };
}

/**
 * Trains. The loss of a step is the mean over all labelled tokens of its micro-batches (not the mean of their means).
 * `shouldStop` is asked after every step. Returns the number of steps done.
 * @throws {UserError} when the loss or the gradients stop being numbers
 */
export async function trainLoop(
  engine: Engine,
  optimizer: Optimizer,
  data: TrainingData,
  config: TrainConfig,
  events: TrainingEvents,
  shouldStop: () => boolean = () => false,
): Promise<number> {
  const steps = totalSteps(config, data.train.count(0));
  let draw = 0;
  if (data.valid.length > 0) events.evaluation(evaluate(engine, data.valid, 0));
  for (let step = 1; step <= steps; step++) {
    const begin = performance.now();
    const { epoch } = data.train.locate(draw);
    const group = Array.from({ length: config.gradientAccumulation }, (_, i) => {
      const at = data.train.locate(draw + i);
      return data.train.batch(at.epoch, at.index);
    });
    const labelled = group.reduce((sum, batch) => sum + batch.labelled, 0);
    optimizer.zeroGradients();
    let loss = 0;
    for (const batch of group) loss += engine.forwardBackward(batch, 1 / labelled, config.seed, draw++);
    const rate = learningRate(config, step - 1, steps);
    const gradientNorm = optimizer.step(step, rate);
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      throw new UserError(
        `step ${step}: the loss is ${loss} and the gradient norm ${gradientNorm}; training diverged. Lower --learning-rate (now ${config.learningRate}) or lengthen --warmup`,
      );
    }
    events.step({
      step,
      steps,
      epoch,
      loss,
      learningRate: rate,
      gradientNorm,
      tokens: group.reduce((sum, batch) => sum + batch.used, 0),
      seconds: (performance.now() - begin) / 1000,
    });
    const last = step === steps;
    if (data.valid.length > 0 && (last || (config.evalEvery > 0 && step % config.evalEvery === 0))) {
      events.evaluation(evaluate(engine, data.valid, step));
    }
    if (shouldStop()) return step;
    // Lets signals and timers in.
    await Bun.sleep(0);
  }
  return steps;
}

/** The first micro-batches that hold at least `limit` tokens, or all. */
export function heldOut(batches: Batches, limit: number): MicroBatch[] {
  const chosen: MicroBatch[] = [];
  let tokens = 0;
  for (let index = 0; index < batches.count(0) && tokens < limit; index++) {
    const batch = batches.batch(0, index);
    chosen.push(batch);
    tokens += batch.used;
  }
  return chosen;
}
