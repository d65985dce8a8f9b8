import { inPrecision } from "../../autodiff/precision.ts";
import { isNamed, type SelectiveOptions } from "../../autodiff/selective.ts";
import { UserError } from "../../base/errors.ts";
import { type DecoderPlan, planDecoder } from "../../generate/decoders.ts";
import { programsOf, type Segment } from "../../graph/segment.ts";
import type { Graph, WeightType } from "../../graph/types.ts";
import type { FloatType } from "../../base/dtype.ts";
import type { ModelConfig } from "../../models/config.ts";
import type { OptimizerChoice } from "../../optimizers/index.ts";
import { type OptimizerPlan, planOptimizer, updateGraphs, updateWorkspace } from "../../optimizers/plan.ts";
import { atRest, hasAdapters, type Tuning, withoutDropout } from "../../models/tuning.ts";
import type { BatchSize, HeadKind, SegmentOptions } from "../../models/parts.ts";
import { buildLogits, buildSegments } from "../../models/chain/segments.ts";
import { buildChain, createPrograms, type Programs, type SecondsOf } from "../../runtime/chain.ts";
import { align, type Executor } from "../../runtime/executor.ts";
import { forwardExtent } from "../../runtime/forward.ts";
import { createProbes, type Probes } from "../../runtime/probes.ts";
import { collectParams, type ParamInfo, residentBytes } from "../../runtime/resident.ts";
import { measureTemporary, settle } from "../../runtime/temporary.ts";
import type { Link } from "../../schedule/chain.ts";
import { strategySchedule } from "../../schedule/strategies.ts";
import { storeAlignment } from "../../store/store.ts";
import { batchBytes } from "../../load/batch-memory.ts";
import { stepWordBytes } from "../../runtime/step-words.ts";
import type { Costs } from "./costs.ts";
import { betweenSteps, type FixedBytes, fixedTotal, forecast, largestOf, type MemoryForecast } from "./forecast.ts";
import {
  activationLimit,
  type Checkpointing,
  isPlanned,
  LimitError,
  planStep,
  smallestPlan,
  type StepPlan,
  variantsWanted,
} from "./step-plan.ts";

export interface ModelPlanOptions {
  readonly config: ModelConfig;
  readonly tuning: Tuning;
  /** Type in memory of a frozen weight matrix, by checkpoint name. */
  readonly weightType: (name: string) => WeightType;
  /** The type that programs compute in: f32 by default, or a half type, which frozen weights then must have too; see autodiff/precision.ts. */
  readonly compute?: FloatType;
  readonly strategy: Checkpointing;
  /** Names of forward values to keep or to recompute in any case. */
  readonly selective?: Omit<SelectiveOptions, "count">;
  /** Smaller-tape variants of the blocks, besides those that the strategy makes use of: for a comparison. */
  readonly variants?: number;
  /** Numbers of tokens in a micro-batch that is trained or evaluated on. */
  readonly tokens: readonly number[];
  /** Numbers of tokens that logits are wanted for, and the most positions at a time. */
  readonly logits?: { readonly tokens: readonly number[]; readonly rows: number };
  /** The longest text that is to be continued, in tokens, by `Engine.decoder`. */
  readonly decode?: number;
  /** Batches have weights. */
  readonly weighted?: boolean;
  /** How the chain ends; with the loss by default. */
  readonly head?: HeadKind;
  /** Check that what is computed again comes out as before; see runtime/verify.ts. */
  readonly verifyReplay?: boolean;
  /** The optimizer of the trained weights; null: there is none. */
  readonly optimizer: OptimizerChoice | null;
  /** Boundaries and tapes may leave memory by this link. */
  readonly link?: Link | null;
  /** Temporary memory from before, and where it is kept. Without it, it is always measured. */
  readonly costs?: Pick<Costs, "temporaryOf" | "setTemporary">;
}

/** Plan of one number of tokens. */
export interface TokenPlan extends StepPlan {
  readonly segments: readonly Segment[];
  /** Segments without dropout, for evaluation. */
  readonly withoutDropout: readonly Segment[];
}

