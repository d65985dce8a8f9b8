import { writeFileSync } from "node:fs";
import { z } from "zod";
import { formatBytes } from "../base/bytes.ts";
import { fileError } from "../base/files/files.ts";
import { openDevice } from "../device.ts";
import { ADAPTER_KEYS } from "../models/adapters/index.ts";
import type { TokenBatch } from "../data/samples/batch.ts";
import { openModel } from "../load/open-model.ts";
import { isOnDisk } from "../load/streamed-weights.ts";
import { computeType, storageOf, weightTypeOf } from "../load/weights.ts";
import { checkContext, contextLimit } from "../models/context.ts";
import { type Chain, idealTime } from "../schedule/chain.ts";
import { formatSchedule, type Schedule } from "../schedule/ops.ts";
import { plannerOf } from "../schedule/planner/offload.ts";
import { chooseOptimizer } from "../optimizers/index.ts";
import { simulate } from "../schedule/simulate.ts";
import { summarise, type Summary } from "../schedule/summary.ts";
import { drawing } from "../base/charts/drawing.ts";
import { lineChart } from "../base/charts/line-chart.ts";
import { timelineChart, timelineOf } from "../schedule/timeline.ts";
import { objectiveOf } from "../objectives/index.ts";
import { CHECKPOINTING_KEYS, checkQuantize, sequenceLengthOf, STORAGE_KEYS, trainConfigSchema } from "../train/config.ts";
import { createCosts, deviceName } from "../train/memory/costs.ts";
import { fixedTotal, type FixedBytes } from "../train/memory/forecast.ts";
import { explainingLimit, limitedMemory } from "../train/memory/limit.ts";
import { type ModelPlan, planModel } from "../train/memory/model-plan.ts";
import { NOMINAL_LINK, offloadOf } from "../train/memory/offload.ts";
import { PLANNED_VARIANTS } from "../train/memory/step-plan.ts";
import { NOMINAL_BANDWIDTH, streamOf, streamText } from "../train/memory/stream.ts";
import { checkpointingOf, selectiveOf } from "../train/memory/strategy.ts";
import { openEngine } from "../train/step/open-engine.ts";
import { predictionOf, withPlannedHead } from "../train/labels.ts";
import { withUsualMethod } from "../train/method.ts";
import { tuningOf, tuningOfAdapter, withAdapter } from "../train/step/tuning.ts";
import { type CallOptions, validateOptions } from "./options.ts";

/** Flags of `train` that a plan depends on. */
export const planKeys = trainConfigSchema
  .pick({
    model: true,
    method: true,
    ...ADAPTER_KEYS,
    targets: true,
    modulesToSave: true,
    lastLayers: true,
    optimizer: true,
    objective: true,
    sequenceLength: true,
    batchSize: true,
    ...CHECKPOINTING_KEYS,
    ...STORAGE_KEYS,
    device: true,
    threads: true,
    matmul: true,
  })
  .extend({
    measure: z.boolean().default(false).describe("load the model and time its programs instead of modelling the times"),
    svg: z.string().min(1).optional().describe("draw the time/memory curve and the memory of a step into this file"),
  });

/** All that a configuration of `train` may hold; what does not matter here is only checked. */
export const planOptionsSchema = trainConfigSchema.extend({ ...planKeys.shape, data: trainConfigSchema.shape.data.optional() });

export type PlanOptions = z.input<typeof planOptionsSchema>;

/** A schedule that no other beats in both memory and time. */
export interface CurvePoint {
  /** Stash and workspace, bytes. */
  readonly activations: number;
  /** All memory of the process, or on the card, bytes. */
  readonly memory: number;
  /** Time over that of a step that computes nothing twice. */
  readonly overhead: number;
  /** Bytes of frozen weights that lie in memory. */
  readonly frozen: number;
}

/** A kind of segment of the chain. Sizes in bytes, times in seconds, of one micro-batch. */
export interface PlannedSegment {
  readonly name: string;
  readonly model: string;
  readonly output: number;
  readonly tape: number;
  readonly tapes: readonly number[];
  readonly forward: number;
  readonly backward: number;
}

/** Bytes by part; `peak` is the sum of process, resident memory, stash, workspace and temporary memory. */
export interface PlannedMemory extends FixedBytes {
  readonly process: number;
  readonly stash: number;
  readonly workspace: number;
  readonly temporary: number;
  readonly peak: number;
}

