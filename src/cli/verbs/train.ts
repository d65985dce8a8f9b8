import { existsSync } from "node:fs";
import { basename, join, relative, resolve } from "node:path";
import { type Device, openDevice } from "../../device.ts";
import type { SamplePart } from "../../data/samples/sample.ts";
import { writeTextAtomic } from "../../base/files.ts";
import { type HubProgress } from "../../hf/hub/hub.ts";
import { visionNote } from "../../hf/weights/model-weights.ts";
import { writeSegmentModels } from "../../onnx/segments.ts";
import { createCheckpoints, findResumable, type Resumable, START, type TrainingPosition } from "../../train/run/checkpoint.ts";
import { schedulePrograms } from "../../runtime/scheduled.ts";
import { formatSummary, summarise } from "../../schedule/summary.ts";
import { strategyName } from "../../train/memory/strategy.ts";
import { saveCosts } from "../../train/memory/costs.ts";
import type { Engine } from "../../train/step/engine.ts";
import { checkQuantize, fingerprint, HELP_GROUPS, type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { exportTrained } from "../../train/run/export.ts";
import { peakProcessMemory } from "../../train/memory/free-memory.ts";
import { formatBytes } from "../../base/bytes.ts";
import { runDate } from "../../train/run/date.ts";
import { checkRunFolder, openJsonLines, prepareRunFolder, rewindJsonLines, RUN_FILES } from "../../train/run/folder.ts";
import { createStepTimes } from "../../train/run/step-times.ts";
import { createSession, readInputs, type Session } from "../../train/run/session.ts";
import { totalSteps, type TrainingEvents, trainLoop } from "../../train/run/loop.ts";
import type { DoneEvent, EventSink, StepEvent } from "../../train/run/events.ts";
import { openTensorBoard } from "../../train/run/tensorboard.ts";
import { findConfig, readConfigFile, validateConfig } from "../flags/config-file.ts";
import { findModel } from "../flags/find-model.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { createDisplay, type Display } from "../terminal/display.ts";
import { UserError } from "../../base/errors.ts";

const RECIPES = join(import.meta.dir, "../../../recipes");

/** What `remat train` without a configuration runs. */
const DEFAULT_RECIPE = "devils-dictionary";

export { trainConfigSchema as flags };

export function help(): string {
  return `Fine-tunes a model.

Usage: remat train [CONFIG] [--flag value ...]

CONFIG is a .ts, .yaml or .json file with the flags' names as keys, a recipe's name, or a run folder: remat train RUN --resume.
Without CONFIG, --model and --data the bundled example is trained.

${describeFlags(trainConfigSchema, HELP_GROUPS)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const given = await resolveConfig(args);
  const { file } = given;
  // Written into the run folder with the others: the run is resumed with the day that it was begun on.
  const asked = { ...given.config, date: runDate(given.config) };
  checkQuantize(asked);
  const display = createDisplay(asked.json);
  checkRunFolder(asked.output, asked);
  const found = await findModel(asked, { onProgress: showDownload(display) });
  checkAdapter(found.adapter, asked);
  const named = { ...asked, model: found.name, ...(found.adapter === null ? {} : { adapter: found.adapter }) };
  const inputs = await interruptible((signal) =>
    readInputs(named, found.folder, { signal, given: given.keys, onProgress: (report) => display.prepare(report) }),
  );
  const { config } = inputs;
  const device = await openDevice(config);
  let release = () => {};
  let session: Session | null = null;
  try {
    session = createSession(device.executor, inputs);
    const steps = totalSteps(config, session.data.train.count(0));
    const resumable = config.resume ? findResumable(config.output, fingerprint(config, inputs), steps) : null;
    // Only now that nothing can be refused any more is something written.
    const { folder, lock } = prepareRunFolder(config.output, config.resume);
    release = lock.release;
    writeTextAtomic(join(folder, RUN_FILES.config), `${JSON.stringify(config, null, 2)}\n`);
    describe(session, device, file, display);
    if (resumable) explainResume(resumable, steps, display);
    const { segments, schedule } = session.engine;
    const used = new Set(schedulePrograms(segments, schedule).map(({ graph }) => graph));
    // Besides what this schedule runs, the plain programs of every segment, which any other schedule is made of.
    for (const { model } of segments) {
      used.add(model.forward);
      if (model.training) used.add(model.training.taped).add(model.training.backward);
    }
    writeSegmentModels(join(folder, RUN_FILES.segments), segments, {
      wanted: (graph) => used.has(graph),
      // The memory belongs to the first step.
      afterFile: () => Bun.gc(true),
    });
    const { costs } = session;
    if (costs) saveCosts(join(folder, RUN_FILES.costs), costs);
    await runSession(session, folder, display);
    if (costs) saveCosts(join(folder, RUN_FILES.costs), costs);
  } finally {
    release();
    session?.engine.close();
    device.close();
    inputs.source.close();
    inputs.start?.adapter.source.close();
  }
  return 0;
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

/** Lets Ctrl-C end an action in good order. */
async function interruptible<T>(action: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const abort = () => controller.abort(new UserError("interrupted while the data were prepared; nothing was written", 130));
  process.once("SIGINT", abort);
  process.once("SIGTERM", abort);
  try {
    return await action(controller.signal);
  } finally {
    process.off("SIGINT", abort);
    process.off("SIGTERM", abort);
  }
}

/** The configuration, the file that it came from, and the keys that file or flags have. */
async function resolveConfig(
  args: readonly string[],
): Promise<{ readonly config: TrainConfig; readonly file: string | undefined; readonly keys: readonly string[] }> {
  const { values, words } = parseFlags(trainConfigSchema, args);
  if (words.length > 1)
    throw new UserError(`expected one configuration, got ${words.map((word) => JSON.stringify(word)).join(" and ")}`);
  const named = words[0] ?? (values["model"] === undefined && values["data"] === undefined ? DEFAULT_RECIPE : undefined);
  const file = named === undefined ? undefined : findConfig(named, RECIPES);
  const fromFile = file === undefined ? {} : await readConfigFile(file);
  // The bundled example may be run again and again without thinking of folders.
  const implied = words.length === 0 && named === DEFAULT_RECIPE ? { overwrite: true } : {};
  const asked = { ...implied, ...fromFile, ...values };
  return { config: validateConfig(trainConfigSchema, asked, file), file, keys: Object.keys(asked) };
}

/** Says how far a download is, a line for every tenth of a file. */
function showDownload(display: Display): (state: HubProgress) => void {
  let last = "";
  return ({ file, bytes, size }) => {
    const text = `downloading     ${file}: ${Math.floor((10 * bytes) / Math.max(1, size))}0 % of ${formatBytes(size)}`;
    if (text !== last) display.say(text);
    last = text;
  };
}

/** What is about to be trained, before the first step. */
function describe(session: Session, { description, notice }: Device, file: string | undefined, display: Display): void {
  const { engine, inputs, parameters } = session;
  const { config, model, train, valid } = inputs;
  const deviceText = engine.compute === "f32" ? description : `${description}, computing in ${engine.compute}`;
  display.emit({
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
    strategy: strategyName(config),
    predictedPeak: engine.predicted.peak,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    device: deviceText,
    output: config.output,
  });
  if (config.json) return;
  const share = ((100 * parameters.trainable) / parameters.all).toFixed(2);
  const vision = visionNote(inputs.source);
  const lines = [
    ...(file ? [`configuration   ${relative(process.cwd(), file) || file}`] : []),
    `model           ${config.model}: ${model.family}, ${model.layers} layers, ${millions(parameters.all)} parameters`,
    ...(vision === null ? [] : [`                ${vision}`]),
    `trained         ${config.method}, ${millions(parameters.trainable)} parameters (${share} %)${inputs.start ? `, from ${config.adapter}` : ""}`,
    `data            ${train.count} examples, ${train.tokens} tokens, ${train.labelled} with a target${train.weighted ? " (some count more than others)" : ""}${valid ? `; ${valid.count} held out` : ""}`,
    `memory          ${formatBytes(engine.predicted.peak)} predicted with ${strategyText(config)}, ${formatBytes(engine.withoutCheckpointing.peak)} without`,
    `schedule        ${formatSummary(summarise(engine.chain, engine.schedule))}`,
    `device          ${deviceText}`,
    ...(notice === null ? [] : [`                ${notice}`]),
    ...(engine.store ? [`offload         ${engine.store.description}`] : []),
    ...(engine.store?.notice ? [`                ${engine.store.notice}`] : []),
    `first example   ${session.shownSample().map(markPart).join("")}`,
  ];
  for (const line of lines) display.say(line);
}

/** What a resumed run does otherwise than the one before it, or that it has nothing to do. */
function explainResume({ step, length }: Resumable, steps: number, display: Display): void {
  if (step === steps) display.say(`all ${steps} steps of the run are done; more --steps or --epochs go on from here`);
  else if (length) {
    display.warn(
      `the run goes on to another end: it had ${length.had} and has ${length.has} now; from here on the learning rates are those of ${steps} steps`,
    );
  }
}

function strategyText(config: TrainConfig): string {
  if (config.memory !== undefined) return `the fastest schedule within ${config.memory} for the process`;
  return config.gradientCheckpointing ? `gradient checkpointing (${strategyName(config)})` : "gradient checkpointing off";
}

function millions(count: number): string {
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} thousand` : `${(count / 1e6).toFixed(2)} million`;
}

/** Masked text in brackets. */
function markPart(part: SamplePart): string {
  const text = part.text.replaceAll("\n", "\\n");
  return part.trained ? text : `[${text}]`;
}

async function runSession(session: Session, folder: string, display: Display): Promise<void> {
  const { engine, data, inputs } = session;
  const { config } = inputs;
  const checkpoints = createCheckpoints(folder, engine.executor, engine.resident.trainable, {
    keep: config.keep,
    fingerprint: fingerprint(config, inputs),
  });
  const { warn } = display;
  const restored = config.resume ? checkpoints.restore(warn) : null;
  const start = restored ?? START;
  if (start.step > 0) display.emit({ type: "resume", step: start.step });
  rewindJsonLines(join(folder, RUN_FILES.metrics), restored ? start.step : -1);
  const metrics = openJsonLines(join(folder, RUN_FILES.metrics));
  const tensorBoard = config.tensorboard ? openTensorBoard(folder, restored ? start.step + 1 : 0) : null;
  const record: EventSink = (event) => {
    if (event.type === "step" || event.type === "evaluation") metrics.write({ ...event });
    tensorBoard?.write(event);
    display.emit(event);
  };
  let interrupted = false;
  const interrupt = () => {
    interrupted = true;
    display.say("interrupted: finishing this step, then saving");
  };
  process.once("SIGINT", interrupt);
  process.once("SIGTERM", interrupt);
  const begin = performance.now();
  const seconds = () => (performance.now() - begin) / 1000;
  let speed = 0;
  const before = start.step === 0 ? session.sample() : null;
  let last = start;
  let reason: DoneEvent["reason"] = "finished";
  let best: TrainingPosition | null = null;
  const moved = stepTransfers(engine);
  const times = createStepTimes();
  try {
    const events: TrainingEvents = {
      step(step) {
        const current = step.tokens / step.seconds;
        times.add(step.forwardBackward);
        speed = step.step === start.step + 1 ? current : 0.9 * speed + 0.1 * current;
        record({
          type: "step",
          ...step,
          tokensPerSecond: speed,
          memory: engine.measuredPeak,
          ...moved(),
          secondsLeft: (seconds() / (step.step - start.step)) * (step.steps - step.step),
        });
      },
      evaluation: (evaluation) => record({ type: "evaluation", ...evaluation, perplexity: Math.exp(evaluation.loss) }),
      checkpoint: (step) => record({ type: "checkpoint", step }),
      warning: warn,
    };
    const run = {
      engine,
      optimizer: session.optimizer,
      data,
      config,
      checkpoints,
      events,
      collect: session.collect,
      shouldStop: () => interrupted,
    };
    last = await trainLoop(run, start);
    const atEnd = last.step === totalSteps(config, data.train.count(0));
    reason = atEnd ? "finished" : interrupted ? "interrupted" : "patience";
    if (reason !== "finished") record({ type: "stop", step: last.step, reason });
    // An interrupted run goes on from its last weights, and is not at its end.
    if (config.loadBest && !interrupted && last.sinceBest > 0) {
      best = checkpoints.restoreBest(warn);
      // Where the run was begun without --load-best, or its checkpoint is damaged.
      if (best?.heldOutLoss !== last.bestLoss) warn(`the best weights (held-out loss ${last.bestLoss}) are in no checkpoint`);
    }
    exportTrained(folder, engine, config, inputs.folder);
  } finally {
    process.off("SIGINT", interrupt);
    process.off("SIGTERM", interrupt);
    metrics.close();
    tensorBoard?.close();
  }
  const after = session.sample();
  if (after) display.emit({ type: "sample", prompt: after.prompt, before: before?.answer ?? null, after: after.answer });
  display.emit({
    type: "done",
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
  });
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
