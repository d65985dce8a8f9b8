import { writeFileSync } from "node:fs";
import { z } from "zod";
import { openDevice } from "../../device.ts";
import { loadConfig } from "../../hf/config/config.ts";
import { checkContext, contextLimit } from "../../models/rope.ts";
import { fileError } from "../../base/files.ts";
import { readAdapter } from "../../hf/peft/peft.ts";
import { openModelWeights } from "../../hf/weights/model-weights.ts";
import { type Chain, idealTime } from "../../schedule/chain.ts";
import { formatSchedule, type Schedule } from "../../schedule/ops.ts";
import { plannerOf } from "../../schedule/planner/offload.ts";
import { simulate } from "../../schedule/simulate.ts";
import { formatSummary, summarise } from "../../schedule/summary.ts";
import { drawing, lineChart, memoryTimeline } from "../../schedule/svg.ts";
import { CHECKPOINTING_KEYS, checkQuantize, sequenceLengthOf, STORAGE_KEYS, trainConfigSchema } from "../../train/config.ts";
import { checkpointingOf, selectiveOf } from "../../train/memory/strategy.ts";
import { explainingLimit, limitedMemory } from "../../train/memory/limit.ts";
import { fixedTotal } from "../../train/memory/forecast.ts";
import { formatBytes } from "../../base/bytes.ts";
import { NOMINAL_LINK, offloadOf } from "../../train/memory/offload.ts";
import type { TokenBatch } from "../../load/batch-memory.ts";
import { createCosts, deviceName } from "../../train/memory/costs.ts";
import { createEngine } from "../../train/step/engine.ts";
import { type ModelPlan, planModel } from "../../train/memory/model-plan.ts";
import { PLANNED_VARIANTS } from "../../train/memory/step-plan.ts";
import { tuningOf, tuningOfAdapter, withAdapter } from "../../train/step/tuning.ts";
import { computeType, storageOf, weightTypeOf } from "../../load/weights.ts";
import { findModel } from "../../load/find-model.ts";
import { validateConfig } from "../flags/config-file.ts";
import { describeFlags, flagsOf, flagName, parseOnlyFlags } from "../flags/flags.ts";
import { readFlags } from "../flags/model-flags.ts";
import { planChain } from "./plan-chain.ts";

const chainFlags = z.strictObject({
  chain: z.string().min(1).describe("JSON file with the sizes and times of a chain of segments"),
  memory: z.string().min(1).describe("limit in the unit of the chain's sizes; several with commas between them"),
  json: z.boolean().default(false).describe("print JSON: an object, or an array when there are several limits"),
});

/** Flags of `train` that a plan depends on. */
const shown = trainConfigSchema
  .pick({
    model: true,
    method: true,
    rank: true,
    alpha: true,
    rslora: true,
    dropout: true,
    targets: true,
    lastLayers: true,
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
    json: z.boolean().default(false).describe("print JSON"),
  });

/** A command line of `train` may be given as it is; what does not matter here is only checked. */
const modelFlags = trainConfigSchema.extend({ ...shown.shape, data: trainConfigSchema.shape.data.optional() });

/** For shell completion: the flags of both uses. */
export const flags = shown.extend({
  // A description belongs to one schema, and not to what is made of it.
  chain: chainFlags.shape.chain.optional().describe(flagsOf(chainFlags)[0]!.description),
});

export function help(): string {
  return `Plans what a training step keeps and what it computes again, so that it stays within a memory limit. Nothing is trained.

Usage: remat plan --model DIR [--memory LIMIT] [--flag value ...]
       remat plan --chain FILE --memory BYTES[,BYTES...] [--json]

The segments, the chosen schedule, its peak by part and its overhead, and the fastest schedules over the whole range of
memory. With --chain, a bare chain is planned; the exit status is 3 when a limit is too low for any schedule.

${describeFlags(shown)}
  ${flagName("chain")} ${flagsOf(chainFlags)[0]!.description}`;
}

