import type { Batches, MicroBatch } from "../../data/samples/batch.ts";
import { createBreath, type Breath } from "../../base/process/event-loop.ts";
import { UserError } from "../../base/errors.ts";
import { metricOf, objectiveOf } from "../../objectives/index.ts";
import { addSums, LOSS, type Metric, type Sums } from "../../objectives/objective.ts";
import { type Checkpoints, START, type TrainingPosition } from "./checkpoint.ts";
import type { TrainConfig } from "../config.ts";
import type { ComputedTime } from "../step/tally.ts";
import type { Engine } from "../step/engine.ts";
import { createLearner, type Learner } from "../step/learner.ts";
import { notFinite } from "../step/finite.ts";
import { learningRate } from "../step/learning-rate.ts";
import { FIRST_LOSS_SCALE, nextLossScale } from "../step/loss-scale.ts";
import type { Optimizer } from "../step/optimizer.ts";
import type { Coordinator, NodeStep } from "../nodes/coordinator.ts";
import type { EarlierOrder, Part } from "../nodes/messages.ts";

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
  /** The objective's: a mean over what the step learns, for next-token the (weighted) cross entropy in nats of its labelled tokens. */
  readonly loss: number;
  /** The objective's by name; none where the device computes the loss. */
  readonly metrics: Readonly<Record<string, number>>;
  readonly learningRate: number;
  /** Global norm of the gradients before clipping; not a number (null in files) in a skipped step. */
  readonly gradientNorm: number;
  /** Tokens of examples, padding excluded. */
  readonly tokens: number;
  readonly seconds: number;
  /** Part of `seconds`: forward and backward, without data, clipping and optimizer. */
  readonly forwardBackward: ComputedTime;
  /** In f16: what gradients were multiplied by on their way, and how many steps so far had none that could be used. */
  readonly lossScale?: number;
  readonly skipped?: number;
  /** With several processes: what others had to do with the step. */
  readonly nodes?: NodeStep;
}

export interface Evaluation {
  readonly step: number;
  /** The objective's: a mean over all held-out examples. */
  readonly loss: number;
  /** Tokens with a target. */
  readonly labelled: number;
  /** The objective's, by name. */
  readonly metrics: Readonly<Record<string, number>>;
}

export interface TrainingEvents {
  step(metrics: StepMetrics): void;
  evaluation(evaluation: Evaluation): void;
  /** A checkpoint of this step is on the disk. */
  checkpoint(step: number): void;
  warning(text: string): void;
}

/** Number of optimizer steps of a run: `steps`, or `epochs` passes over the data. */
export function totalSteps(config: Pick<TrainConfig, "steps" | "epochs" | "gradientAccumulation">, microBatches: number): number {
  if (config.steps !== undefined) return config.steps;
  return Math.max(1, Math.ceil((config.epochs * microBatches) / config.gradientAccumulation));
}

/**
 * Held-out loss and metrics; null when it was told to stop before its end.
 * @throws {UserError} a loss that is not finite
 */
async function evaluate(
  { engine, data, adjust, shouldStop }: TrainingRun,
  learner: Learner,
  step: number,
  breathe: Breath,
): Promise<Evaluation | null> {
  let sums: Sums | null = null;
  let labelled = 0;
  for (const batch of data.valid) {
    if ((await breathe()) && shouldStop()) return null;
    adjust?.();
    sums = addSums(sums, learner.evaluate(batch));
    labelled += batch.labelled;
  }
  const { loss, metrics } = learner.head.values(sums!);
  if (!Number.isFinite(loss)) {
    const bad = notFinite(engine);
    const what = bad === null ? `a value within the model is too large for ${engine.compute}` : `${bad} holds such a value`;
    const remedy = step === 0 ? "use another --dtype" : "training diverged; lower --learning-rate or lengthen --warmup";
    throw new UserError(`step ${step}: the held-out loss is ${loss}, because ${what}: ${remedy}`);
  }
  return { step, loss, labelled, metrics };
}

