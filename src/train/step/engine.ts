import { type Decoder, startDecoder } from "../../generate/decoders.ts";
import type { Segment } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";
import type { FloatType } from "../../base/dtype.ts";
import { lazilyBy } from "../../base/lazily.ts";
import { computeConstants } from "../../load/adapter.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { Tuning } from "../../models/tuning.ts";
import type { TensorSource } from "../../hf/weights/safetensors.ts";
import type { StepMemory } from "../../runtime/bind.ts";
import { type OptimizerState, reserveOptimizer } from "../../optimizers/plan.ts";
import { type Address, align, ALIGNMENT, type Executor } from "../../runtime/executor.ts";
import { placeCarried } from "../../runtime/carried.ts";
import { createForward, type ForwardRunner } from "../../runtime/forward.ts";
import { measurePrograms } from "../../runtime/measure.ts";
import { readTensor, reserveResident, type Resident } from "../../runtime/resident.ts";
import { createSweeper } from "../../base/process/garbage.ts";
import type { GradientWindow } from "../../runtime/streaming/gradient-window.ts";
import { withOutside } from "../../runtime/streaming/outside.ts";
import { trainedStream } from "../../runtime/streaming/trained-stream.ts";
import { openWeightStream } from "../../load/stored/stream.ts";
import { createRunner, type Runner } from "../../runtime/runner.ts";
import type { Chain } from "../../schedule/chain.ts";
import type { Schedule } from "../../schedule/ops.ts";
import { createVerifier } from "../../runtime/verify.ts";
import { type OffloadStore, storeAlignment } from "../../store/store.ts";
import type { StoredWeights } from "../../load/stored/stored-weights.ts";
import { openStreamedWeights, type StreamedWeights } from "../../load/streamed-weights.ts";
import { createBatchMemory } from "../../load/batch-memory.ts";
import { type TokenBatch } from "../../data/samples/batch.ts";
import { createStepWords } from "../../runtime/step-words.ts";
import { type Costs, secondsWith } from "../memory/costs.ts";
import { fixedTotal, forecast, largestOf, type MemoryForecast } from "../memory/forecast.ts";
import { type ModelPlan, planModel } from "../memory/model-plan.ts";
import { batchSizeOf, type ModelPlanOptions, rowTokens } from "../memory/plan-options.ts";
import { NOMINAL_BANDWIDTH } from "../memory/stream.ts";
import { bandwidthSeen, measureBandwidth, NOMINAL_LINK, type OffloadOptions, openEngineStore } from "../memory/offload.ts";
import { plannedTime } from "../memory/step-plan.ts";
import { computeType, loadWeights, type WeightStorage, weightTypeOf } from "../../load/weights.ts";
import { frozenStreamed, openOutside, reserveGradients, trainedPlaces } from "./outside-state.ts";
import { type ComputedTime, createTally } from "./tally.ts";

export interface EngineOptions extends Omit<ModelPlanOptions, "weightType" | "compute" | "link" | "costs">, WeightStorage {
  readonly source: TensorSource;
  /** Boundaries and tapes may leave memory. */
  readonly offload?: OffloadOptions | null;
  /** Times to plan by. Programs without one are timed on `batch` before the first step. */
  readonly measure?: { readonly costs: Costs; readonly batch: TokenBatch; readonly clock?: () => number };
  /** Called with the first plan, before anything of its size is reserved. */
  readonly onPlan?: ((plan: ModelPlan) => void) | undefined;
  /** The limit of memory may change. Addresses for everything that a step can keep are reserved, as far as they take no memory. */
  readonly elastic?: boolean;
}

/** What has become of a limit of memory. */
export interface Resized {
  /** Bytes: the one that is kept from now on. It is larger than what was asked for where no schedule keeps that. */
  readonly limit: number;
  /** False where the system takes back nothing of what the process has. */
  readonly returned: boolean;
}

/** Derivatives of a loss by what an open head gives, of which it is a function: losses of tokens, or logits of texts. */
export type Weigh = (found: Float32Array) => ArrayLike<number>;