export async function run(args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg === "--chain" || arg.startsWith("--chain="))) {
    const { chain, memory, json } = readFlags("plan", chainFlags, args);
    return planChain(chain, memory, json);
  }
  const values = parseOnlyFlags("plan", modelFlags, args);
  const config = validateConfig(modelFlags, values);
  checkQuantize(config);
  const { folder, adapter: adapterFolder } = await findModel(config);
  const model = loadConfig(folder);
  const adapter = adapterFolder === null ? null : readAdapter(adapterFolder, model);
  adapter?.source.close();
  if (adapter) withAdapter(config, adapter, model, Object.keys(values));
  const length = sequenceLengthOf(config, contextLimit(model));
  checkContext(model, length);
  const source = openModelWeights(folder, model);
  const device = await openDevice(config);
  try {
    const limited = limitedMemory(device.executor, config);
    const strategy = checkpointingOf(config, limited);
    const tokens = config.batchSize * length;
    const options = {
      config: model,
      tuning: adapter ? tuningOfAdapter(adapter, config.dropout) : tuningOf(config, model),
      strategy,
      selective: selectiveOf(config),
      verifyReplay: config.verifyReplay,
      variants: PLANNED_VARIANTS,
      tokens: [tokens],
      ...storageOf(config),
      optimizer: true,
    };
    const offload = offloadOf(config, config.output);
    const plan = explainingLimit(config.memory, strategy, () => {
      if (!config.measure)
        return planModel(device.executor, {
          ...options,
          weightType: weightTypeOf(device.executor, source, config),
          compute: computeType(device.executor, config.dtype),
          link: offload && NOMINAL_LINK,
        });
      const measure = { costs: createCosts(deviceName(device.executor)), batch: oneExample(tokens, length) };
      const engine = createEngine(device.executor, { ...options, source, measure, offload });
      engine.close();
      return engine.plan;
    });
    const report = reportOf(plan, strategy.name === "budget" && strategy.base ? strategy.base() : limited.base(), limited.owner);
    if (config.svg !== undefined) draw(config.svg, plan, report);
    console.log(
      config.json ? JSON.stringify(report) : formatReport(report, config.measure ? "measured" : "modelled", config.svg),
    );
  } finally {
    device.close();
    source.close();
  }
  return 0;
}

/** Rows that are each one example with a target everywhere: attention and head have the most to do. */
function oneExample(tokens: number, length: number): TokenBatch {
  const positions = Int32Array.from({ length: tokens }, (_, t) => t % length);
  return { ids: new Int32Array(tokens), labels: new Int32Array(tokens), starts: positions.map((at, t) => t - at), positions };
}

interface CurvePoint {
  /** Stash and workspace, bytes. */
  readonly activations: number;
  /** All memory of the process, or on the card, bytes. */
  readonly memory: number;
  /** Time over that of a step that computes nothing twice. */
  readonly overhead: number;
}

type Report = ReturnType<typeof reportOf>;

function reportOf(plan: ModelPlan, base: number, owner: string) {
  const { chain, schedule, segments } = plan.largest;
  const ideal = idealTime(chain);
  const fixed = fixedTotal(plan.fixed);
  const curve = plannerOf(chain)
    .curve()
    .map(({ simulation }): CurvePoint => ({
      activations: simulation.peak,
      memory: base + fixed + simulation.peak + plan.predicted.temporary,
      overhead: simulation.time / ideal - 1,
    }));
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
    offload: chain.offload && offloadReport(chain, schedule),
    ...summarise(chain, schedule),
    curve,
  };
}

/** What a step moves, and how fast that goes. */
function offloadReport(chain: Chain, schedule: Schedule) {
  const { transfers, waited } = simulate(chain, schedule);
  const bytes = (wanted: "out" | "in") =>
    transfers.filter(({ direction }) => direction === wanted).reduce((sum, transfer) => sum + transfer.bytes, 0);
  const { out, in: into } = chain.offload!;
  return { out: bytes("out"), in: bytes("in"), waited, bandwidth: { out, in: into } };
}

