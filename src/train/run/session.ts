import { join } from "node:path";
import { type Batches, createBatches } from "../../data/samples/batch.ts";
import { maskingOf, withMasks } from "../../data/samples/masking.ts";
import { readsDate } from "../../data/chat/chat-template.ts";
import { endOfTurn } from "../../data/chat/end-of-turn.ts";
import type { PrepareOptions } from "../../data/samples/prepare.ts";
import { createSampleMaker } from "../../data/samples/sample-maker.ts";
import { type SamplePart, sampleParts } from "../../data/samples/sample.ts";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import type { Tokenizer } from "../../data/tokens/tokenizer.ts";
import { initialiseAdapter, writeAdapterWeights } from "../../load/adapter.ts";
import { generate, stopTokens } from "../../generate/generate.ts";
import { createSampler, GREEDY } from "../../generate/sampler.ts";
import { elements } from "../../graph/types.ts";
import { formatBytes } from "../../base/bytes.ts";
import { memoryLimit } from "../../base/process/free-memory.ts";
import { readJsonObject } from "../../base/json.ts";
import { QUANTISED_BLOCK } from "../../ops/dequantize.ts";
import { UserError } from "../../base/errors.ts";
import { hashFile } from "../../base/files/files.ts";
import type { Classifier } from "../../hf/config/classifier.ts";
import type { Adapter } from "../../hf/peft/peft.ts";
import type { ModelConfig } from "../../models/config.ts";
import { checkContext, contextLimit } from "../../models/context.ts";
import { type ModelIdentity, openFound, type OpenModel, type OpenModelOptions } from "../../load/open-model.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import { isConstant } from "../../models/adapters/index.ts";
import { isScales } from "../../models/linear.ts";
import { hasAdapters, type Tuning } from "../../models/tuning.ts";
import { checkObjectiveFlags, makerFor, metricOf, objectiveOf } from "../../objectives/index.ts";
import { hasReference, isTaught, type Objective } from "../../objectives/objective.ts";
import type { Executor } from "../../runtime/executor.ts";
import { sequenceLengthOf, type TrainConfig } from "../config.ts";
import { type Costs, deviceName, loadCosts } from "../memory/costs.ts";
import { headBatch } from "../../load/head-batch.ts";
import type { Engine, EngineOptions, Resized } from "../step/engine.ts";
import { openEngine } from "../step/open-engine.ts";
import { streamOf } from "../memory/stream.ts";
import { checkpointingOf, selectiveOf } from "../memory/strategy.ts";
import { createCollector, explainingLimit, limitedMemory } from "../memory/limit.ts";
import { type LoadedData, loadData } from "./load-data.ts";
import { offloadOf } from "../memory/offload.ts";
import { createOptimizer, type Optimizer } from "../step/optimizer.ts";
import { type ReferenceModelOptions, type RunBatches, withReferenceModel } from "../step/reference-model.ts";
import { taughtBatches } from "../teacher/taught.ts";
import { teach, type TeachOptions } from "../teacher/teach.ts";
import { type Checkpointing, isPlanned } from "../memory/step-plan.ts";
import { runDate, startOfDay } from "./date.ts";
import { promptOf } from "./shown-prompt.ts";
import { RUN_FILES } from "./folder.ts";
import { heldOut, totalSteps, type TrainingData } from "./loop.ts";
import { predictionOf, withHead } from "../labels.ts";
import { withUsualMethod } from "../method.ts";
import { tuningOf, tuningOfAdapter, withAdapter } from "../step/tuning.ts";
import type { StoredWeightsOptions } from "../../load/stored/stored-weights.ts";
import { isOnDisk } from "../../load/streamed-weights.ts";
import { shapeOf, storageOf } from "../../load/weights.ts";
import { chooseOptimizer } from "../../optimizers/index.ts";