/** A model in an executor's memory, with its training step for each number of tokens. */
export interface Engine {
  readonly executor: Executor;
  readonly config: ModelConfig;
  readonly resident: Resident;
  /** The optimizer's state; null where nothing is updated. */
  readonly optimizer: OptimizerState | null;
  /** The type that programs compute in. */
  readonly compute: FloatType;
  /** The checkpoint that the weights came from. */
  readonly source: TensorSource;
  /** The parameters that are trained. */
  readonly tuning: Tuning;
  readonly plan: ModelPlan;
  /** Segments at the largest number of tokens. */
  readonly segments: readonly Segment[];
  readonly chain: Chain;
  readonly schedule: Schedule;
  /**
   * Peak of training: as planned, as it would be without gradient checkpointing, and as counted so far. Once steps have run,
   * what was planned for these.
   */
  readonly predicted: MemoryForecast;
  readonly withoutCheckpointing: MemoryForecast;
  readonly measuredPeak: number;
  /** The counted peak since the limit of memory changed last. */
  readonly recentPeak: number;
  /** Forward and backward of all micro-batches so far. */
  readonly computed: ComputedTime;
  /** Where boundaries and tapes go; null without offload. */
  readonly store: OffloadStore | null;
  /** Weights that lie in files; null where all are in memory. */
  readonly streamed: StreamedWeights | null;
  /** Where gradients pass if trained state lies outside; null where it is in memory. */
  readonly gradients: GradientWindow | null;
  /** How many times the schedule was made anew because programs took other times than planned with. */
  readonly replans: number;
  /**
   * Forward and backward of one micro-batch; adds to the gradients. `draw` counts micro-batches and keys dropout.
   * Returns the loss: `scale` times the summed cross entropy of the labelled tokens, each times its weight.
   */
  forwardBackward(batch: TokenBatch, scale: number, seed: number, draw: number): number;
  /**
   * The same with an open head. `weigh` is told the loss of each token (0 without a label), or the logits of each text, when they are there, and
   * returns the derivatives of the objective's loss by them; `scale` is the factor of these.
   */
  forwardBackwardOpen(batch: TokenBatch, scale: number, seed: number, draw: number, weigh: Weigh): void;
  /**
   * Factor of all gradients from now on, 1 at first: f16 has no small numbers, so that small gradients are made larger on
   * their way (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740).
   */
  scaleGradients(factor: number): void;
  /** Forward alone, dropout off: the summed cross entropy of the labelled tokens (each times its weight), and how many of them were the likeliest token. */
  evaluate(batch: TokenBatch): { readonly loss: number; readonly correct: number };
  /** Forward alone, dropout off, with an open head: the loss of each token. */
  tokenLosses(batch: TokenBatch): Float32Array;
  /** The same with a head for texts: the logits of each. */
  textLogits(batch: TokenBatch): Float32Array;
  /** Logits [rows.length, vocabulary] of the given positions, dropout off. */
  logits(batch: TokenBatch, rows: Int32Array): Float32Array;
  /** Continues texts with the present weights, dropout off. It lives in the arena: only until the next step or evaluation. */
  decoder(): Decoder;
  zeroGradients(): void;
  /** Returns the place of `bytes` bytes in the arena for an update: only until the next step or evaluation. */
  updateMemory(bytes: number): Address;
  /**
   * Plans all steps again for another limit of memory, of a budget, between two micro-batches, and gives back what lies behind the new
   * plan. Nothing that is computed changes by it, to the bit. More than everything, or than was reserved at the start, is of no use.
   */
  resize(bytes: number): Resized;
  /** Ends what the engine itself has started: the threads of its store. */
  close(): void;
}

/** An engine's plan, and the files of the weights that it leaves there; null where it leaves none. */
export interface PreparedEngine {
  readonly plan: ModelPlan;
  readonly stored: StoredWeights | null;
}

/** @throws {LimitError | CapacityError} when the strategy's limit, or what the executor has addresses for, is too low for every schedule */
export function planEngine(executor: Executor, options: EngineOptions): ModelPlan {
  const { source, measure, offload = null } = options;
  const link = offload && { ...NOMINAL_LINK, leastBytes: offload.leastBytes ?? NOMINAL_LINK.leastBytes };
  const compute = computeType(executor, options.dtype);
  const weightType = weightTypeOf(executor, source, options);
  const planOptions = { ...options, compute, weightType, link, ...(measure && { costs: measure.costs }) };
  return planModel(executor, planOptions, measure && secondsWith(measure.costs, []));
}

/**
 * Builds, plans, reserves and loads a model. In one piece: the functions of an engine share the memory that is divided here, once.
 * Weights that the plan leaves in their files are prepared by `openEngine`.
 * @throws {UserError} weights that are missing or do not fit
 * @throws {LimitError} when the strategy's limit is too low for every schedule
 */
