import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { UserError } from "../../base/errors.ts";
import { writeTextAtomic } from "../../base/files/files.ts";
import { type Device, openDevice } from "../../device.ts";
import { createTrial } from "../../doctor/trial.ts";
import { undeclaredEnds } from "../../data/chat/end-of-turn.ts";
import type { Learned } from "../../hf/weights/model-folder.ts";
import type { HubProgress } from "../../hf/hub/hub.ts";
import { findModel } from "../../load/find-model.ts";
import { writeSegmentModels } from "../../onnx/segments.ts";
import { LOSS } from "../../objectives/objective.ts";
import { schedulePrograms } from "../../runtime/scheduled.ts";
import { summarise } from "../../schedule/summary.ts";
import { chooseOptimizer } from "../../optimizers/index.ts";
import { checkQuantize, fingerprint, type TrainConfig } from "../config.ts";
import { saveCosts } from "../memory/costs.ts";
import { peakProcessMemory } from "../memory/free-memory.ts";
import { strategyName } from "../memory/strategy.ts";
import type { Engine } from "../step/engine.ts";
import { createCheckpoints, findResumable, type Resumable, START, type TrainingPosition } from "./checkpoint.ts";
import { runDate } from "./date.ts";
import { type DoneEvent, type EventSink, lineOf, type StepEvent } from "./events.ts";
import { exportTrained } from "./export.ts";
import { checkRunFolder, openJsonLines, prepareRunFolder, rewindJsonLines, RUN_FILES } from "./folder.ts";
import { type Evaluation, totalSteps, type TrainingEvents, trainLoop } from "./loop.ts";
import { createSession, type Inputs, readInputs, type Session } from "./session.ts";
import { createStepTimes } from "./step-times.ts";
import { openTensorBoard } from "./tensorboard.ts";

export interface RunOptions {
  /** Called with everything that happens, in order. An error that the sink throws ends the run. */
  readonly sink?: EventSink | undefined;
  /** Ends the run in good order: the step under way is finished and saved, and what is trained by then is exported. */
  readonly signal?: AbortSignal | undefined;
  /** The keys of the configuration that were asked for (default: none); an adapter that is trained further must agree with them. */
  readonly given?: readonly string[] | undefined;
}

/** How a run ended. */
export interface RunResult extends Omit<DoneEvent, "type"> {
  /** Steps of the whole run. */
  readonly steps: number;
  /** Loss of the last step, in nats per token; null when no step was made. */
  readonly loss: number | null;
  /** The last evaluation on held-out examples; null when there was none. */
  readonly evaluation: Evaluation | null;
}

/**
 * Trains: opens model, data and device, plans, trains, saves and exports, and closes everything. Nothing is written before
 * everything has been read and checked. Nothing is printed; signals of the process are left alone.
 *
 * The event loop is held for one micro-batch at a time, which on a small processor may be many seconds.
 * @throws {UserError} anything in configuration, files or data that is missing or does not fit; training that diverges;
 * an interruption before there is a run (exit code 130)
 */
export async function run(asked: TrainConfig, { sink = () => {}, signal, given = [] }: RunOptions = {}): Promise<RunResult> {
  // Written into the run folder with the others: the run is resumed with the day that it was begun on.
  const dated = { ...asked, date: runDate(asked) };
  checkQuantize(dated);
  chooseOptimizer(dated);
  checkRunFolder(dated.output, dated);
  const found = await findModel(dated, { onProgress: tenths(sink) });
  checkAdapter(found.adapter, dated);
  const named = { ...dated, model: found.name, ...(found.adapter === null ? {} : { adapter: found.adapter }) };
  const notes: string[] = [];
  const trial = createTrial(dated.device);
  const read = () =>
    readInputs(named, found.folder, {
      signal,
      given,
      onNote: (text) => notes.push(text),
      onProgress: (report) => sink({ type: "prepare", ...report }),
    });
  const inputs = await interruptible(signal, () => trial.beside(read));
  const { config } = inputs;
  let device: Device | null = null;
  let session: Session | null = null;
  let release = () => {};
  try {
    device = await openDevice({ ...config, trial: trial.pass });
    session = createSession(device.executor, inputs);
    const { engine, costs } = session;
    const steps = totalSteps(config, session.data.train.count(0));
    const resumable = config.resume ? findResumable(config.output, fingerprint(config, inputs), steps) : null;
    // Only now that nothing can be refused any more is something written.
    const { folder, lock } = prepareRunFolder(config.output, config.resume);
    release = lock.release;
    writeTextAtomic(join(folder, RUN_FILES.config), `${JSON.stringify(config, null, 2)}\n`);
    tellStart(session, device, notes, sink);
    if (resumable) tellResume(resumable, steps, sink);
    writePrograms(engine, folder);
    if (costs) saveCosts(join(folder, RUN_FILES.costs), costs);
    const result = await trainSession(session, folder, sink, signal);
    if (costs) saveCosts(join(folder, RUN_FILES.costs), costs);
    return result;
  } finally {
    release();
    session?.engine.close();
    device?.close();
    inputs.close();
  }
}