/** Describes what `trainLoop` works on. */
export interface TrainingRun {
  readonly engine: Engine;
  readonly optimizer: Optimizer;
  readonly data: TrainingData;
  readonly config: TrainConfig;
  /** Divides micro-batches among processes, and adds up their gradients one by one; absent: all are computed here, on top of each other. */
  readonly coordinator?: Coordinator | undefined;
  readonly checkpoints: Checkpoints;
  readonly events: TrainingEvents;
  /** Called between steps, evaluations and checkpoints: collects garbage where memory is limited. */
  readonly collect: () => void;
  /** Called between micro-batches: changes the schedule where another limit of memory is asked for. */
  readonly adjust?: (() => void) | undefined;
  /** Asked after every step, and during evaluations. */
  readonly shouldStop: () => boolean;
}

/**
 * Trains from a position to the end, or until it is told to stop or the held-out metric has stopped getting better. The loss of a
 * step is a mean over its micro-batches, each counting as the objective says. Returns the last
 * position, which is on the disk unless checkpoints are switched off: a run can go on from its end, too.
 * @throws {UserError} when the loss or the gradients stop being numbers
 */
export async function trainLoop(run: TrainingRun, start: TrainingPosition): Promise<TrainingPosition> {
  const { data, config, checkpoints, events } = run;
  const steps = totalSteps(config, data.train.count(0));
  const objective = objectiveOf(config);
  const learner = createLearner(run.engine, objective.head);
  const metric = metricOf(objective, config.bestMetric);
  const breathe = createBreath();
  let position = start;
  let saved = { position: start, time: performance.now() };
  const save = () => {
    run.collect();
    checkpoints.save(position);
    events.checkpoint(position.step);
    saved = { position, time: performance.now() };
  };
  // A run that was stopped in the middle of an evaluation begins with it.
  const isEvaluationDue = () =>
    data.valid.length > 0 &&
    position.heldOutLoss === null &&
    (position.step === 0 || position.step === steps || (config.evalEvery > 0 && position.step % config.evalEvery === 0));
  // One that had stopped by itself has nothing more to do when it is resumed.
  const isExhausted = () => config.patience > 0 && position.sinceBest >= config.patience;
  for (;;) {
    let isNewBest = false;
    if (isEvaluationDue()) {
      const evaluation = await evaluate(run, learner, position.step, breathe);
      if (!evaluation) {
        if (position !== saved.position || position === START) save();
        break;
      }
      events.evaluation(evaluation);
      position = withEvaluation(position, evaluation, metric);
      isNewBest = position.sinceBest === 0;
    }
    const last = position.step >= steps;
    const stop = isExhausted() || run.shouldStop();
    const due =
      // The best weights have to be on the disk when others follow that are worse.
      (config.loadBest && isNewBest) ||
      (config.saveEvery > 0 && position.step > 0 && position.step % config.saveEvery === 0) ||
      (config.saveMinutes > 0 && performance.now() - saved.time >= config.saveMinutes * 60_000);
    const atEnd = last && (config.saveEvery > 0 || config.saveMinutes > 0);
    if (position !== saved.position && (due || stop || atEnd)) {
      try {
        save();
      } catch (error) {
        // At the end, what was trained can still be exported, which takes less room.
        if (!last || !(error instanceof UserError)) throw error;
        events.warning(`the run cannot go on from its end later: ${error.message}`);
      }
    }
    if (stop || last) break;
    run.collect();
    position = await trainStep(run, learner, position, steps, breathe);
    // Lets signals and timers in.
    await Bun.sleep(0);
  }
  return position;
}

function withEvaluation(position: TrainingPosition, { loss, metrics }: Evaluation, metric: Metric): TrainingPosition {
  const value = metric === LOSS ? loss : metrics[metric.name];
  if (value === undefined)
    throw new UserError(
      `--best-metric ${metric.name}: the held-out examples do not have what it is made of; hold out more of them, or choose another metric`,
    );
  const held = metric.better === "lower" ? value : -value;
  const better = position.bestLoss === null || held < position.bestLoss;
  return {
    ...position,
    heldOutLoss: held,
    bestLoss: better ? held : position.bestLoss,
    sinceBest: better ? 0 : position.sinceBest + 1,
  };
}