/** Model, tokenizer and data of a run, read and checked; nothing has been written or reserved yet. */
export interface Inputs extends LoadedData {
  readonly config: TrainConfig;
  /** The base model's folder. */
  readonly folder: string;
  readonly model: ModelConfig;
  readonly objective: Objective;
  readonly source: TensorSource;
  readonly tokenizer: Tokenizer;
  readonly sequenceLength: number;
  /** The day that chat templates take for today; null where this model's templates do not ask. */
  readonly date: string | null;
  readonly tuning: Tuning;
  /** True if texts are put into lower case first, as the base model's files say of embeddings. */
  readonly lowerCase: boolean;
  /** The meaning of the numbers that a head for texts gives; null: the model predicts tokens. */
  readonly classifier: Classifier | null;
  /** The adapter that is trained further, with the SHA-256 of its matrices; null: a new one, or none. */
  readonly start: { readonly adapter: Adapter; readonly content: string } | null;
  /** The identity of the base model. */
  readonly identity: ModelIdentity;
  /** Closes the files of model and adapter. */
  close(): void;
}

export interface InputsOptions extends Pick<PrepareOptions, "signal" | "onProgress">, Pick<OpenModelOptions, "onNote"> {
  /** The keys of the configuration that were asked for; an adapter that is trained further must agree with them. */
  readonly given?: readonly string[] | undefined;
}

/**
 * Reads and checks everything that a run needs. `folder` is the base model's, on this machine.
 * @throws {UserError} anything that is missing or does not fit
 */
export async function readInputs(
  config: TrainConfig,
  folder: string,
  { given = [], onNote, ...preparing }: InputsOptions = {},
): Promise<Inputs> {
  const found = { name: config.model, folder, adapter: config.adapter ?? null };
  const opened = openFound(found, {
    onNote,
    chats: config,
    predicts: predictionOf(config),
    check: config.resume ? "fresh" : "kept",
  });
  try {
    return await readOpened(config, opened, given, { ...preparing, onNote });
  } catch (error) {
    opened.close();
    throw error;
  }
}

async function readOpened(
  asked: TrainConfig,
  opened: OpenModel,
  given: readonly string[],
  preparing: Pick<PrepareOptions, "signal" | "onProgress" | "onNote">,
): Promise<Inputs> {
  const { folder, tokenizer, adapter, identity, close } = opened;
  checkObjectiveFlags(asked);
  const chosen = withUsualMethod(asked, opened, given, preparing.onNote);
  const { config, model, source, classifier, lowerCase = false } = await withHead(chosen, opened, preparing);
  const sequenceLength = sequenceLengthOf(config, contextLimit(model));
  checkContext(model, sequenceLength);
  const date = runDate(config);
  const objective = objectiveOf(config);
  metricOf(objective, config.bestMetric);
  const maker = makerFor(
    objective,
    createSampleMaker(tokenizer, {
      now: startOfDay(date),
      maxLength: sequenceLength,
      truncate: config.truncate,
      vocabSize: model.vocabSize,
      surround: model.encoder !== null,
      asks: model.textHead?.options !== undefined,
      lowerCase,
      eosId: model.eosTokenIds[0] ?? null,
    }),
  );
  const end = endOfTurn(tokenizer);
  if (end && objective.head.kind !== "logits" && !model.eosTokenIds.includes(end.id)) {
    preparing.onNote?.(
      `the chat template ends a turn with ${end.token} (${end.id}), the model's files with ${model.eosTokenIds.join(", ") || "nothing"}: ` +
        "the former is what is learned, and answers end at either; merged models and full exports declare both",
    );
  }
  const options = { ...preparing, cache: join(cacheFolder(), "tokens") };
  const start = adapter && { adapter, content: hashFile(adapter.source.path) };
  const tuning = start ? tuningOfAdapter(start.adapter, model, config) : tuningOf(config, model, source);
  if (objective.head.kind === "logits" && objective.head.wholeStep && hasAdapters(tuning) && tuning.dropout > 0) {
    throw new UserError(
      `--grad-cache with a dropout of ${tuning.dropout}: a step's texts are embedded twice, and both have to be the same; give --dropout 0`,
    );
  }
  return {
    config: start ? withAdapter(config, start.adapter, model, given) : config,
    folder,
    model,
    objective,
    source,
    tokenizer,
    sequenceLength,
    tuning,
    classifier,
    lowerCase,
    start,
    identity,
    close,
    date: readsDate(tokenizer) ? date : null,
    ...(await loadData(config, { maker, objective, maxLength: sequenceLength }, options)),
  };
}

