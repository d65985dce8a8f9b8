import { relative } from "node:path";
import type { PrepareProgress } from "../../data/samples/prepare.ts";
import type { EventSink, RunEvent, VerbEvent } from "../../train/run/events.ts";
import { formatBytes } from "../../base/bytes.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { createProgress, formatDuration, type Progress, stepTimeText, temporaryText } from "./progress.ts";

/** Where a run's events are shown. */
export interface Display {
  readonly emit: EventSink;
  /** A line that is no event of its own kind. */
  say(text: string): void;
  warn(text: string): void;
  prepare(report: PrepareProgress): void;
}

/** `--json`: one line of JSON on standard output. */
export function printEvent(event: RunEvent | VerbEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** JSON lines on standard output, or text on standard error. */
export function createDisplay(json: boolean, progress: Progress = createProgress()): Display {
  const emit: EventSink = json ? printEvent : (event) => showEvent(event, progress);
  return {
    emit,
    say: (text) => emit({ type: "message", text }),
    warn: (text) => emit({ type: "warning", text }),
    // Programs are told what comes of it.
    prepare: json ? () => {} : (report) => progress.prepare(report),
  };
}

function showEvent(event: RunEvent, progress: Progress): void {
  switch (event.type) {
    case "start":
      // Said in lines of its own, with what no program wants to know.
      return;
    case "resume":
      return progress.say(`resumed         after step ${event.step}`);
    case "step":
      return progress.step(event);
    case "evaluation": {
      const when = event.step === 0 ? "before training" : `after step ${event.step}`;
      return progress.say(
        `held-out loss ${event.loss.toFixed(4)} (perplexity ${event.perplexity.toFixed(2)}, token accuracy ${(100 * event.accuracy).toFixed(1)} %) ${when}`,
      );
    }
    case "checkpoint":
      // Every few minutes and without news.
      return;
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
      if (event.bestStep !== null) progress.say(`best            the weights after step ${event.bestStep} are exported`);
      const what = event.method === "lora" ? `${RUN_FILES.adapterConfig}, ${RUN_FILES.adapter}` : "a model folder";
      return progress.say(
        `written         ${relative(process.cwd(), event.output) || event.output}: ${what}, ${RUN_FILES.metrics}, ${RUN_FILES.segments}/`,
      );
    }
    case "stop": {
      const why = event.reason === "patience" ? "the held-out loss no longer falls" : "interrupted";
      return progress.say(`stopped         after step ${event.step}: ${why}`);
    }
    case "warning":
    case "message":
      return progress.say(event.text);
  }
}