export interface PlanReport extends Summary {
  readonly segments: readonly PlannedSegment[];
  readonly schedule: readonly string[];
  /** The owner of `memory.process`: the process itself, or a card's library. */
  readonly owner: string;
  readonly memory: PlannedMemory;
  readonly withoutCheckpointing: number;
  /** Bytes that a step moves, seconds that it waits, bytes per second of the link. */
  readonly offload: {
    readonly out: number;
    readonly in: number;
    readonly waited: number;
    readonly bandwidth: { readonly out: number; readonly in: number };
  } | null;
  /** Frozen weights that lie in their files: in words, bytes that a micro-batch reads, seconds that it waits for them, bytes per second; null: none do. */
  readonly stream: { readonly text: string; readonly bytes: number; readonly waited: number; readonly bandwidth: number } | null;
  /** The fastest schedules over the whole range of memory, and where weights lie then. */
  readonly curve: readonly CurvePoint[];
}

/**
 * Plans what a training step keeps and what it computes again, so that it stays within a memory limit. Nothing is trained.
 * @throws {UserError} anything that is missing or does not fit; a limit that is too low, with the least that works
 */
export async function plan(options: PlanOptions, { sink = () => {} }: Pick<CallOptions, "sink"> = {}): Promise<PlanReport> {
  const asked = validateOptions(planOptionsSchema, options);
  checkQuantize(asked);
  const optimizer = chooseOptimizer(asked);
  const onNote = (text: string) => sink({ type: "note", text });
  const model = await openModel(asked, { check: "none", predicts: predictionOf(asked), onNote });
  const { adapter } = model;
  const config = withUsualMethod(asked, model, Object.keys(options), onNote);
  try {
    if (adapter) withAdapter(config, adapter, model.config, Object.keys(options));
    const length = sequenceLengthOf(config, contextLimit(model.config));
    checkContext(model.config, length);
    const device = await openDevice(config);
    try {
      const limited = limitedMemory(device.executor, config);
      const strategy = checkpointingOf(config, limited);
      const { texts, head } = objectiveOf(config);
      const tokens = config.batchSize * length * texts;
      const planned = withPlannedHead(config, model);
      const { source } = planned;
      const options = {
        config: planned.model,
        ...(head.kind === "logits" && { texts: config.batchSize * texts }),
        tuning: adapter ? tuningOfAdapter(adapter, planned.model, config) : tuningOf(planned.config, planned.model, source),
        strategy,
        selective: selectiveOf(config),
        verifyReplay: config.verifyReplay,
        stream: streamOf(config, device.executor, strategy, (param) => isOnDisk(source, param), config.output),
        variants: PLANNED_VARIANTS,
        tokens: [tokens],
        head: head.kind,
        slots: head.kind === "token-losses" ? head.slots : undefined,
        ...storageOf(config),
        optimizer,
      };
      const offload = offloadOf(config, config.output);
      const explain = (make: () => ModelPlan) => explainingLimit(config.memory, strategy, make);
      const modelled = () =>
        explain(() =>
          planModel(device.executor, {
            ...options,
            weightType: weightTypeOf(device.executor, source, config),
            compute: computeType(device.executor, config.dtype),
            link: offload && NOMINAL_LINK,
          }),
        );
      const timed = async () => {
        const measure = { costs: createCosts(deviceName(device.executor)), batch: oneExample(tokens, length) };
        const all = { ...options, source, measure, offload };
        const onNote = (text: string) => sink({ type: "note", text });
        const engine = await openEngine(device.executor, all, explain, { cache: config.weightCache, onNote });
        engine.close();
        return engine.plan;
      };
      const plan = config.measure ? await timed() : modelled();
      const report = reportOf(
        plan,
        strategy.name === "budget" && strategy.base ? strategy.base() : limited.base(),
        limited.owner,
      );
      if (config.svg !== undefined) draw(config.svg, plan, report);
      return report;
    } finally {
      device.close();
    }
  } finally {
    model.close();
  }
}

/** Rows that are each one example with a target everywhere: attention and head have the most to do. */
function oneExample(tokens: number, length: number): TokenBatch {
  const positions = Int32Array.from({ length: tokens }, (_, t) => t % length);
  return { ids: new Int32Array(tokens), labels: new Int32Array(tokens), starts: positions.map((at, t) => t - at), positions };
}

