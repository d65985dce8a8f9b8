import type { PrepareProgress } from "../../data/samples/prepare.ts";
import type { WeightCacheProgress } from "../../load/stored/cache.ts";
import { metricTexts } from "../../objectives/index.ts";
import type { DoneEvent, StepEvent } from "../../train/run/events.ts";
import { formatBytes } from "../../base/bytes.ts";
import { formatDuration } from "../../base/duration.ts";
import { canRewrite, columnsOf } from "./terminal.ts";

/** Describes what is shown of a step. */
export type StepReport = Pick<
  StepEvent,
  "step" | "steps" | "loss" | "learningRate" | "tokensPerSecond" | "memory" | "secondsLeft" | "lossScale"
> &
  Partial<Pick<StepEvent, "metrics">>;

/** Shows steps: one line that is rewritten in a terminal, a plain line now and then elsewhere. */
export interface Progress {
  step(report: StepReport): void;
  /** How far a long preparation is. */
  prepare(report: PrepareProgress): void;
  /** How far the conversion of weights is. */
  weights(report: WeightCacheProgress): void;
  /** A line of its own. */
  say(text: string): void;
}

const PLAIN_INTERVAL_MS = 5_000;

export function createProgress(
  stream: NodeJS.WriteStream = process.stderr,
  now: () => number = Date.now,
  env: NodeJS.ProcessEnv = process.env,
): Progress {
  const terminal = canRewrite(stream, env);
  let lastPlain = -Infinity;
  let dirty = false;
  const clear = () => {
    if (dirty) stream.write("\r\u001b[K");
    dirty = false;
  };
  const pass = (lineOf: (width: number) => string, isLast: boolean) => {
    if (terminal) {
      clear();
      const width = columnsOf(stream, env) - 1;
      stream.write(lineOf(width).slice(0, width));
      dirty = true;
      if (isLast) {
        stream.write("\n");
        dirty = false;
      }
    } else if (now() - lastPlain >= PLAIN_INTERVAL_MS || isLast) {
      stream.write(`${lineOf(Infinity)}\n`);
      lastPlain = now();
    }
  };
  return {
    step: (report) => pass((width) => formatStep(report, width), report.step === report.steps),
    prepare(report) {
      if (report.seconds >= QUIET_SECONDS) pass(() => formatPreparation(report), false);
    },
    weights(report) {
      if (report.seconds >= QUIET_SECONDS) pass(() => formatWeights(report), false);
    },
    say(text) {
      clear();
      stream.write(`${text}\n`);
    },
  };
}

/** A preparation that is over sooner is not worth a word. */
const QUIET_SECONDS = 2;

export function formatPreparation({ path, bytes, size, seconds }: PrepareProgress): string {
  const left = bytes > 0 ? `, ${formatDuration((seconds / bytes) * (size - bytes))} left` : "";
  return `tokenizing      ${path}: ${formatBytes(bytes)} of ${formatBytes(size)}, ${(bytes / 1e6 / seconds).toFixed(1)} MB/s${left}`;
}

const STAGES = { making: "converting", verifying: "checking", waiting: "waiting for" } as const;

function formatWeights({ stage, path, bytes, size, resumed, seconds }: WeightCacheProgress): string {
  const rate = (bytes - resumed) / seconds;
  const left = rate > 0 ? `, ${(rate / 1e6).toFixed(0)} MB/s, ${formatDuration((size - bytes) / rate)} left` : "";
  return `weights         ${STAGES[stage]} ${path}: ${formatBytes(bytes)} of ${formatBytes(size)}${left}`;
}

/** One line, of which a narrow terminal shows what matters most: how far it is, the loss, the time left. */
function formatStep(report: StepReport, width: number): string {
  const left = `${formatDuration(report.secondsLeft)} left`;
  const parts = [`step ${report.step}/${report.steps}`, `loss ${report.loss.toFixed(4)}`];
  const [metric = ""] = metricTexts(report.metrics ?? {});
  const others = [
    ...(metric === "" ? [] : [metric]),
    `${Math.round(report.tokensPerSecond)} tokens/s`,
    `memory ${formatBytes(report.memory)}`,
    `lr ${report.learningRate.toExponential(2)}`,
    ...(report.lossScale === undefined ? [] : [`scale ${report.lossScale}`]),
  ];
  const line = (count: number) => [...parts, ...others.slice(0, count), left].join("  ");
  let shown = others.length;
  while (shown > 0 && line(shown).length > width) shown--;
  return line(shown);
}

/** Returns what a step's programs took, and were planned to take; empty where no step has run. */
export function stepTimeText({ forwardBackward }: Pick<DoneEvent, "forwardBackward">): string {
  if (!forwardBackward) return "";
  const { measured, predicted } = forwardBackward;
  const planned = predicted === null ? "" : `predicted ${formatSeconds(predicted)}, `;
  return `; forward and backward of a step ${planned}measured ${formatSeconds(measured)}`;
}

function formatSeconds(seconds: number): string {
  return seconds < 1 ? `${(1000 * seconds).toPrecision(3)} ms` : `${seconds.toPrecision(3)} s`;
}

/** The part of a peak that ONNX Runtime took for itself; empty where there is none. */
export function temporaryText(bytes: number): string {
  return bytes === 0 ? "" : ` (${formatBytes(bytes)} of it ONNX Runtime's temporary memory)`;
}