/** Tokens of prompt and answer together, at most. */
const SAMPLE_TOKENS = 256;

/** Tokens of an answer, at most. */
const SAMPLE_LIMIT = 60;

/** A run that is ready to train. */
export interface Session {
  readonly inputs: Inputs;
  readonly engine: Engine;
  /** Times that the schedule was planned with; null when its strategy needs none. */
  readonly costs: Costs | null;
  /** The limit of the whole process's (or card's) memory, in bytes; null where there is none. */
  readonly limit: number | null;
  /** As the engine's; `kept` are the bytes that the process may take from now on. */
  resize(bytes: number): Resized & { readonly kept: number };
  readonly optimizer: Optimizer;
  readonly data: TrainingData;
  readonly parameters: { readonly trainable: number; readonly all: number };
  /** Sentences about settings that do not do what a user may expect. */
  readonly notes: readonly string[];
  /** Keeps garbage from reaching the memory limit: to be called between steps. */
  readonly collect: () => void;
  /** The model's greedy answer to the first held-out example's prompt, or null when there is none to show. */
  sample(): { readonly prompt: string; readonly answer: string } | null;
  /** The first training example, cut where the masking changes. */
  shownSample(): SamplePart[];
}

/** Keys of `config.json` for dropout within the model, by all families' names. */
const DROPOUT_KEYS =
  "attention_dropout attn_pdrop embd_pdrop resid_pdrop dropout embedding_dropout hidden_dropout residual_dropout".split(" ");

/** A sentence about dropout that Transformers would apply while it trains and Remat does not; none without any. */
function dropoutNotes(folder: string): string[] {
  const raw = readJsonObject(join(folder, "config.json"));
  const asked = DROPOUT_KEYS.filter((key) => typeof raw[key] === "number" && raw[key] > 0);
  if (asked.length === 0) return [];
  const list = asked.map((key) => `${key} ${String(raw[key])}`).join(", ");
  return [`config.json asks for dropout within the model (${list}), which is not applied; --dropout is in front of the adapters`];
}

/** A sentence where `--quantize` had no matrix to quantise. */
function quantizeNotes({ quantize = "off" }: TrainConfig, { resident }: Engine): string[] {
  if (quantize === "off" || resident.params.some(isScales)) return [];
  return [
    `--quantize ${quantize} quantised nothing: no frozen matrix of this model has rows of whole blocks of ${QUANTISED_BLOCK}`,
  ];
}

/** Says that a run will not fit, where it will not: the system would end the process without a word, or swap. */
function warnOfLack(executor: Executor, peak: number, warn: (text: string) => void): void {
  const wanted = process.memoryUsage.rss() + peak;
  const there = memoryLimit();
  if (executor.card || wanted <= there) return;
  warn(
    `the predicted peak is ${formatBytes(peak)}, ${formatBytes(wanted)} for the whole process, and this machine or container has ${formatBytes(there)}; the system may end the run. --memory ${Math.floor((0.9 * there) / 2 ** 20)}MiB plans within it`,
  );
}

/** What of a run is decided before anything is reserved. */
export interface SessionPlan {
  readonly train: Batches;
  readonly valid: Batches | null;
  /** The question that the model is asked before and after training; null: none. */
  readonly prompt: { readonly text: string; readonly ids: Int32Array } | null;
  readonly costs: Costs | null;
  readonly strategy: Checkpointing;
  readonly options: EngineOptions;
}

