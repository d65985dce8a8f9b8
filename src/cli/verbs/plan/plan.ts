import { z } from "zod";
import { formatBytes } from "../../../base/bytes.ts";
import { flagName } from "../../../base/names.ts";
import { plan, planKeys, type PlanOptions, planOptionsSchema, type PlanReport } from "../../../library/plan.ts";
import { formatSummary } from "../../../schedule/summary.ts";
import { HELP_GROUPS } from "../../../train/config.ts";
import { describeFlags, flagsOf, parseOnlyFlags } from "../../flags/flags.ts";
import { readFlags } from "../../flags/model-flags.ts";
import { createVerbSink } from "../../terminal/verb-events.ts";
import { planChain } from "./plan-chain.ts";
import { print } from "../../terminal/output.ts";

const chainFlags = z.strictObject({
  chain: z.string().min(1).describe("JSON file with the sizes and times of a chain of segments"),
  memory: z.string().min(1).describe("limit in the unit of the chain's sizes; several with commas between them"),
  json: z.boolean().default(false).describe("print JSON: an object, or an array when there are several limits"),
});

const json = { json: z.boolean().default(false).describe("print JSON") };
const shown = planKeys.extend(json);

/** A command line of `train` may be given as it is. */
const modelFlags = planOptionsSchema.extend(json);

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

${describeFlags(shown, HELP_GROUPS)}
  ${flagName("chain")} ${flagsOf(chainFlags)[0]!.description}`;
}

export async function run(args: readonly string[]): Promise<number> {
  if (args.some((arg) => arg === "--chain" || arg.startsWith("--chain="))) {
    const { chain, memory, json } = readFlags("plan", chainFlags, args);
    return planChain(chain, memory, json);
  }
  // As they were given: an adapter must agree with what was asked for, and not with defaults.
  const { json = false, ...values } = parseOnlyFlags("plan", modelFlags, args);
  const options = values as unknown as PlanOptions;
  const report = await plan(options, { sink: createVerbSink(false) });
  print(json ? JSON.stringify(report) : formatReport(report, options.measure ? "measured" : "modelled", options.svg));
  return 0;
}

const milliseconds = (seconds: number): string => `${(1000 * seconds).toPrecision(3)} ms`;

const percent = (share: number): string => `${(100 * Math.max(0, share)).toFixed(1)} %`;

function formatReport(report: PlanReport, times: "measured" | "modelled", svg: string | undefined): string {
  const kinds = new Map<string, { count: number; segment: PlanReport["segments"][number] }>();
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
    ...(memory.window > 0 && { "window of weights": memory.window }),
    "trained weights": memory.trainable,
    gradients: memory.gradients,
    optimizer: memory.optimizer,
    "batch inputs": memory.batch,
    ...(memory.carried > 0 && { "carried values": memory.carried }),
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
    ...(report.stream === null
      ? []
      : [
          `weights\n  ${report.stream.text}\n  waiting for them ${milliseconds(report.stream.waited)} at ${formatBytes(report.stream.bandwidth)}/s`,
        ]),
    ...(report.offload ? [`offload, ${times} bandwidth\n${table(offloadRows(report.offload))}`] : []),
    `${formatSummary(report)}\nwithout gradient checkpointing the peak is ${formatBytes(report.withoutCheckpointing)}`,
    `fastest schedules over the range of memory\n${table([["all", "weights", "activations", "overhead"], ...points.map((point) => [formatBytes(point.memory), formatBytes(point.frozen), formatBytes(point.activations), percent(point.overhead)])])}`,
    ...(svg === undefined ? [] : [`drawn into ${svg}`]),
  ].join("\n\n");
}

function offloadRows({ out, in: into, waited, bandwidth }: NonNullable<PlanReport["offload"]>): string[][] {
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