const milliseconds = (seconds: number): string => `${(1000 * seconds).toPrecision(3)} ms`;

const percent = (share: number): string => `${(100 * Math.max(0, share)).toFixed(1)} %`;

function formatReport(report: Report, times: "measured" | "modelled", svg: string | undefined): string {
  const kinds = new Map<string, { count: number; segment: Report["segments"][number] }>();
  for (const segment of report.segments) {
    const kind = kinds.get(segment.model);
    if (kind) kind.count++;
    else kinds.set(segment.model, { count: 1, segment });
  }
  const { memory } = report;
  const rows = [["segments", "number", "output", "tape", "forward", "backward", "smaller tapes"]];
  for (const [model, { count, segment }] of kinds) {
    rows.push([
      model,
      String(count),
      formatBytes(segment.output),
      formatBytes(segment.tape),
      milliseconds(segment.forward),
      milliseconds(segment.backward),
      segment.tapes.map(formatBytes).join(", "),
    ]);
  }
  const parts = Object.entries({
    [report.owner]: memory.process,
    "frozen weights": memory.frozen,
    "trained weights": memory.trainable,
    gradients: memory.gradients,
    optimizer: memory.optimizer,
    "batch inputs": memory.batch,
    ...(memory.checks > 0 && { "replay checks": memory.checks }),
    stash: memory.stash,
    workspace: memory.workspace,
    ...(memory.temporary > 0 && { temporary: memory.temporary }),
    peak: memory.peak,
  }).map(([name, bytes]) => [name, formatBytes(bytes)]);
  const points = report.curve.filter((_, i) => i % Math.ceil(report.curve.length / 12) === 0 || i === report.curve.length - 1);
  return [
    table(rows),
    `schedule (${report.schedule.length} steps)\n  ${report.schedule.join(", ")}`,
    `memory, ${times} times\n${table(parts)}`,
    ...(report.offload ? [`offload, ${times} bandwidth\n${table(offloadRows(report.offload))}`] : []),
    `${formatSummary(report)}\nwithout gradient checkpointing the peak is ${formatBytes(report.withoutCheckpointing)}`,
    `fastest schedules over the range of memory\n${table([["all", "activations", "overhead"], ...points.map((point) => [formatBytes(point.memory), formatBytes(point.activations), percent(point.overhead)])])}`,
    ...(svg === undefined ? [] : [`drawn into ${svg}`]),
  ].join("\n\n");
}

function offloadRows({ out, in: into, waited, bandwidth }: NonNullable<Report["offload"]>): string[][] {
  return [
    ["out in a step", formatBytes(out), `${formatBytes(bandwidth.out)}/s`],
    ["in", formatBytes(into), `${formatBytes(bandwidth.in)}/s`],
    ["waiting", milliseconds(waited), ""],
  ];
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  return rows.map((row) => `  ${row.map((cell, column) => cell.padEnd(widths[column]!)).join("  ")}`.trimEnd()).join("\n");
}

function draw(path: string, plan: ModelPlan, report: Report): void {
  const { chain, schedule } = plan.largest;
  const chart = lineChart({
    title: "Fastest schedules: overhead against memory",
    x: { label: "stash and workspace", unit: 2 ** 20, format: formatBytes },
    y: { label: "overhead", unit: 0.01, format: (share) => `${Math.round(100 * share)} %` },
    series: [
      { name: "fastest schedules", points: report.curve.map(({ activations, overhead }) => [activations, overhead]) },
      { name: "chosen", points: [[report.memory.stash + report.memory.workspace, report.overhead]], marks: true },
    ],
  });
  try {
    writeFileSync(path, drawing([chart, memoryTimeline(simulate(chain, schedule), "Memory of one step", formatBytes)]));
  } catch (error) {
    throw fileError("write", path, error);
  }
}
