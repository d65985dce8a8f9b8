import { inPrecision } from "../../autodiff/precision.ts";
import { type DecoderPlan, planDecoder } from "../../generate/decoders.ts";
import { programsOf, type Segment } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";
import { lazily, lazilyBy } from "../../base/lazily.ts";
import { type OptimizerPlan, planOptimizer, updateGraphs, updateWorkspace } from "../../optimizers/plan.ts";
import { atRest, hasAdapters, withoutDropout } from "../../models/tuning.ts";
import type { SegmentOptions } from "../../models/parts.ts";
import { withRecomputedLogits } from "../../models/chain/recomputed-logits.ts";
import { buildLogits, buildSegments } from "../../models/chain/segments.ts";
import { type CarriedBytes, carriedBytes, carriedTotal } from "../../runtime/carried.ts";
import { buildChain, createPrograms, type Programs, type SecondsOf } from "../../runtime/chain.ts";
import { modelledSeconds } from "../../ops/modelled-time.ts";
import { align, type Executor } from "../../runtime/executor.ts";
import { forwardExtent } from "../../runtime/forward.ts";
import { createProbes, type Probes } from "../../runtime/probes.ts";
import { collectParams, type ParamInfo } from "../../runtime/resident.ts";
import { schedulePrograms, sequenceGraphs } from "../../runtime/scheduled.ts";
import { gradientWindowBytes } from "../../runtime/streaming/gradient-window.ts";
import { sequenceProgram } from "../../runtime/streaming/weight-window.ts";
import { updateWindowBytes } from "../../optimizers/outside.ts";
import type { Link } from "../../schedule/chain.ts";
import type { Schedule } from "../../schedule/ops.ts";
import { strategySchedule } from "../../schedule/strategies.ts";
import { storeAlignment } from "../../store/store.ts";
import { SPARE } from "../../load/open-weights.ts";
import { betweenSteps, type FixedBytes, fixedTotal, forecast, largestOf, type MemoryForecast } from "./forecast.ts";
import { ALL_RESIDENT, residencies, type Residency } from "../../load/residency.ts";
import { fixedBytes, type ModelPlanOptions } from "./plan-options.ts";
import { backwardGraphs, checkNames, type StreamedReads, streamingOf, temporaryBytes } from "./plan-parts.ts";
import { chooseResidency, sharesOf } from "./stream.ts";
import {
  activationLimit,
  type Automatic,
  CapacityError,
  isPlanned,
  LimitError,
  planStep,
  smallestPlan,
  type StepPlan,
  variantsWanted,
} from "./step-plan.ts";

/** Plan of one number of tokens. */
export interface TokenPlan extends StepPlan {
  readonly segments: readonly Segment[];
  /** Segments without dropout, for evaluation. */
  readonly withoutDropout: readonly Segment[];
  /** null: all weights are in memory. */
  readonly streaming: StreamedReads | null;
}

/** A way for frozen weights to lie. */
export interface Alternative {
  readonly fixed: FixedBytes;
  /** True if some lie in their files. */
  readonly streams: boolean;
  /** Seconds that a micro-batch of the largest size waits for weights with a schedule. */
  wait(schedule: Schedule, bandwidth: number): number;
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
  /** The segments of training and of decoding, whose parameters are in use. */
  readonly loaded: readonly Segment[];
  /** Their parameters. */
  readonly params: readonly ParamInfo[];
  /** Which weights lie in memory. */
  readonly residency: Residency;
  /** Where the optimizer's state lies, and what an update runs in the arena between steps; null without one. */
  readonly optimizer: OptimizerPlan | null;
  /** The memory of an update; null without an optimizer. */
  readonly update: MemoryForecast | null;
  /** Sizes of the values that cross the segments of a step beside the boundaries. */
  readonly carried: CarriedBytes;
  /** Everything besides the arena. */
  readonly fixed: FixedBytes;
  /** Bytes that the arena needs for what runs between training steps: updates, evaluations, decoding. */
  readonly between: number;
  /** The programs whose temporary memory is in `predicted`. */
  readonly measured: readonly Graph[];
  /** Bytes of the arena that holds stash and workspace. A later plan with other times needs no more. */
  readonly arena: number;
  /** Bytes of it that something is placed in. */
  readonly extent: number;
  /** Bytes of the arena in which everything is kept: a plan for another limit needs no more, and no less than `extent`. */
  readonly everything: number;
  /** The limit that is kept, in bytes: a budget's; null: there is none. */
  readonly limit: number | null;
  /** The default's limit for the largest micro-batch, and the peak of the strategy `per-segment`; null: a strategy was asked for. */
  readonly automatic: (Omit<Automatic, "least"> & { readonly leastPeak: number }) | null;
  readonly predicted: MemoryForecast;
  readonly withoutCheckpointing: MemoryForecast;
  /** Other ways for frozen weights to lie, from all in memory to all in their files; the plan's own alone where none may lie there. */
  alternatives(): readonly Alternative[];
  /** Plans all steps again with other times, and another bandwidth of the link, in the same arena. No step is slower by these times than it is now. */
  withTimes(seconds: SecondsOf, bandwidth?: Pick<Link, "out" | "in"> | null): ModelPlan;
  /**
   * Plans all steps again for another limit of a budget, with the same times, in at most `room` bytes of arena. A limit below the least that
   * works is taken as that one: see `limit` of what is returned.
   */
  withLimit(bytes: number, room: number): ModelPlan;
}

