import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { RUN_FILES } from "../train/run/folder.ts";
import type { NewEvent } from "./events.ts";

/** Numbers of a step as they are told: those of OpenAI's events, and those that training has besides. */
export type MetricsData = Readonly<Record<string, number | null>>;

const NAMES: Readonly<Record<string, string>> = {
  learningRate: "learning_rate",
  gradientNorm: "gradient_norm",
  tokensPerSecond: "tokens_per_second",
  secondsLeft: "seconds_left",
  lossScale: "loss_scale",
};

/** A line of `metrics.jsonl`, which is an event of a run too. */
export interface MetricsLine extends Readonly<Record<string, unknown>> {
  readonly type: string;
  readonly step: number;
  readonly loss: number | null;
}

/** The event of a step or an evaluation. */
export function metricsEvent(line: MetricsLine): NewEvent & { readonly once: NonNullable<NewEvent["once"]> } {
  const { type, step, loss } = line;
  const numbers = Object.entries(line).filter(([key, value]) => !["step", "loss"].includes(key) && typeof value === "number");
  if (type === "evaluation") {
    const named = numbers.map(([key, value]) => [key === "accuracy" ? "valid_mean_token_accuracy" : `valid_${key}`, value]);
    const data = { step, valid_loss: loss, ...Object.fromEntries(named) } as MetricsData;
    return { message: `Step ${step}: held-out loss ${said(loss)}`, type: "metrics", data, once: { kind: "evaluation", step } };
  }
  const data = {
    step,
    train_loss: loss,
    ...Object.fromEntries(numbers.map(([key, value]) => [NAMES[key] ?? key, value])),
  } as MetricsData;
  const of = typeof line["steps"] === "number" ? `/${line["steps"]}` : "";
  return { message: `Step ${step}${of}: training loss ${said(loss)}`, type: "metrics", data, once: { kind: "step", step } };
}

const said = (loss: number | null): string => (typeof loss === "number" ? loss.toFixed(4) : "none");

/** The steps and evaluations that a run folder holds, in their order. A last line that was cut short is none. */
export function readMetrics(run: string): MetricsLine[] {
  const path = join(run, RUN_FILES.metrics);
  if (!existsSync(path)) return [];
  return readFileSync(path, "utf8")
    .split("\n")
    .flatMap((text) => {
      try {
        const line = JSON.parse(text) as MetricsLine;
        return typeof line.step === "number" ? [line] : [];
      } catch {
        return [];
      }
    });
}

/** Tokens that a run has trained on. */
export function trainedTokens(lines: readonly MetricsLine[]): number {
  return lines.reduce((sum, { type, tokens }) => sum + (type === "step" && typeof tokens === "number" ? tokens : 0), 0);
}

/** The columns of OpenAI's result files, then those that training has besides. */
const COLUMNS = [
  "step",
  "train_loss",
  "train_accuracy",
  "valid_loss",
  "valid_mean_token_accuracy",
  "learning_rate",
  "gradient_norm",
  "tokens",
  "seconds",
] as const;

/** The metrics of a run as CSV, a line for each step. What was not measured is empty. */
export function metricsTable(lines: readonly MetricsLine[]): string {
  const rows = new Map<number, Record<string, unknown>>();
  for (const line of lines) {
    const { step, ...data } = metricsEvent(line).data as Record<string, unknown>;
    rows.set(Number(step), { ...rows.get(Number(step)), ...data, step });
  }
  const sorted = [...rows.values()].sort((a, b) => Number(a["step"]) - Number(b["step"]));
  const text = (value: unknown) => (typeof value === "number" ? String(value) : "");
  return [COLUMNS.join(","), ...sorted.map((row) => COLUMNS.map((name) => text(row[name])).join(","))].join("\n") + "\n";
}

/** The metrics of a checkpoint's step, as OpenAI's checkpoints have them. */
export function metricsAt(lines: readonly MetricsLine[], step: number): MetricsData {
  const at = lines.filter((line) => line.step === step).map((line) => metricsEvent(line).data as MetricsData);
  const all: MetricsData = Object.assign({}, ...at);
  const { train_loss, valid_loss, valid_mean_token_accuracy } = all;
  const given = { train_loss, valid_loss, full_valid_loss: valid_loss, valid_mean_token_accuracy };
  const known = Object.entries({ ...given, full_valid_mean_token_accuracy: valid_mean_token_accuracy });
  return { step, ...(Object.fromEntries(known.filter(([, value]) => value !== undefined)) as MetricsData) };
}