/** Divides the data into batches, and says what an engine for them is to be. */
export function planSession(executor: Executor, inputs: Inputs): SessionPlan {
  const { config, model, objective, source, tokenizer } = inputs;
  const batchOptions = {
    rows: config.batchSize,
    rowLength: inputs.sequenceLength * objective.texts,
    packing: config.packing,
    seed: config.seed,
    // Padding is masked everywhere: any id inside the vocabulary will do.
    padId: 0,
  };
  const { masked: share } = objective;
  const masking = share === undefined ? null : maskingOf(tokenizer, { share, seed: config.seed, vocabSize: model.vocabSize });
  const shown = (batches: Batches): Batches => (masking ? withMasks(batches, masking) : batches);
  const train = shown(createBatches(inputs.train, { ...batchOptions, shuffle: true }));
  const valid: Batches | null = inputs.valid && shown(createBatches(inputs.valid, { ...batchOptions, shuffle: false }));
  const answers = objective.head.kind !== "logits" && masking === null;
  const asked = config.sample && answers && inputs.shown ? promptOf(tokenizer, inputs.shown, inputs.date) : null;
  const sampleTokens = Math.min(SAMPLE_TOKENS, contextLimit(model));
  const prompt = asked !== null && asked.ids.length < sampleTokens ? asked : null;
  const strategy = checkpointingOf(config, limitedMemory(executor, config));
  const costs = isPlanned(strategy) ? loadCosts(join(config.output, RUN_FILES.costs), deviceName(executor)) : null;
  const options: EngineOptions = {
    config: model,
    source,
    tuning: inputs.tuning,
    strategy,
    selective: selectiveOf(config),
    verifyReplay: config.verifyReplay,
    stream: streamOf(config, executor, strategy, (param) => isOnDisk(source, param), config.output),
    ...storageOf(config),
    offload: offloadOf(config, config.output),
    ...(costs ? { measure: { costs, batch: headBatch(objective.head, train.batch(0, 0), model) } } : {}),
    tokens: [...new Set([...train.sizes, ...(valid?.sizes ?? [])])],
    head: objective.head.kind,
    slots: objective.head.kind === "token-losses" ? objective.head.slots : undefined,
    texts: objective.texts * Math.max(train.most, valid?.most ?? 0),
    weighted: inputs.train.weighted || inputs.valid?.weighted === true,
    ...(prompt ? { decode: sampleTokens } : {}),
    optimizer: chooseOptimizer(config),
  };
  return { train, valid, prompt, costs, strategy, options };
}

/** Describes what `createSession` tells while it goes on, and what ends it. */
export interface SessionOptions {
  readonly signal?: AbortSignal | undefined;
  /** Told what a user should know, before memory is reserved: there is less of it than is planned, for example. */
  readonly onWarning?: (text: string) => void;
  /** Told what is worth a line. */
  readonly onMessage?: ((text: string) => void) | undefined;
  /** Called while weights are converted on disk. */
  readonly onProgress?: StoredWeightsOptions["onProgress"];
  /** The limit of memory may change. */
  readonly elastic?: boolean;
  /** False for a worker of another process, which updates nothing and answers nothing (default: true). */
  readonly updates?: boolean;
}

/** Describes what decides the samples of a run, and their order. */
function samplesKey({ config, train, valid, sequenceLength, date }: Inputs): readonly unknown[] {
  const { seed, truncate, data } = config;
  const held = valid && [valid.count, valid.tokens, config.valid];
  return [train.content, train.count, train.tokens, data, held, date, sequenceLength, truncate, seed];
}

function teachOptions(
  inputs: Inputs,
  teacher: string,
  told: Pick<TeachOptions, "signal" | "onMessage" | "onNote">,
): TeachOptions {
  const { config, model, tokenizer, sequenceLength, train, valid } = inputs;
  return { config, teacher, model, tokenizer, sequenceLength, train, valid, key: samplesKey(inputs), ...told };
}

/** Describes what the reference of an objective is computed for, and what decides its numbers. */
function referenceOptions(inputs: Inputs, { train: batches, valid: held }: RunBatches): ReferenceModelOptions {
  const { objective, config, train, valid, identity, start, sequenceLength, date } = inputs;
  const { dtype, quantize, quantizeEmbedding, batchSize, packing, seed, truncate, data } = config;
  return {
    objective,
    examples: { train: train.count, valid: valid?.count ?? 0 },
    drawn: totalSteps(config, batches.count(0)) * config.gradientAccumulation,
    isDry: config.dryRun,
    key: [
      identity,
      start?.content,
      [train.content, train.count, train.tokens, data, valid && [valid.count, valid.tokens, config.valid, held.length]],
      [date, sequenceLength, truncate, batchSize, packing, seed],
      [dtype, quantize, quantizeEmbedding],
    ],
  };
}