/** Describes what a plan of all steps is made with. */
interface Round {
  readonly times: SecondsOf | undefined;
  readonly link: Link | null;
  /** Bytes of the arena, at most. */
  readonly room: number;
  readonly limit: number | null;
  /** Entries of a planning table, at most. */
  readonly entries: number;
  /** The steps so far: they stay where no other ones are faster. */
  readonly before?: ReadonlyMap<number, StepPlan>;
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
    texts: options.texts,
    slots: options.slots,
    selective: { ...options.selective, count: Math.max(variantsWanted(strategy), options.variants ?? 0) },
  });
  const evaluationOptions = (tokens: number): SegmentOptions => ({
    tokens,
    tuning: withoutDropout(tuning),
    weightType: options.weightType,
    weighted: options.weighted,
    head: options.head,
    texts: options.texts,
    slots: options.slots,
  });
  const build = (each: SegmentOptions): readonly Segment[] => inPrecision(buildSegments(config, each), compute);
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
  const recomputing = lazily(
    () => new Map([...built].map(([tokens, each]) => [tokens, { ...each, segments: withRecomputedLogits(each.segments) }])),
  );
  /** The chains, of which the head suits where its weight lies; only kernels read it piece by piece. */
  const builtFor = ({ streamed }: Pick<Residency, "streamed">): typeof built => {
    const isStreamed = [...built.get(most)!.segments.at(-1)!.params.values()].some((name) => streamed.has(name));
    return isStreamed && executor.reach.kind === "shared" ? recomputing() : built;
  };
  const probes = new Map(
    options.verifyReplay ? [...built].map(([tokens, { segments }]) => [tokens, createProbes(segments, programs)]) : [],
  );
  const apart = executor.mirror !== undefined;
  const optimizer = options.optimizer && planOptimizer(options.optimizer, collectParams(built.get(most)!.segments), apart);
  const updates = optimizer ? updateGraphs(optimizer) : [];
  const checks = Math.max(0, ...[...probes.values()].map(({ bytes }) => bytes));
  const forwards = [...[...built.values()].map(({ withoutDropout }) => withoutDropout), ...answers.values()];
  const carried = carriedBytes([...[...built.values()].map(({ segments }) => segments), ...forwards]);
  const decoder =
    options.decode === undefined
      ? null
      : planDecoder(programs, config, { ...evaluationOptions(1), tuning: atRest(tuning), compute }, options.decode);
  const { segments: trained } = built.get(most)!;
  const loaded = [...trained, ...([...(decoder?.chains.values() ?? [])][0] ?? [])];
  const params = collectParams(loaded);
  /** Bytes of the programs of an update, and of what passes through the arena where trained state lies outside. */
  const updateBytesOf = ({ isTrainedOutside }: Residency) =>
    updateWorkspace(programs, updates) + (isTrainedOutside ? updateWindowBytes(updates) : 0);
  const gradientBytes = lazily(() =>
    Math.max(...[...built.values()].map(({ segments }) => gradientWindowBytes(backwardGraphs(segments)))),
  );
  const fixedOf = (residency: Residency): FixedBytes => {
    const fixed = fixedBytes(options, trained.length, params, optimizer, checks, residency, carriedTotal(carried));
    return residency.isTrainedOutside ? { ...fixed, trainable: 0, gradients: align(gradientBytes()), optimizer: 0 } : fixed;
  };

  const alignment = storeAlignment(executor);
  // What all programs take is there before a limit is divided.
  for (const { segments } of built.values()) buildChain(segments, programs);
  const between = [...forwards, ...(decoder?.chains.values() ?? [])];
  const chains = [built.get(most)!.withoutDropout, ...answers.values(), ...(decoder?.chains.values() ?? [])];
  const measured = [
    ...new Set([
      ...built.get(most)!.segments.flatMap(({ model }) => programsOf(model).map(([, graph]) => graph)),
      ...chains.flat().map(({ model }) => model.forward),
      ...updates,
    ]),
  ];
  const temporary = temporaryBytes(executor, programs, measured, options.costs);
  const sequenceOf = (graphs: readonly { readonly segment: Segment; readonly graph: Graph }[]) =>
    graphs.map(({ segment, graph }) => sequenceProgram(executor, programs, segment, graph));

  const { stream } = options;
  const choices = lazily(() =>
    stream && stream.mode !== "off"
      ? residencies({
          executor,
          programs,
          params,
          chains: [
            ...[...builtFor({ streamed: new Set(params.map(({ name }) => name)) }).values()].map(({ segments }) => segments),
            ...between,
          ],
          canStream: stream.canStream,
        })
      : null,
  );
  const alternativesOf = (choices: readonly Residency[], times: SecondsOf): Alternative[] => {
    const secondsOf = lazilyBy(times);
    // What a schedule runs is the same for all of them.
    const timed = lazilyBy((schedule: Schedule) =>
      lazilyBy((chains: typeof built) => {
        const { segments } = chains.get(most)!;
        const graphs = sequenceGraphs(segments, schedulePrograms(segments, schedule));
        return { sequence: sequenceOf(graphs), seconds: graphs.map(({ graph }) => secondsOf(graph)) };
      }),
    );
    return choices.map((residency) => ({
      fixed: fixedOf(residency),
      streams: residency.streamed.size > 0,
      wait(schedule, bandwidth) {
        if (residency.streamed.size === 0) return 0;
        const { sequence, seconds } = timed(schedule)(builtFor(residency));
        return streamingOf(sequence, seconds, residency)!.wait(bandwidth);
      },
    }));
  };

  /** Plans with given weights in memory. */
  const under = (residency: Residency): ModelPlan => {
    const chains = builtFor(residency);
    const fixed = fixedOf(residency);
    const updateBytes = updateBytesOf(residency);
    const betweenBytes = Math.max(
      decoder?.bytes ?? 0,
      updateBytes,
      ...forwards.map((segments) => forwardExtent(segments, programs)),
    );
    const update = optimizer && betweenSteps(fixed, updateBytes, temporary);
    for (const chain of between) {
      const graphs = chain.map((segment) => ({ segment, graph: segment.model.forward }));
      streamingOf(sequenceOf(graphs), [], residency);
    }

    const plan = (round: Round): ModelPlan => {
      const { times, link, room, limit, entries, before } = round;
      const steps = new Map<number, TokenPlan>();
      const taken = fixedTotal(fixed) + temporary;
      // The largest first: it decides whether a limit can be kept.
      for (const tokens of [...chains.keys()].sort((a, b) => b - a)) {
        const { segments, withoutDropout } = chains.get(tokens)!;
        const chain = buildChain(segments, programs, times, link && { link, alignment });
        if (betweenBytes > room) throw new LimitError(room, Math.max(betweenBytes, smallestPlan(chain).placement.extent));
        const known = before?.get(tokens);
        const current = known && known.placement.extent <= room ? known : undefined;
        const step = planStep(chain, strategy, room, { entries, current, besides: taken });
        if (step.placement.extent > room) throw new LimitError(room, step.placement.extent);
        const graphs = sequenceGraphs(segments, schedulePrograms(segments, step.schedule));
        const seconds = graphs.map(({ graph }) => (times ?? modelledSeconds)(graph));
        steps.set(tokens, { ...step, segments, withoutDropout, streaming: streamingOf(sequenceOf(graphs), seconds, residency) });
      }
      const largest = steps.get(most)!;
      const off = { chain: largest.chain, schedule: strategySchedule(largest.chain, { name: "off" }) };
      const automaticOf = ({ least, ...automatic }: Automatic) => ({
        ...automatic,
        leastPeak: largestOf([forecast(least, fixed, temporary), update]).peak,
      });
      const withoutCheckpointing = largestOf([forecast(off, fixed, temporary), update]);
      const later: Round = { ...round, entries: LATER_ENTRIES, before: steps };
      const extent = Math.max(betweenBytes, ...[...steps.values()].map(({ placement }) => placement.extent));
      // Other times may lead to a plan that keeps more, up to everything, within the limit.
      const keepAll = withoutCheckpointing.stash + withoutCheckpointing.workspace;
      const within = Math.min(activationLimit(largest.chain, strategy, room), keepAll);
      const arena = isPlanned(strategy) ? Math.max(extent, within) : extent;
      return {
        programs,
        steps,
        largest,
        answers,
        probes,
        decoder,
        loaded,
        params,
        residency,
        optimizer,
        update,
        carried,
        fixed,
        between: betweenBytes,
        measured,
        arena,
        extent,
        everything: Math.max(arena, Math.min(keepAll, capacity)),
        limit,
        automatic: largest.automatic ? automaticOf(largest.automatic) : null,
        // A smaller micro-batch may keep more than the largest one.
        predicted: largestOf([...[...steps.values()].map((step) => forecast(step, fixed, temporary)), update]),
        withoutCheckpointing,
        alternatives() {
          const all = choices();
          const most = fixedTotal(fixedOf(ALL_RESIDENT));
          // What is left must be worth the thread that reads.
          const saves = (other: Residency) => most - fixedTotal(fixedOf(other)) > READING_THREAD;
          const others =
            all === null
              ? []
              : sharesOf(all)
                  .map((share) => all.keeping(share, "ample"))
                  .filter(saves);
          const isOwn = residency.streamed.size > 0 && others.length === 0;
          return alternativesOf(isOwn ? [ALL_RESIDENT, residency] : [ALL_RESIDENT, ...others], times ?? modelledSeconds);
        },
        withTimes: (other, bandwidth) => plan({ ...later, times: other, link: link && { ...link, ...bandwidth }, room: arena }),
        withLimit(bytes, most) {
          if (limit === null) throw new Error(`the strategy ${strategy.name} has no limit of memory`);
          return planAnyhow({ ...later, room: Math.min(bytes - besides, most), limit: bytes });
        },
      };
    };
    /** Plans with the least that works where there is less room than that. */
    const planAnyhow = (round: Round): ModelPlan => {
      try {
        return plan(round);
      } catch (error) {
        if (!(error instanceof LimitError)) throw error;
        return planAnyhow({ ...round, room: error.least, limit: besides + error.least });
      }
    };
    const capacity = executor.capacity - fixedTotal(fixed) - SPARE;
    const ofProcess = strategy.name === "budget" && strategy.base !== undefined && !executor.card;
    const reading = ofProcess && residency.streamed.size > 0 ? READING_THREAD : 0;
    /** Bytes that a budget is for besides the arena. */
    const besides = strategy.name === "budget" ? (strategy.base?.() ?? 0) + reading + fixedTotal(fixed) + temporary : 0;
    const [limit, asked] = strategy.name === "budget" ? [strategy.bytes, strategy.bytes - besides] : [null, Infinity];
    const room = Math.min(asked, capacity);
    try {
      // The first tables may have the arena's bytes, which nothing has touched yet.
      const entries = Math.min(MOST_ENTRIES, Math.max(LATER_ENTRIES, room / 8));
      return plan({ times: seconds, link: options.link ?? null, room, limit, entries });
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      const { least } = error;
      throw error.limit === capacity && capacity < asked
        ? new CapacityError(executor.capacity, fixed, fixedTotal(fixed) + SPARE + least)
        : new LimitError(error.limit, least, temporary, fixedTotal(fixed), reading);
    }
  };
  if (!stream || stream.mode === "off") return under(ALL_RESIDENT);
  return chooseResidency(stream, under, choices, params);
}

/** Bytes of this process that the thread takes which reads weights from their files. */
export const READING_THREAD = 12 << 20;

/** Entries of 8 bytes of a planning table, at most, and of one beside an arena in use. */
const MOST_ENTRIES = 2e7;
const LATER_ENTRIES = 2e6;
