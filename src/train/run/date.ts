import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { TrainConfig } from "../config.ts";
import { RUN_FILES } from "./folder.ts";

/**
 * The day that chat templates take for today, `2026-11-24`: the one given, that of the run's start when it is resumed, else today.
 * It decides tokens, so that a run goes on with its own however long it takes.
 */
export function runDate({ date, resume, output }: Pick<TrainConfig, "date" | "resume" | "output">, now = new Date()): string {
  return date ?? (resume ? keptDate(output) : null) ?? formatDate(now);
}

/** Midnight of a day, in local time. */
export function startOfDay(date: string): Date {
  return new Date(`${date}T00:00:00`);
}

function formatDate(now: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  return `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
}

/** Returns the date of the configuration in a run folder; null where there is none, or none that can be read. */
function keptDate(folder: string): string | null {
  try {
    const { date } = JSON.parse(readFileSync(join(folder, RUN_FILES.config), "utf8")) as { date?: unknown };
    return typeof date === "string" && DATE.test(date) ? date : null;
  } catch {
    return null;
  }
}

const DATE = /^\d{4}-\d\d-\d\d$/;