/** A model's programs and schedules, made before any memory is reserved or any weight is read. */
export interface ModelPlan {
  readonly programs: Programs;
  /** By number of tokens. */
  readonly steps: ReadonlyMap<number, TokenPlan>;
  /** The plan of the largest number of tokens, which needs the most memory. */
  readonly largest: TokenPlan;
  /** Segments that end in logits, by number of tokens. */
  readonly answers: ReadonlyMap<number, readonly Segment[]>;
  /** The programs of replay checks, by number of tokens; none where they are not asked for. */
  readonly probes: ReadonlyMap<number, Probes>;
  /** Decoding, in the arena between steps. */
  readonly decoder: DecoderPlan | null;
  /** The segments whose parameters lie in memory: of training, and of decoding. */
  readonly loaded: readonly Segment[];
  /** Where the optimizer's state lies, and what an update runs in the arena between steps; null without one. */
  readonly optimizer: OptimizerPlan | null;
  /** The memory of an update; null without an optimizer. */
  readonly update: MemoryForecast | null;
  /** Everything besides the arena. */
  readonly fixed: FixedBytes;
  /** Bytes that the arena needs for what runs between training steps: updates, evaluations, decoding. */
  readonly between: number;
  /** The programs whose temporary memory is in `predicted`. */
  readonly measured: readonly Graph[];
  /** Bytes of the arena that holds stash and workspace. A later plan with other times needs no more. */
  readonly arena: number;
  readonly predicted: MemoryForecast;
  readonly withoutCheckpointing: MemoryForecast;
  /** Plans all steps again with other times, and another bandwidth of the link, in the same arena. No step is slower by these times than it is now. */
  withTimes(seconds: SecondsOf, bandwidth?: Pick<Link, "out" | "in"> | null): ModelPlan;
}

/**
 * Plans a model for each number of tokens. In one piece: each quantity of the plan follows from the one before it.
 * @throws {LimitError} when the strategy's limit is too low for every schedule
 */
export function planModel(executor: Executor, options: ModelPlanOptions, seconds?: SecondsOf): ModelPlan {
  const { config, tuning, strategy, compute = "f32" } = options;
  const programs = createPrograms(executor);
  const dropout = hasAdapters(tuning) && tuning.dropout > 0;
  const segmentOptions = (tokens: number): SegmentOptions => ({
    tokens,
    tuning,
    weightType: options.weightType,
    weighted: options.weighted,
    head: options.head,
    selective: { ...options.selective, count: Math.max(variantsWanted(strategy), options.variants ?? 0) },
  });
  const evaluationOptions = (tokens: number): SegmentOptions => ({
    tokens,
    tuning: withoutDropout(tuning),
    weightType: options.weightType,
    weighted: options.weighted,
    head: options.head,
  });
  const build = (each: SegmentOptions) => inPrecision(buildSegments(config, each), compute);
  const built = new Map(
    options.tokens.map((tokens) => {
      const segments = build(segmentOptions(tokens));
      return [tokens, { segments, withoutDropout: dropout ? build(evaluationOptions(tokens)) : segments }];
    }),
  );
  checkNames([...built.values()][0]!.segments, [...(options.selective?.keep ?? []), ...(options.selective?.recompute ?? [])]);
  const answers = new Map(
    (options.logits?.tokens ?? []).map((tokens) => {
      const body = buildSegments(config, evaluationOptions(tokens)).slice(0, -1);
      return [tokens, inPrecision([...body, buildLogits(config, evaluationOptions(tokens), options.logits!.rows)], compute)];
    }),
  );
  const most = Math.max(...options.tokens);
  const probes = new Map(
    options.verifyReplay ? [...built].map(([tokens, { segments }]) => [tokens, createProbes(segments, programs)]) : [],
  );
  const optimizer = options.optimizer && planOptimizer(options.optimizer, collectParams(built.get(most)!.segments));
  const updates = optimizer ? updateGraphs(optimizer) : [];
  const checks = Math.max(0, ...[...probes.values()].map(({ bytes }) => bytes));
  const forwards = [...[...built.values()].map(({ withoutDropout }) => withoutDropout), ...answers.values()];
  const decoder =
    options.decode === undefined
      ? null
      : planDecoder(programs, config, { ...evaluationOptions(1), tuning: atRest(tuning), compute }, options.decode);
  const { segments: trained } = built.get(most)!;
  const loaded = [...trained, ...([...(decoder?.chains.values() ?? [])][0] ?? [])];
  const fixed = fixedBytes(options, trained.length, collectParams(loaded), optimizer, checks);
  const updateBytes = updateWorkspace(programs, updates);
  /** Bytes of the programs that run in the arena between training steps. */
  const betweenBytes = Math.max(
    decoder?.bytes ?? 0,
    updateBytes,
    ...forwards.map((segments) => forwardExtent(segments, programs)),
  );

  const alignment = storeAlignment(executor);
  // What all programs take is there before a limit is divided.
  for (const { segments } of built.values()) buildChain(segments, programs);
  const chains = [built.get(most)!.withoutDropout, ...answers.values(), ...(decoder?.chains.values() ?? [])];
  const measured = [
    ...new Set([
      ...built.get(most)!.segments.flatMap(({ model }) => programsOf(model).map(([, graph]) => graph)),
      ...chains.flat().map(({ model }) => model.forward),
      ...updates,
    ]),
  ];
  const temporary = temporaryBytes(executor, programs, measured, options.costs);
  const update = optimizer && betweenSteps(fixed, updateBytes, temporary);

  const plan = (
    times: SecondsOf | undefined,
    link: Link | null,
    room: number,
    entries: number,
    before?: ReadonlyMap<number, StepPlan>,
  ): ModelPlan => {
    const steps = new Map<number, TokenPlan>();
    // The largest first: it decides whether a limit can be kept.
    for (const tokens of [...built.keys()].sort((a, b) => b - a)) {
      const { segments, withoutDropout } = built.get(tokens)!;
      const chain = buildChain(segments, programs, times, link && { link, alignment });
      if (betweenBytes > room) throw new LimitError(room, Math.max(betweenBytes, smallestPlan(chain).placement.extent));
      steps.set(tokens, {
        ...planStep(chain, strategy, room, { entries, current: before?.get(tokens) }),
        segments,
        withoutDropout,
      });
    }
    const largest = steps.get(most)!;
    const off = { chain: largest.chain, schedule: strategySchedule(largest.chain, { name: "off" }) };
    const withoutCheckpointing = largestOf([forecast(off, fixed, temporary), update]);
    const extent = Math.max(betweenBytes, ...[...steps.values()].map(({ placement }) => placement.extent));
    // Other times may lead to a plan that keeps more, up to everything, within the limit.
    const keepAll = Math.min(
      activationLimit(largest.chain, strategy, room),
      withoutCheckpointing.stash + withoutCheckpointing.workspace,
    );
    const arena = isPlanned(strategy) ? Math.max(extent, keepAll) : extent;
    return {
      programs,
      steps,
      largest,
      answers,
      probes,
      decoder,
      loaded,
      optimizer,
      update,
      fixed,
      between: betweenBytes,
      measured,
      arena,
      // A smaller micro-batch may keep more than the largest one.
      predicted: largestOf([...[...steps.values()].map((step) => forecast(step, fixed, temporary)), update]),
      withoutCheckpointing,
      withTimes: (other, bandwidth) => plan(other, link && { ...link, ...bandwidth }, arena, LATER_ENTRIES, steps),
    };
  };
  const room = strategy.name === "budget" ? strategy.bytes - (strategy.base?.() ?? 0) - fixedTotal(fixed) - temporary : Infinity;
  try {
    // The first tables may have the arena's bytes, which nothing has touched yet.
    return plan(seconds, options.link ?? null, room, Math.min(MOST_ENTRIES, Math.max(LATER_ENTRIES, room / 8)));
  } catch (error) {
    if (error instanceof LimitError) throw new LimitError(error.limit, error.least, temporary);
    throw error;
  }
}