function reportOf(plan: ModelPlan, base: number, owner: string): PlanReport {
  const { chain, schedule, segments } = plan.largest;
  const ideal = idealTime(chain);
  const curve = curveOf(plan, base, ideal);
  return {
    segments: segments.map(({ name, model }, i) => ({
      name,
      model: model.id,
      output: chain.a[i + 1]!,
      tape: chain.r[i]!,
      tapes: chain.variants[i]!.map(({ r }) => r),
      // The head's forward and backward are one program.
      forward: chain.replay[i] ? 0 : chain.uf[i]!,
      backward: chain.replay[i]?.ub ?? chain.ub[i]!,
    })),
    schedule: formatSchedule(schedule),
    owner,
    memory: {
      process: base,
      ...plan.fixed,
      stash: plan.predicted.stash,
      workspace: plan.predicted.workspace,
      temporary: plan.predicted.temporary,
      peak: base + plan.predicted.peak,
    },
    withoutCheckpointing: base + plan.withoutCheckpointing.peak,
    stream: streamReport(plan),
    offload: chain.offload && offloadReport(chain, schedule),
    ...summarise(chain, schedule),
    curve,
  };
}

/** Schedules of a curve that are tried with each way for weights to lie in their files, at most. */
const STREAMED_SCHEDULES = 16;

/** The points that no other beats in both memory and time, over all schedules and all ways for frozen weights to lie. */
function curveOf(plan: ModelPlan, base: number, ideal: number): CurvePoint[] {
  const schedules = plannerOf(plan.largest.chain).curve();
  const alternatives = plan.alternatives();
  const some = Math.ceil(schedules.length / STREAMED_SCHEDULES);
  const points = alternatives.flatMap(({ fixed, streams, wait }) =>
    schedules
      .filter((_, i) => !streams || i % some === 0 || i === schedules.length - 1)
      .map(({ schedule, simulation }): CurvePoint => ({
        activations: simulation.peak,
        memory: base + fixedTotal(fixed) + simulation.peak + plan.predicted.temporary,
        overhead: (simulation.time + wait(schedule, NOMINAL_BANDWIDTH)) / ideal - 1,
        frozen: fixed.frozen,
      })),
  );
  points.sort((a, b) => a.memory - b.memory || a.overhead - b.overhead);
  let best = Infinity;
  return points.filter(({ overhead }) => {
    const isBetter = overhead < best;
    best = Math.min(best, overhead);
    return isBetter;
  });
}

function streamReport(plan: ModelPlan): PlanReport["stream"] {
  const { streaming } = plan.largest;
  const text = streamText(plan);
  if (streaming === null || text === null) return null;
  return { text, bytes: streaming.bytes, waited: streaming.wait(NOMINAL_BANDWIDTH), bandwidth: NOMINAL_BANDWIDTH };
}

/** Returns what a step moves, and how fast that goes. */
function offloadReport(chain: Chain, schedule: Schedule): NonNullable<PlanReport["offload"]> {
  const { transfers, waited } = simulate(chain, schedule);
  const bytes = (wanted: "out" | "in") =>
    transfers.filter(({ direction }) => direction === wanted).reduce((sum, transfer) => sum + transfer.bytes, 0);
  const { out, in: into } = chain.offload!;
  return { out: bytes("out"), in: bytes("in"), waited, bandwidth: { out, in: into } };
}

function draw(path: string, plan: ModelPlan, report: PlanReport): void {
  const { chain, schedule } = plan.largest;
  const chart = lineChart({
    title: "Fastest schedules: overhead against memory",
    x: {
      label: report.owner === "the process" ? "memory of the process" : "memory of the card",
      unit: "bytes",
      format: formatBytes,
    },
    y: { label: "overhead", unit: 0.01, format: (share) => `${Math.round(100 * share)} %` },
    series: [
      { name: "fastest schedules", points: report.curve.map(({ memory, overhead }) => [memory, overhead]) },
      {
        name: "chosen",
        points: [[report.memory.peak, report.overhead + (report.stream?.waited ?? 0) / idealTime(chain)]],
        shape: "points",
      },
    ],
  });
  try {
    const step = timelineChart(timelineOf(simulate(chain, schedule)), { title: "Memory of one step", format: formatBytes });
    writeFileSync(path, drawing([chart, step]));
  } catch (error) {
    throw fileError("write", path, error);
  }
}