export function createEngine(memoryExecutor: Executor, options: EngineOptions, prepared?: PreparedEngine): Engine {
  const { config, source, measure, offload = null } = options;
  const compute = computeType(memoryExecutor, options.dtype);
  let plan: ModelPlan = prepared?.plan ?? planEngine(memoryExecutor, options);
  options.onPlan?.(plan);
  const { programs, fixed, answers } = plan;
  const { segments } = plan.largest;
  const { residency } = plan;
  const outside = residency.isTrainedOutside ? openOutside(memoryExecutor, plan, options.stream!) : null;
  /** What is trained may lie outside, under addresses that this executor knows. */
  const executor = outside ? withOutside(memoryExecutor, outside.memory) : memoryExecutor;
  const resident = reserveResident(executor, plan.loaded, plan.optimizer, residency.streamed, outside?.places);
  const optimizer = plan.optimizer && reserveOptimizer(executor, plan.optimizer, outside?.places.state);
  loadWeights(executor, resident, source);
  const stored = prepared?.stored ?? null;
  if (frozenStreamed(plan).length > 0 && !stored) throw new Error("weights that lie in files are prepared by openEngine");
  const streamed =
    residency.streamed.size > 0
      ? openStreamedWeights(executor, residency, rowTokens(options), () => {
          const frozen = stored && openWeightStream(executor, stored);
          return outside ? trainedStream(outside.memory, trainedPlaces(resident), frozen) : frozen!;
        })
      : null;
  const gradients = outside && reserveGradients(executor, resident, outside.memory, plan.fixed.gradients);

  const rows = options.logits?.rows ?? 1;
  const batch = createBatchMemory(executor, config, batchSizeOf(options), streamed?.rows);
  const words = createStepWords(executor, segments.length);
  const carried = placeCarried(plan.carried, (bytes) => executor.reserve(bytes));
  const window = streamed?.window ?? null;
  const memory: StepMemory = { resident, window, gradients, batch: batch.addresses, carried, ...words };
  const alignment = offload ? storeAlignment(executor) : ALIGNMENT;
  /** Bytes of the arena under any limit. */
  const room = options.elastic && executor.giveBack ? plan.everything : plan.arena;
  const arena = align(executor.reserve(room + alignment - ALIGNMENT), alignment);
  const store = offload && openEngineStore(executor, offload);
  const logitsAddress = options.logits ? executor.reserve(4 * rows * config.vocabSize) : 0;
  const zeroGradients = () => {
    if (!gradients) return executor.zero(resident.trainable.gradient, resident.trainable.layout.size * 4);
    for (const name of gradients.places.keys()) gradients.clean.add(name);
  };

  if (measure) {
    batch.load(measure.batch, 1);
    const known = (graph: Graph) => measure.costs.secondsOf(graph) !== undefined;
    const seconds = measurePrograms(
      executor,
      programs,
      stepOf(measure.batch.ids.length).segments,
      memory,
      arena,
      plan.arena,
      known,
    );
    for (const [graph, value] of seconds) measure.costs.set(graph, value);
    zeroGradients();
    if (store && !measure.costs.bandwidthOf(store.description)) {
      const bandwidth = measureBandwidth(executor, store, arena, plan.arena, alignment);
      if (bandwidth) measure.costs.setBandwidth(store.description, bandwidth);
    }
    plan = planAgain(measure.costs);
  }

  function planAgain(costs: Costs): ModelPlan {
    return plan.withTimes(secondsWith(costs, programs.graphs()), store && costs.bandwidthOf(store.description));
  }

  const checks = fixed.checks > 0 ? executor.reserve(fixed.checks) : 0;
  const verifiers = lazilyBy((tokens: number) =>
    createVerifier(executor, programs, stepOf(tokens).segments, memory, plan.probes.get(tokens)!, checks),
  );
  const sweep = createSweeper();
  const makeRunners = () =>
    lazilyBy((tokens: number) => {
      const step = stepOf(tokens);
      const verifier = options.verifyReplay ? verifiers(tokens) : undefined;
      const runner = createRunner(executor, programs, step.segments, step.schedule, step.placement, arena, memory, {
        verifier,
        ...(store && { offload: { outside: store, inFlight: step.chain.offload!.inFlight } }),
      });
      sweep();
      return {
        runner,
        forecast: forecast(step, fixed, plan.predicted.temporary),
        seconds: measure && !verifier ? plannedTime(step) + (step.streaming?.wait(weightBandwidth()) ?? 0) : null,
      };
    });
  let runners = makeRunners();
  const evaluators = lazilyBy((tokens: number) =>
    createForward(executor, programs, stepOf(tokens).withoutDropout, arena, memory),
  );
  const answerers = lazilyBy((tokens: number) =>
    createForward(executor, programs, answers.get(tokens)!, arena, memory, logitsAddress),
  );

  /** Bytes per second that weights have been read with so far. */
  function weightBandwidth(): number {
    const { bytes, busy } = streamed!.window.stream.counts;
    return busy > 0 ? bytes / busy : NOMINAL_BANDWIDTH;
  }

  function stepOf(tokens: number) {
    const step = plan.steps.get(tokens);
    if (!step) throw new Error(`no plan for micro-batches of ${tokens} tokens`);
    return step;
  }

  const tally = createTally();
  let runs = 0;
  let nextCheck = FIRST_CHECK;
  let replans = 0;
  /** Transfers up to the last plan. */
  let moved = store && store.counts();

  /** Plans anew when the programs of a schedule take other times than it was made with. */
  function checkTimes(runner: Runner, costs: Costs): void {
    if (executor.temporary) costs.setTemporary(plan.measured, executor.temporary.bytes);
    const programsDiffer = costs.update(runner.seconds(), TOLERANCE);
    const transfersDiffer =
      store !== null && costs.updateBandwidth(store.description, bandwidthSeen(moved!, store.counts()), TOLERANCE);
    if (!programsDiffer && !transfersDiffer) return;
    setPlan(planAgain(costs));
    moved = store && store.counts();
    replans++;
  }

  function setPlan(next: ModelPlan): void {
    plan = next;
    runners = makeRunners();
  }

  const counted = (arenaBytes: number) => fixedTotal(fixed) + arenaBytes + (executor.temporary?.bytes ?? 0);

  /** What an open head has given for a batch. */
  const found = (tokens: TokenBatch) => {
    const texts = (tokens.means ?? tokens.rows)?.length;
    return texts === undefined ? batch.tokenLosses(tokens.ids.length) : batch.textLogits(texts);
  };
  const forwardOpen = (tokens: TokenBatch) => {
    batch.load(tokens, 1);
    evaluators(tokens.ids.length).run();
    return found(tokens);
  };

  function run(tokens: TokenBatch, scale: number, seed: number, draw: number, weigh?: () => void): void {
    const { runner, forecast, seconds } = runners(tokens.ids.length);
    batch.load(tokens, scale);
    batch.setRng(seed, draw);
    const begin = performance.now();
    runner.run(weigh);
    executor.wait?.();
    tally.add(runner.touched, forecast, { measured: (performance.now() - begin) / 1000, predicted: seconds });
    if (measure && ++runs === nextCheck) {
      nextCheck *= 2;
      checkTimes(runner, measure.costs);
    }
  }

  return {
    executor,
    config,
    resident,
    optimizer,
    compute,
    source,
    tuning: options.tuning,
    segments,
    get plan() {
      return plan;
    },
    get chain() {
      return plan.largest.chain;
    },
    get schedule() {
      return plan.largest.schedule;
    },
    get predicted() {
      return largestOf([tally.ran ?? plan.predicted, tally.updates ? plan.update : null]);
    },
    withoutCheckpointing: plan.withoutCheckpointing,
    get measuredPeak() {
      return counted(tally.touched);
    },
    get recentPeak() {
      return counted(tally.recent);
    },
    get computed() {
      return tally.computed;
    },
    store,
    get replans() {
      return replans;
    },
    forwardBackward(tokens, scale, seed, draw) {
      run(tokens, scale, seed, draw);
      return words.score().loss;
    },
    forwardBackwardOpen(tokens, scale, seed, draw, weigh) {
      run(tokens, scale, seed, draw, () => batch.setScales(weigh(found(tokens)), scale));
    },
    scaleGradients(factor) {
      executor.write(words.lossGradient, new Uint8Array(Float32Array.of(factor).buffer));
    },
    evaluate(tokens) {
      batch.load(tokens, 1);
      evaluators(tokens.ids.length).run();
      return words.score();
    },
    tokenLosses: forwardOpen,
    textLogits: forwardOpen,
    logits(tokens, wanted) {
      batch.load(tokens, 1);
      const padded = new Int32Array(rows);
      padded.set(wanted);
      batch.setRows(padded);
      const runner: ForwardRunner = answerers(tokens.ids.length);
      runner.run();
      return readTensor(executor, logitsAddress, { dtype: "f32", shape: [wanted.length, config.vocabSize] });
    },
    decoder() {
      if (!plan.decoder) throw new Error("the engine was made without decoding");
      computeConstants({ executor, resident, streamed, source, config, tuning: options.tuning });
      return startDecoder(executor, programs, plan.decoder, resident, arena, { streamed });
    },
    zeroGradients,
    updateMemory(bytes) {
      if (bytes > plan.arena) throw new Error(`an update needs ${bytes} bytes, the arena has ${plan.arena}`);
      tally.update(bytes);
      return arena;
    },
    resize(bytes) {
      const next = plan.withLimit(bytes, room);
      setPlan(next);
      tally.startAnew();
      const returned = executor.giveBack?.(arena + next.extent, room - next.extent) ?? false;
      return { limit: next.limit!, returned };
    },
    streamed,
    gradients,
    close() {
      store?.close();
      streamed?.close();
    },
  };
}

/** Micro-batches before measured times are compared with the planned ones; then after twice as many each time. */
const FIRST_CHECK = 4;

/** Deviation of times, as a share of the step, from which on another schedule may be better. */
const TOLERANCE = 0.2;