/** @throws {UserError} an adapter that its own run would overwrite, and axolotl's key of that name */
function checkAdapter(adapter: string | null, { output }: TrainConfig): void {
  const name = adapter === null ? "" : basename(adapter);
  if (/^q?lora$/.test(name) && !existsSync(adapter!)) {
    throw new UserError(
      `--adapter ${adapter}: no such folder; what is trained is said with --method lora${name === "qlora" ? " and --quantize nf4" : ""}`,
    );
  }
  if (adapter === null || resolve(adapter) !== resolve(output)) return;
  throw new UserError(
    `--output ${output} holds the adapter that is to be trained further; choose another folder. To go on with the run in it, give its base model as --model, and --resume`,
  );
}

/** @throws {UserError} in the place of whatever an aborted signal makes `action` throw */
async function interruptible<T>(signal: AbortSignal | undefined, action: () => Promise<T>): Promise<T> {
  try {
    signal?.throwIfAborted();
    return await action();
  } catch (error) {
    if (signal?.aborted !== true) throw error;
    throw new UserError("interrupted while the data were prepared; nothing was written", 130);
  }
}

/** Passes on how far a download is, once for every tenth of a file. */
function tenths(sink: EventSink): (progress: HubProgress) => void {
  let last = "";
  return (progress) => {
    const at = `${progress.file} ${Math.floor((10 * progress.bytes) / Math.max(1, progress.size))}`;
    if (at !== last) sink({ type: "download", ...progress });
    last = at;
  };
}

function tellStart(session: Session, { description, notice }: Device, notes: readonly string[], sink: EventSink): void {
  const { engine, inputs, parameters } = session;
  const { config, model, train, valid } = inputs;
  sink({
    type: "start",
    model: config.model,
    family: model.family,
    layers: model.layers,
    method: config.method,
    parameters,
    examples: train.count,
    tokens: train.tokens,
    labelled: train.labelled,
    heldOut: valid?.count ?? 0,
    weighted: train.weighted,
    adapter: inputs.start ? config.adapter! : null,
    strategy: strategyName(config),
    limit: config.memory ?? null,
    schedule: summarise(engine.chain, engine.schedule),
    predictedPeak: engine.predicted.peak,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    device: engine.compute === "f32" ? description : `${description}, computing in ${engine.compute}`,
    offload: engine.store?.description ?? null,
    notes: [...notes, notice, engine.store?.notice ?? null].filter((note) => note !== null),
    firstExample: session.shownSample(),
    output: config.output,
  });
}

/** Tells what a resumed run does otherwise than the one before it, or that it has nothing to do. */
function tellResume({ step, length }: Resumable, steps: number, sink: EventSink): void {
  if (step === steps) {
    sink({ type: "message", text: `all ${steps} steps of the run are done; more --steps or --epochs go on from here` });
  } else if (length) {
    sink({
      type: "warning",
      text: `the run goes on to another end: it had ${length.had} and has ${length.has} now; from here on the learning rates are those of ${steps} steps`,
    });
  }
}

/** Writes what the schedule runs, and the plain programs of every segment, which any other schedule is made of. */
function writePrograms({ segments, schedule }: Engine, folder: string): void {
  const used = new Set(schedulePrograms(segments, schedule).map(({ graph }) => graph));
  for (const { model } of segments) {
    used.add(model.forward);
    if (model.training) used.add(model.training.taped).add(model.training.backward);
  }
  writeSegmentModels(join(folder, RUN_FILES.segments), segments, {
    wanted: (graph) => used.has(graph),
    // The memory belongs to the first step.
    afterFile: () => Bun.gc(true),
  });
}

/** Share of the newest step in the rate that is shown. */
const NEWEST = 0.1;

