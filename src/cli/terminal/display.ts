import { relative } from "node:path";
import type { SamplePart } from "../../data/samples/sample.ts";
import { formatSummary } from "../../schedule/summary.ts";
import { metricTexts } from "../../objectives/index.ts";
import type { JoinEvent, LeadEvent } from "../../library/fleet/federate.ts";
import {
  type DoneEvent,
  type EventSink,
  lineOf,
  type RunEvent,
  type StartEvent,
  type VerbEvent,
} from "../../train/run/events.ts";
import { formatBytes } from "../../base/bytes.ts";
import { formatDuration } from "../../base/duration.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { createProgress, type Progress, stepTimeText, temporaryText } from "./progress.ts";

/** Where a run's events are shown. */
export interface Display {
  readonly emit: EventSink;
}

/** `--json`: one line of JSON on standard output. */
export function printEvent(event: RunEvent | VerbEvent | LeadEvent | JoinEvent): void {
  process.stdout.write(`${JSON.stringify(lineOf(event))}\n`);
}

/** JSON lines on standard output, or text on standard error. `file` is the configuration's, for a reader of the text. */
export function createDisplay(
  json: boolean,
  { file, progress = createProgress() }: { readonly file?: string | undefined; readonly progress?: Progress } = {},
): Display {
  // Programs are told what comes of preparations.
  if (json) return { emit: (event) => event.type !== "prepare" && event.type !== "weights" && printEvent(event) };
  return { emit: (event) => showEvent(event, progress, file) };
}

function showEvent(event: RunEvent, progress: Progress, file: string | undefined): void {
  switch (event.type) {
    case "download": {
      const { file: name, bytes, size } = event;
      return progress.say(`downloading     ${name}: ${Math.floor((10 * bytes) / Math.max(1, size))}0 % of ${formatBytes(size)}`);
    }
    case "prepare":
      return progress.prepare(event);
    case "weights":
      return progress.weights(event);
    case "start":
      for (const line of startLines(event, file)) progress.say(line);
      return;
    case "estimate": {
      const { steps, epochs, secondsPerStep, seconds } = event;
      progress.say(
        `steps           ${steps} of about ${secondsPerStep.toPrecision(2)} s, ${Number(epochs.toFixed(2))} passes over the data`,
      );
      return progress.say(
        `time            ${formatDuration(seconds)} for all steps; evaluations come on top. Nothing was trained or written (--dry-run)`,
      );
    }
    case "resume":
      return progress.say(`resumed         after step ${event.step}`);
    case "step":
      return progress.step(event);
    case "evaluation": {
      const when = event.step === 0 ? "before training" : `after step ${event.step}`;
      return progress.say(`held-out loss ${event.loss.toFixed(4)} (${metricTexts(event.metrics).join(", ")}) ${when}`);
    }
    case "checkpoint":
      // Every few minutes and without news.
      return;
    case "memory":
      return progress.say(`memory          ${formatBytes(event.limit)} from now on: ${formatSummary(event.schedule)}`);
    case "sample":
      progress.say(`prompt          ${event.prompt}`);
      if (event.before !== null) progress.say(`before          ${event.before}`);
      return progress.say(`after           ${event.after}`);
    case "done": {
      progress.say(
        `peak memory     predicted ${formatBytes(event.predictedPeak)}, measured ${formatBytes(event.measuredPeak)}${temporaryText(event.temporary)}, ` +
          `without gradient checkpointing ${formatBytes(event.withoutCheckpointing)}; process ${formatBytes(event.processPeak)}`,
      );
      progress.say(`time            ${formatDuration(event.seconds)}${stepTimeText(event)}`);
      if (event.nodes) progress.say(`nodes           ${nodesText(event.nodes)}`);
      if (event.bestStep !== null) progress.say(`best            the weights after step ${event.bestStep} are exported`);
      const what = event.method !== "full" ? `${RUN_FILES.adapterConfig}, ${RUN_FILES.adapter}` : "a model folder";
      return progress.say(
        `written         ${relative(process.cwd(), event.output) || event.output}: ${what}, ${RUN_FILES.report}, ${RUN_FILES.metrics}, ${RUN_FILES.segments}/`,
      );
    }
    case "stop": {
      const why = event.reason === "patience" ? "the held-out evaluations no longer get better" : "interrupted";
      return progress.say(`stopped         after step ${event.step}: ${why}`);
    }
    case "warning":
    case "message":
      return progress.say(event.text);
  }
}

/** Returns what is about to be trained, before the first step. */
function startLines(event: StartEvent, file: string | undefined): string[] {
  const { parameters, predictedPeak, withoutCheckpointing } = event;
  const share = ((100 * parameters.trainable) / parameters.all).toFixed(2);
  const further = event.adapter === null ? "" : `, from ${event.adapter}`;
  const weighted = event.weighted ? " (some count more than others)" : "";
  const targets = event.labelled === 0 ? "texts judged as a whole" : `${event.labelled} with a target`;
  const heldOut = event.heldOut > 0 ? `; ${event.heldOut} held out` : "";
  return [
    ...(file === undefined ? [] : [`configuration   ${relative(process.cwd(), file) || file}`]),
    `model           ${event.model}: ${event.family}, ${event.layers} layers, ${millions(parameters.all)} parameters`,
    `trained         ${event.method}, ${millions(parameters.trainable)} parameters (${share} %)${further}`,
    `data            ${event.examples} examples, ${event.tokens} tokens, ${targets}${weighted}${heldOut}`,
    `memory          ${formatBytes(predictedPeak)} predicted with ${strategyText(event)}, ${formatBytes(withoutCheckpointing)} without`,
    `schedule        ${formatSummary(event.schedule)}`,
    `device          ${event.device}`,
    ...(event.stream === null ? [] : [`stream          ${event.stream}`]),
    ...(event.offload === null ? [] : [`offload         ${event.offload}`]),
    ...event.notes.map((note) => `note            ${note}`),
    `first example   ${event.firstExample.map(markPart).join("")}`,
  ];
}

function nodesText({ sent, received, elsewhere }: NonNullable<DoneEvent["nodes"]>): string {
  const count = Number(elsewhere.toFixed(1));
  return `other processes learned ${count} micro-batches a step; ${formatBytes(sent)} sent and ${formatBytes(received)} received a step`;
}

function strategyText({ limit, limitBytes, strategy, automatic }: StartEvent): string {
  if (limit !== null) {
    // `auto` and shares do not say how much they are.
    const bytes = limitBytes === null || /^[\d.]+\s*[kmgi]*b?$/i.test(limit) ? "" : ` (${formatBytes(limitBytes)})`;
    return `the fastest schedule within ${limit}${bytes} for the process`;
  }
  if (automatic !== null) return automaticText(automatic);
  return strategy === "off" ? "gradient checkpointing off" : `gradient checkpointing (${strategy})`;
}

/** Says what the default has taken, and what the least would be. */
function automaticText({ limit, everything, by, leastPeak }: NonNullable<StartEvent["automatic"]>): string {
  if (limit === null) return "gradient checkpointing (per-segment: the least)";
  const share =
    by === "everything" ? `${Math.round((100 * limit) / everything)} % of what keeping everything takes` : "half of what is free";
  return `the fastest schedule within ${formatBytes(limit)} for activations (${share}), ${formatBytes(leastPeak)} with --strategy per-segment`;
}

function millions(count: number): string {
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} thousand` : `${(count / 1e6).toFixed(2)} million`;
}

/** Masked text in brackets. */
function markPart(part: SamplePart): string {
  const text = part.text.replaceAll("\n", "\\n");
  return part.trained ? text : `[${text}]`;
}
