import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../../base/errors.ts";
import { writeTextAtomic } from "../../../base/files/files.ts";
import { peakProcessMemory } from "../../../base/process/free-memory.ts";
import { readLines } from "../../../data/examples/lines.ts";
import { simulate } from "../../../schedule/simulate.ts";
import { formatSummary } from "../../../schedule/summary.ts";
import { type Timeline, timelineOf } from "../../../schedule/timeline.ts";
import type { TrainConfig } from "../../config.ts";
import type { Engine } from "../../step/engine.ts";
import { type EventSink, lineOf, type StartEvent } from "../events.ts";
import { RUN_FILES } from "../folder.ts";
import { createRunCurves, type RunCurves } from "./curves.ts";
import { type Facts, factsIn } from "./facts.ts";
import { reportPage } from "./page.ts";

/** The page that shows a run: made of its events while it goes on, or anew of its folder. */
export interface Report {
  /** Takes the run's events. The page is written at each checkpoint and at the run's end. */
  readonly take: EventSink;
  /** Writes why the run failed. */
  fail(error: unknown): void;
}

export interface ReportOptions {
  readonly engine: Pick<Engine, "chain" | "schedule" | "plan" | "predicted" | "withoutCheckpointing" | "measuredPeak">;
  readonly config: TrainConfig;
  readonly start: StartEvent;
  /** The answer before training; null in a resumed run. */
  readonly sample: { readonly prompt: string; readonly answer: string } | null;
  /** Told when the page cannot be written, once: no run ends because of it. */
  readonly warn: (text: string) => void;
}

/** Warnings that are shown, at most. */
const MOST_WARNINGS = 50;

/** Begins the report of a run in its folder, where `metrics.jsonl` has what a resumed run has done already, and writes it. */
export function openReport(folder: string, { engine, config, start, sample, warn }: ReportOptions): Report {
  const path = join(folder, RUN_FILES.report);
  const curves = readCurves(folder);
  const known = config.resume ? readFacts(path) : null;
  const timeline = latestTimeline(engine);
  let facts: Facts = {
    version: 1,
    run: runFacts(start),
    memory: memoryFacts(engine, timeline()),
    sample: sample ? { prompt: sample.prompt, before: sample.answer, after: null } : (known?.sample ?? null),
    end: { reason: "running", message: null, bestStep: null },
    warnings: known?.warnings ?? [],
  };
  let isWarned = false;
  const write = () => {
    // The page's texts are not to lie on top of garbage: the memory belongs to the next step.
    Bun.gc(true);
    facts = { ...facts, memory: memoryFacts(engine, timeline()) };
    try {
      writeTextAtomic(path, reportPage({ config, curves, facts, now: new Date() }));
    } catch (error) {
      // Whatever is wrong with a page, what was trained is worth more.
      if (!isWarned) warn(`the run goes on without a report: ${messageOf(error)}`);
      isWarned = true;
    }
  };
  write();
  return {
    take(event) {
      switch (event.type) {
        case "step":
        case "evaluation":
          curves.add(lineOf(event));
          return;
        case "warning":
          facts = { ...facts, warnings: [...facts.warnings, event.text].slice(-MOST_WARNINGS) };
          return;
        case "sample": {
          const { prompt, after } = event;
          const before = event.before ?? (facts.sample?.prompt === prompt ? facts.sample.before : null);
          facts = { ...facts, sample: { prompt, before, after } };
          return;
        }
        case "checkpoint":
          return write();
        case "done":
          if (event.reason === "dry-run") return;
          facts = { ...facts, end: { reason: event.reason, message: null, bestStep: event.bestStep } };
          return write();
        default:
          return;
      }
    },
    fail(error) {
      facts = { ...facts, end: { reason: "failed", message: messageOf(error), bestStep: null } };
      write();
    },
  };
}

/**
 * Makes the report of a run anew, of its `metrics.jsonl` and of what an older report holds, and returns what it is made of.
 * @throws {UserError} files that cannot be read or written
 */
export function remakeReport(folder: string, config: TrainConfig): { readonly path: string; readonly curves: RunCurves } {
  const path = join(folder, RUN_FILES.report);
  const curves = readCurves(folder);
  // The folder may have been moved since.
  const moved = { ...config, output: folder };
  writeTextAtomic(path, reportPage({ config: moved, curves, facts: readFacts(path), now: new Date() }));
  return { path, curves };
}

/** Reads the curves of a run's `metrics.jsonl`. Lines that are damaged are passed over. */
function readCurves(folder: string): RunCurves {
  const path = join(folder, RUN_FILES.metrics);
  const curves = createRunCurves();
  if (!existsSync(path)) return curves;
  for (const { text } of readLines(path)) {
    try {
      curves.add(JSON.parse(text ?? "") as Record<string, unknown>);
    } catch {
      // A run that is under way may be writing the last line.
    }
  }
  return curves;
}

/** Returns the facts of an older report; null where there is none, or none that can be read. */
function readFacts(path: string): Facts | null {
  try {
    return factsIn(readFileSync(path, "utf8"));
  } catch {
    return null;
  }
}

function runFacts(start: StartEvent): Facts["run"] {
  const { family, layers, parameters, examples, tokens, labelled, heldOut, strategy, device, offload, notes } = start;
  return {
    family,
    layers,
    parameters: { all: parameters.all, trainable: parameters.trainable },
    examples,
    tokens,
    labelled,
    heldOut,
    strategy,
    schedule: formatSummary(start.schedule),
    device,
    offload,
    notes: [...notes],
    firstExample: [...start.firstExample],
  };
}

/** The timeline of an engine's schedule, which is simulated again when there is another one. */
function latestTimeline(engine: ReportOptions["engine"]): () => Timeline {
  let drawn: { readonly schedule: Engine["schedule"]; readonly timeline: Timeline } | null = null;
  return () => {
    const { chain, schedule } = engine;
    if (drawn?.schedule !== schedule) drawn = { schedule, timeline: timelineOf(simulate(chain, schedule)) };
    return drawn.timeline;
  };
}

function memoryFacts(engine: ReportOptions["engine"], timeline: Timeline): Facts["memory"] {
  const { stash, workspace, temporary, peak } = engine.predicted;
  return {
    resident: { ...engine.plan.fixed },
    stash,
    workspace,
    temporary,
    peak,
    withoutCheckpointing: engine.withoutCheckpointing.peak,
    limit: engine.plan.automatic?.limit ?? null,
    timeline: { slots: [...timeline.slots], moves: [...timeline.moves] },
    measured: engine.measuredPeak,
    process: peakProcessMemory(),
  };
}