/** A model in memory that learns from a run's data. */
export interface Learning {
  readonly engine: Engine;
  readonly data: TrainingData;
  readonly plan: SessionPlan;
}

/**
 * Plans memory, reserves it, loads the weights.
 * @throws the signal's reason when it is aborted
 */
export async function openLearning(
  executor: Executor,
  inputs: Inputs,
  { signal, onWarning = () => {}, onMessage, onProgress, elastic = false, updates = true }: SessionOptions = {},
): Promise<Learning> {
  const { config, start } = inputs;
  const plan = planSession(executor, inputs);
  const { train: drawn, valid: held, strategy } = plan;
  const { decode, ...planned } = plan.options;
  // In memory before the model that is trained is. Without a teacher, the data say what one has said.
  const { teacher } = config;
  const taught =
    isTaught(inputs.objective.head) && teacher !== undefined
      ? await teach(teachOptions(inputs, teacher, { signal, onMessage, onNote: onWarning }))
      : null;
  const train = taught ? taughtBatches(drawn, taught.train) : drawn;
  const valid = held && taught?.valid ? taughtBatches(held, taught.valid) : held;
  const options: EngineOptions = {
    ...planned,
    ...(updates ? decode !== undefined && { decode } : { optimizer: null }),
    elastic,
    onPlan: ({ predicted }) => warnOfLack(executor, predicted.peak, onWarning),
  };
  const engine = await openEngine(executor, options, (plan) => explainingLimit(config.memory, strategy, plan), {
    // A dry run writes nothing.
    cache: config.weightCache && !config.dryRun,
    signal,
    onProgress,
    onNote: onWarning,
  });
  if (start) writeAdapterWeights(engine, start.adapter);
  else initialiseAdapter(engine, config.seed);
  const plain: RunBatches = { train, valid: valid ? heldOut(valid, config.evalLimit) : [] };
  const data = hasReference(inputs.objective.head)
    ? await withReferenceModel(engine, plain, { ...referenceOptions(inputs, plain), signal, onMessage })
    : plain;
  return { engine, data, plan };
}

/**
 * Makes all of a run ready to train.
 * @throws as `openLearning`
 */
export async function createSession(executor: Executor, inputs: Inputs, options: SessionOptions = {}): Promise<Session> {
  const { config, model, tokenizer } = inputs;
  const { engine, data, plan } = await openLearning(executor, inputs, options);
  const { prompt, costs, strategy } = plan;
  let limit = strategy.name === "budget" ? strategy.bytes : null;
  // Planning leaves some 20 MB of garbage, which would still be there at the peak of the first step.
  Bun.gc(true);
  const count = (trainable: boolean) =>
    engine.resident.params
      .filter((param) => (param.trainable || !trainable) && !isScales(param) && !isConstant(param))
      .reduce((sum, param) => sum + elements(shapeOf(param)), 0);
  return {
    inputs,
    engine,
    costs,
    get limit() {
      return limit;
    },
    resize(bytes) {
      const resized = engine.resize(bytes);
      limit = resized.returned ? resized.limit : Math.max(resized.limit, limit ?? 0);
      return { ...resized, kept: limit };
    },
    optimizer: createOptimizer(engine, config),
    data,
    parameters: { trainable: count(true), all: count(false) },
    notes: [...dropoutNotes(inputs.folder), ...quantizeNotes(config, engine)],
    collect: createCollector(() => (executor.card ? Infinity : (limit ?? Infinity))),
    sample() {
      if (prompt === null) return null;
      const greedy = { limit: SAMPLE_LIMIT, stop: stopTokens(model, tokenizer), sampler: createSampler(GREEDY) };
      const answer = [...generate(engine.decoder(), [...prompt.ids], greedy)];
      return { prompt: prompt.text, answer: tokenizer.decode(answer, { skipSpecial: true }).trim() };
    },
    shownSample() {
      return sampleParts(tokenizer, inputs.train.sample(0));
    },
  };
}