/** Temporary memory of programs, which the executor's library then has: from before where it is known, or measured. */
function temporaryBytes(
  executor: Executor,
  programs: Programs,
  graphs: readonly Graph[],
  costs: ModelPlanOptions["costs"],
): number {
  if (!executor.temporary) return 0;
  const known = costs?.temporaryOf(graphs);
  if (known !== undefined) return settle(executor.temporary, known);
  const bytes = measureTemporary(executor, graphs.map(programs.of));
  costs?.setTemporary(graphs, bytes);
  return bytes;
}

/** Entries of 8 bytes of a planning table, at most, and of one beside an arena in use. */
const MOST_ENTRIES = 2e7;
const LATER_ENTRIES = 2e6;

/** @throws {UserError} a name that means no value of any block */
function checkNames(segments: readonly Segment[], names: readonly string[]): void {
  const nodes = segments.flatMap(({ model }) => (model.training ? model.forward.nodes : []));
  const values = nodes.flatMap((node) => node.outputs.map((value) => ({ value, node })));
  for (const name of names) {
    if (values.some(({ value, node }) => isNamed(name, value, node))) continue;
    const known = [...new Set(values.flatMap(({ value, node }) => [...value.split("."), node.op]))].filter((text) =>
      /^[a-z]/i.test(text),
    );
    throw new UserError(`no layer or operator of a block is named ${JSON.stringify(name)}; there are ${known.sort().join(", ")}`);
  }
}

/** Bytes of what is not scheduled. */
function fixedBytes(
  options: ModelPlanOptions,
  segments: number,
  params: readonly ParamInfo[],
  optimizer: OptimizerPlan | null,
  checks: number,
): FixedBytes {
  const { config, logits } = options;
  return {
    ...residentBytes(params, optimizer),
    batch: batchBytes(config, batchSizeOf(options)) + stepWordBytes(segments),
    logits: logits ? align(4 * logits.rows * config.vocabSize) : 0,
    checks,
  };
}

/** The most tokens that a batch has, generation included. */
export function mostTokens({ tokens, logits }: Pick<ModelPlanOptions, "tokens" | "logits">): number {
  return Math.max(...tokens, ...(logits?.tokens ?? []));
}

/** Returns what the batch inputs of a model have room for. */
export function batchSizeOf(options: Pick<ModelPlanOptions, "tokens" | "logits" | "weighted" | "head">): BatchSize {
  return { tokens: mostTokens(options), rows: options.logits?.rows ?? 1, weighted: options.weighted, head: options.head };
}
