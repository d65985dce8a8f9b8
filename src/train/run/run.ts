import { existsSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { UserError } from "../../base/errors.ts";
import { writeTextAtomic } from "../../base/files/files.ts";
import { withCleanup } from "../../base/process/cleanup.ts";
import { type Device, openDevice } from "../../device.ts";
import { createTrial } from "../../doctor/trial.ts";
import type { HubProgress } from "../../hf/hub/hub.ts";
import { findModel } from "../../load/find-model.ts";
import { writeSegmentModels } from "../../onnx/segments.ts";
import { metricOf, objectiveOf } from "../../objectives/index.ts";
import { schedulePrograms } from "../../runtime/scheduled.ts";
import { summarise } from "../../schedule/summary.ts";
import { chooseOptimizer } from "../../optimizers/index.ts";
import { checkQuantize, type TrainConfig } from "../config.ts";
import { fingerprint } from "../fingerprint.ts";
import { calibrated, learnedBy } from "./export/learned.ts";
import { saveCosts } from "../memory/costs.ts";
import { peakProcessMemory } from "../../base/process/free-memory.ts";
import { createSweeper } from "../../base/process/garbage.ts";
import { strategyName } from "../memory/strategy.ts";
import { checkNodes } from "../node-flags.ts";
import type { WorkerSource } from "../nodes/messages.ts";
import { checkDivisible, nodeDevice, openCoordinator } from "../nodes/open-coordinator.ts";
import type { Engine } from "../step/engine.ts";
import { createLearner } from "../step/learner.ts";
import {
  type Checkpoints,
  createCheckpoints,
  findResumable,
  type Resumable,
  START,
  type TrainingPosition,
} from "./checkpoint.ts";
import { runDate } from "./date.ts";
import { type DoneEvent, type EventSink, lineOf, type StartEvent } from "./events.ts";
import { describeAdapter, exportTrained, keepCompanions } from "./export/export.ts";
import { checkRunFolder, openJsonLines, prepareRunFolder, rewindJsonLines, RUN_FILES } from "./folder.ts";
import { type Evaluation, totalSteps, trainLoop, type TrainingRun } from "./loop.ts";
import { type MemoryControl, type MemoryWishes, memoryWishes } from "./memory-control.ts";
import { openReport } from "./report/report.ts";
import { createSession, readInputs, type Session } from "./session.ts";
import { bf16Gain, int8Gain } from "../../wasm/machine-code/executable.ts";
import { streamText } from "../memory/stream.ts";
import { createTeller } from "./teller.ts";
import { openTensorBoard } from "./tensorboard.ts";

export interface RunOptions {
  /** Called with everything that happens, in order. An error that the sink throws ends the run. */
  readonly sink?: EventSink | undefined;
  /** Ends the run in good order: the step under way is finished and saved, and what is trained by then is exported. */
  readonly signal?: AbortSignal | undefined;
  /** The keys of the configuration that were asked for (default: none); an adapter that is trained further must agree with them. */
  readonly given?: readonly string[] | undefined;
  /** Changes the memory limit that the run begins with. */
  readonly memoryControl?: MemoryControl | undefined;
  /** Where the other processes of a run with `nodes` are (default: on this machine). */
  readonly workers?: WorkerSource | undefined;
}

/** How a run ended. */
export interface RunResult extends Omit<DoneEvent, "type"> {
  /** Steps of the whole run. */
  readonly steps: number;
  /** Loss of the last step, by the objective (next-token: nats per token); null when no step was made. */
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
export async function run(asked: TrainConfig, { memoryControl, ...options }: RunOptions = {}): Promise<RunResult> {
  if (!memoryControl) return runWith(asked, options, null);
  if (strategyName(asked) !== "budget")
    throw new UserError("a memory limit that may change needs one to begin with: give memory, such as 1.5GiB");
  const wishes = memoryWishes(memoryControl);
  try {
    return await runWith(asked, options, wishes);
  } finally {
    wishes.end();
  }
}

async function runWith(
  asked: TrainConfig,
  { sink = () => {}, signal, given = [], workers }: Omit<RunOptions, "memoryControl">,
  wishes: MemoryWishes | null,
): Promise<RunResult> {
  // Written into the run folder with the others: the run is resumed with the day that it was begun on.
  const dated = { ...asked, date: runDate(asked) };
  checkQuantize(dated);
  checkNodes(dated);
  chooseOptimizer(dated);
  if (!dated.dryRun) checkRunFolder(dated.output, dated);
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
  return withCleanup(async (defer) => {
    defer(inputs.close);
    const device = await openDevice({ ...config, ...nodeDevice(config, workers !== undefined), trial });
    defer(device.close);
    checkDivisible(config, inputs.objective, device);
    const session = await createSession(device.executor, inputs, {
      signal,
      onWarning: (text) => sink({ type: "warning", text }),
      onMessage: (text) => sink({ type: "message", text }),
      onProgress: (report) => sink({ type: "weights", ...report }),
      elastic: wishes !== null,
    });
    const { engine, costs } = session;
    defer(() => engine.close());
    const steps = totalSteps(config, session.data.train.count(0));
    const resumable = config.resume ? findResumable(config.output, fingerprint(config, inputs), steps) : null;
    if (config.dryRun) {
      sink(startEvent(session, device, [...notes, ...fewSteps(config, steps)]));
      return estimate(session, steps, sink);
    }
    // Only now that nothing can be refused any more is something written.
    const { folder, lock } = prepareRunFolder(config.output, config.resume);
    defer(lock.release);
    writeTextAtomic(join(folder, RUN_FILES.config), `${JSON.stringify(config, null, 2)}\n`);
    if (config.method === "full") keepCompanions(inputs.folder, folder);
    const start = startEvent(session, device, [...notes, ...fewSteps(config, steps)]);
    sink(start);
    if (resumable) tellResume(resumable, steps, sink);
    writePrograms(engine, folder);
    if (costs) saveCosts(join(folder, RUN_FILES.costs), costs);
    const coordinator = openCoordinator({
      config: named,
      given,
      fingerprint: fingerprint(config, inputs),
      device,
      engine,
      folder: inputs.folder,
      workers,
      warn: (text) => sink({ type: "warning", text }),
    });
    if (coordinator) defer(coordinator.close);
    const result = await trainSession(session, folder, start, { sink, signal, wishes, coordinator });
    if (costs) saveCosts(join(folder, RUN_FILES.costs), costs);
    return result;
  });
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

function startEvent(session: Session, { name, description, notice }: Device, notes: readonly string[]): StartEvent {
  const { engine, inputs, parameters } = session;
  const { config, model, train, valid } = inputs;
  return {
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
    limitBytes: session.limit,
    automatic: engine.plan.automatic,
    schedule: summarise(engine.chain, engine.schedule),
    predictedPeak: engine.predicted.peak,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    device: engine.compute === "f32" ? description : `${description}, computing in ${engine.compute}`,
    offload: engine.store?.description ?? null,
    stream: streamText(engine.plan),
    notes: [...notes, ...session.notes, notice, productsNote(config, name), engine.store?.notice ?? null].filter(
      (note) => note !== null,
    ),
    firstExample: session.shownSample(),
    output: config.output,
  };
}

/** A sentence where other products would gain much by rounding more, and nothing more was said of products; null elsewhere. */
function productsNote({ matmul, quantize }: TrainConfig, device: Device["name"]): string | null {
  if (device !== "wasm" || (matmul !== "auto" && matmul !== "bf16")) return null;
  const int8 = quantize === "q8" ? int8Gain() : null;
  if (int8) return `--matmul int8 would multiply ${int8}; it rounds values to 8 bits, and losses differ by some 0.1 %`;
  const gain = matmul === "auto" ? bf16Gain() : null;
  return gain && `--matmul bf16 would multiply ${gain}; it rounds operands to 8 bits, and losses differ by some 0.1 %`;
}

/** Steps below which the default learning rate hardly moves anything. */
const FEW_STEPS = 20;

/** A sentence for runs that will hardly teach anything; none for others, and where a learning rate was asked for. */
function fewSteps({ learningRate, resume }: TrainConfig, steps: number): string[] {
  if (steps >= FEW_STEPS || learningRate !== undefined || resume) return [];
  return [
    `${steps === 1 ? "1 step" : `${steps} steps`} at the default learning rate will hardly teach anything: more --epochs or --steps, a smaller --batch-size, or a higher --learning-rate`,
  ];
}

/** Times forward and backward passes and tells what the whole run would take. Nothing is updated or written. */
function estimate({ engine, data, inputs }: Session, steps: number, sink: EventSink): RunResult {
  const { config } = inputs;
  const learner = createLearner(engine, inputs.objective.head);
  const began = performance.now();
  // The second pass is timed: the kernels' code is optimised during the first.
  const passes = [0, 1].map(() => {
    const begin = performance.now();
    engine.zeroGradients();
    const batch = data.train.batch(0, 0);
    learner.prepare?.([batch]);
    learner.learn(batch, inputs.objective.head.share(batch), config.seed, 0);
    return (performance.now() - begin) / 1000;
  });
  const secondsPerStep = passes[1]! * Math.ceil(config.gradientAccumulation / (config.nodes ?? 1));
  const epochs = (steps * config.gradientAccumulation) / data.train.count(0);
  sink({ type: "estimate", steps, epochs, secondsPerStep, seconds: steps * secondsPerStep });
  const done: Omit<DoneEvent, "type"> = {
    method: config.method,
    step: 0,
    reason: "dry-run",
    bestStep: null,
    seconds: (performance.now() - began) / 1000,
    predictedPeak: engine.predicted.peak,
    measuredPeak: engine.measuredPeak,
    temporary: engine.executor.temporary?.bytes ?? 0,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    processPeak: peakProcessMemory(),
    forwardBackward: null,
    output: config.output,
  };
  return { ...done, steps, loss: null, evaluation: null };
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
    afterFile: createSweeper(),
  });
}

async function trainSession(
  session: Session,
  folder: string,
  begun: StartEvent,
  {
    sink,
    signal,
    wishes,
    coordinator,
  }: Pick<TrainingRun, "coordinator"> &
    Pick<RunOptions, "signal"> & { readonly sink: EventSink; readonly wishes: MemoryWishes | null },
): Promise<RunResult> {
  const { engine, data, inputs } = session;
  const { config } = inputs;
  const warn = (text: string) => sink({ type: "warning", text });
  const checkpoints = createCheckpoints(folder, engine, {
    keep: config.keep,
    fingerprint: fingerprint(config, inputs),
    coordinator,
    describe: (checkpoint) => describeAdapter(checkpoint, engine, config, learnedBy(inputs)),
  });
  const restored = config.resume ? checkpoints.restore(warn) : null;
  const start = restored ?? START;
  if (start.step > 0) sink({ type: "resume", step: start.step });
  const steps = totalSteps(config, data.train.count(0));
  const begin = performance.now();
  const before = start.step === 0 ? session.sample() : null;
  const isInterrupted = () => signal?.aborted === true;
  const { last, best, reason, told, tell } = await withCleanup(async (defer) => {
    rewindJsonLines(join(folder, RUN_FILES.metrics), restored ? start.step : -1);
    const metrics = openJsonLines(join(folder, RUN_FILES.metrics));
    defer(metrics.close);
    const tensorBoard = config.tensorboard ? openTensorBoard(folder, restored ? start.step + 1 : 0) : null;
    if (tensorBoard) defer(() => tensorBoard.close());
    const report = openReport(folder, { engine, config, start: begun, sample: before, warn });
    const tell: EventSink = (event) => {
      report.take(event);
      sink(event);
    };
    const record: EventSink = (event) => {
      if (event.type === "step" || event.type === "evaluation") metrics.write(lineOf(event));
      tensorBoard?.write(event);
      tell(event);
    };
    const tellInterruption = () => sink({ type: "message", text: "interrupted: finishing this step, then saving" });
    signal?.addEventListener("abort", tellInterruption, { once: true });
    defer(() => signal?.removeEventListener("abort", tellInterruption));
    const told = createTeller(engine, record);
    const { optimizer, collect } = session;
    const loop: TrainingRun = {
      engine,
      optimizer,
      data,
      config,
      coordinator,
      checkpoints,
      events: told.events,
      collect,
      adjust: () => wishes?.fulfil((bytes) => resize(session, bytes, record)),
      shouldStop: isInterrupted,
    };
    const last = await trainLoop(loop, start).catch((error: unknown) => {
      report.fail(error);
      throw error;
    });
    const reason: DoneEvent["reason"] = last.step === steps ? "finished" : isInterrupted() ? "interrupted" : "patience";
    if (reason !== "finished") record({ type: "stop", step: last.step, reason });
    // An interrupted run goes on from its last weights, and is not at its end.
    const best = config.loadBest && !isInterrupted() && last.sinceBest > 0 ? restoreBest(checkpoints, last, config, warn) : null;
    const say = (text: string) => tell({ type: "message", text });
    exportTrained(folder, engine, config, isInterrupted() ? learnedBy(inputs) : calibrated(inputs, engine, data.valid, say));
    return { last, best, reason, told, tell };
  });
  const after = session.sample();
  if (after) tell({ type: "sample", prompt: after.prompt, before: before?.answer ?? null, after: after.answer });
  const done: Omit<DoneEvent, "type"> = {
    method: config.method,
    step: last.step,
    reason,
    bestStep: best?.step ?? null,
    seconds: (performance.now() - begin) / 1000,
    predictedPeak: engine.predicted.peak,
    measuredPeak: engine.measuredPeak,
    temporary: engine.executor.temporary?.bytes ?? 0,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    processPeak: peakProcessMemory(),
    forwardBackward: told.times(),
    ...told.nodes(),
    output: folder,
  };
  tell({ type: "done", ...done });
  return { ...done, steps, loss: told.loss(), evaluation: told.evaluation() };
}

/** Changes the schedule for another limit of memory. Returns the bytes that are kept. */
function resize(session: Session, asked: number, record: EventSink): number {
  const { limit, returned, kept } = session.resize(asked);
  const { chain, schedule, plan } = session.engine;
  const { peak } = plan.predicted;
  record({ type: "memory", asked, limit, returned, schedule: summarise(chain, schedule), predictedPeak: peak });
  return kept;
}

/** Loads the best weights. Null, with a warning, where the run was begun without --load-best, or their checkpoint is damaged. */
function restoreBest(
  checkpoints: Checkpoints,
  last: TrainingPosition,
  config: TrainConfig,
  warn: (text: string) => void,
): TrainingPosition | null {
  const best = checkpoints.restoreBest(warn);
  if (best?.heldOutLoss !== last.bestLoss) {
    // Positions have the negative of a metric of which more is better.
    const isLower = metricOf(objectiveOf(config), config.bestMetric).better === "lower";
    const value = isLower ? last.bestLoss! : -last.bestLoss!;
    warn(`the best weights (held-out ${config.bestMetric} ${value}) are in no checkpoint`);
  }
  return best;
}