async function trainSession(
  session: Session,
  folder: string,
  sink: EventSink,
  signal: AbortSignal | undefined,
): Promise<RunResult> {
  const { engine, data, inputs } = session;
  const { config } = inputs;
  const warn = (text: string) => sink({ type: "warning", text });
  const checkpoints = createCheckpoints(folder, engine, {
    keep: config.keep,
    fingerprint: fingerprint(config, inputs),
  });
  const restored = config.resume ? checkpoints.restore(warn) : null;
  const start = restored ?? START;
  if (start.step > 0) sink({ type: "resume", step: start.step });
  rewindJsonLines(join(folder, RUN_FILES.metrics), restored ? start.step : -1);
  const metrics = openJsonLines(join(folder, RUN_FILES.metrics));
  const tensorBoard = config.tensorboard ? openTensorBoard(folder, restored ? start.step + 1 : 0) : null;
  const record: EventSink = (event) => {
    if (event.type === "step" || event.type === "evaluation") metrics.write(lineOf(event));
    tensorBoard?.write(event);
    sink(event);
  };
  const steps = totalSteps(config, data.train.count(0));
  const begin = performance.now();
  const seconds = () => (performance.now() - begin) / 1000;
  let speed = 0;
  let loss: number | null = null;
  let lastEvaluation: Evaluation | null = null;
  let last = start;
  let reason: DoneEvent["reason"] = "finished";
  let best: TrainingPosition | null = null;
  const moved = stepTransfers(engine);
  const times = createStepTimes();
  const tellInterruption = () => sink({ type: "message", text: "interrupted: finishing this step, then saving" });
  const before = start.step === 0 ? session.sample() : null;
  signal?.addEventListener("abort", tellInterruption, { once: true });
  try {
    const events: TrainingEvents = {
      step(step) {
        const current = step.tokens / step.seconds;
        times.add(step.forwardBackward);
        speed = step.step === start.step + 1 ? current : (1 - NEWEST) * speed + NEWEST * current;
        loss = step.loss;
        record({
          type: "step",
          ...step,
          tokensPerSecond: speed,
          memory: engine.measuredPeak,
          ...moved(),
          secondsLeft: (seconds() / (step.step - start.step)) * (step.steps - step.step),
        });
      },
      evaluation(evaluation) {
        lastEvaluation = evaluation;
        record({ type: "evaluation", ...evaluation });
      },
      checkpoint: (step) => record({ type: "checkpoint", step }),
      warning: warn,
    };
    const loop = {
      engine,
      optimizer: session.optimizer,
      data,
      config,
      checkpoints,
      events,
      collect: session.collect,
      shouldStop: () => signal?.aborted === true,
    };
    last = await trainLoop(loop, start);
    const interrupted = signal?.aborted === true;
    reason = last.step === steps ? "finished" : interrupted ? "interrupted" : "patience";
    if (reason !== "finished") record({ type: "stop", step: last.step, reason });
    // An interrupted run goes on from its last weights, and is not at its end.
    if (config.loadBest && !interrupted && last.sinceBest > 0) {
      best = checkpoints.restoreBest(warn);
      // Where the run was begun without --load-best, or its checkpoint is damaged.
      if (best?.heldOutLoss !== last.bestLoss) {
        const value = config.bestMetric === LOSS.name ? last.bestLoss! : Math.abs(last.bestLoss!);
        warn(`the best weights (held-out ${config.bestMetric} ${value}) are in no checkpoint`);
      }
    }
    exportTrained(folder, engine, config, inputs.folder, learnedBy(inputs));
  } finally {
    signal?.removeEventListener("abort", tellInterruption);
    metrics.close();
    tensorBoard?.close();
  }
  const after = session.sample();
  if (after) sink({ type: "sample", prompt: after.prompt, before: before?.answer ?? null, after: after.answer });
  const done: Omit<DoneEvent, "type"> = {
    method: config.method,
    step: last.step,
    reason,
    bestStep: best?.step ?? null,
    seconds: seconds(),
    predictedPeak: engine.predicted.peak,
    measuredPeak: engine.measuredPeak,
    temporary: engine.executor.temporary?.bytes ?? 0,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    processPeak: peakProcessMemory(),
    forwardBackward: times.medians(),
    output: folder,
  };
  sink({ type: "done", ...done });
  return { ...done, steps, loss, evaluation: lastEvaluation };
}

/** What goes into the files beside the trained weights. */
function learnedBy({ config, model, tokenizer }: Inputs): Learned {
  return {
    stopIds: undeclaredEnds(model.eosTokenIds, tokenizer),
    chatTemplate: config.chatTemplate === undefined ? null : (tokenizer.chatTemplates.get("default") ?? null),
  };
}

/** What a step has moved, each time since the last. */
function stepTransfers({ store }: Engine): () => Pick<StepEvent, "offload"> {
  if (!store) return () => ({});
  let before = store.counts();
  return () => {
    const now = store.counts();
    const offload = { out: now.out - before.out, in: now.in - before.in, waited: now.waited - before.waited };
    before = now;
    return { offload };
  };
}