/** One optimizer step, from the position after `position.step` steps. */
async function trainStep(
  { engine, optimizer, data, config, events, adjust, coordinator }: TrainingRun,
  learner: Learner,
  position: TrainingPosition,
  steps: number,
  breathe: Breath,
): Promise<TrainingPosition> {
  const begin = performance.now();
  const step = position.step + 1;
  const { epoch } = data.train.locate(position.draw);
  const batchOf = (draw: number) => {
    const at = data.train.locate(draw);
    return data.train.batch(at.epoch, at.index);
  };
  const group = Array.from({ length: config.gradientAccumulation }, (_, i) => batchOf(position.draw + i));
  const { head } = learner;
  const total = group.reduce((sum, batch) => sum + head.share(batch), 0);
  const scaling = engine.compute === "f16" ? (position.lossScale ?? FIRST_LOSS_SCALE) : null;
  if (scaling) engine.scaleGradients(scaling.scale);
  const before = engine.computed;
  learner.prepare?.(group);
  const learn = async (batch: MicroBatch, order: Pick<EarlierOrder, "total" | "draw">): Promise<Part> => {
    await breathe();
    adjust?.();
    return learner.learn(batch, order.total, config.seed, order.draw);
  };
  const parts: Part[] = [];
  if (coordinator) {
    const orders = { step, draw: position.draw, count: group.length, total, factor: scaling?.scale ?? 1 };
    const learned = await coordinator.learn(orders, (order) => {
      if (scaling) engine.scaleGradients(order.factor);
      return learn(order.step === step ? group[order.index]! : batchOf(order.draw), order);
    });
    parts.push(...learned);
  } else {
    optimizer.zeroGradients();
    for (const [i, batch] of group.entries()) parts.push(await learn(batch, { total, draw: position.draw + i }));
  }
  const loss = parts.reduce((sum, part) => sum + part.loss, 0);
  const sums = parts.reduce<Sums | null>((all, part) => (part.sums ? addSums(all, part.sums) : all), null);
  const metrics = sums ? head.values(sums).metrics : {};
  const forwardBackward = elapsed(before, engine.computed);
  const rate = learningRate({ ...config, learningRate: optimizer.learningRate }, step - 1, steps);
  const gradientNorm = Number.isFinite(loss) ? optimizer.step(step - (scaling?.skipped ?? 0), rate, scaling?.scale) : NaN;
  const lossScale = scaling && nextLossScale(scaling, Number.isFinite(gradientNorm));
  if (!Number.isFinite(gradientNorm) && !lossScale) {
    throw new UserError(
      `step ${step}: the loss is ${loss} and the gradient norm ${gradientNorm}; training diverged. Lower --learning-rate (now ${optimizer.learningRate}) or lengthen --warmup`,
    );
  }
  const tokens = group.reduce((sum, batch) => sum + batch.used, 0);
  const seconds = (performance.now() - begin) / 1000;
  const scaled = scaling && lossScale ? { lossScale: scaling.scale, skipped: lossScale.skipped } : {};
  events.step({
    step,
    steps,
    epoch,
    loss,
    metrics,
    learningRate: rate,
    gradientNorm,
    tokens,
    seconds,
    forwardBackward,
    ...scaled,
    ...(coordinator && { nodes: coordinator.last }),
  });
  return { ...position, step, draw: position.draw + group.length, heldOutLoss: null, lossScale };
}

function elapsed(before: ComputedTime, now: ComputedTime): ComputedTime {
  const predicted = before.predicted === null || now.predicted === null ? null : now.predicted - before.predicted;
  return { measured: now.measured - before.measured, predicted };
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
