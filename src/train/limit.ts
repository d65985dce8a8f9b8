import { existsSync, readFileSync } from "node:fs";
import { UserError } from "../errors.ts";
import type { TrainConfig } from "./config.ts";
import { formatBytes } from "./memory.ts";
import { type Checkpointing, LimitError } from "./planning.ts";

/**
 * What the process takes on top of what is planned once training runs: optimised code of the kernels and of the step, and
 * the sessions of the native products.
 */
const GROWTH = 64 << 20;

/** Share of the free memory that `--memory auto` takes. */
const AUTO_SHARE = 0.8;

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  k: 2 ** 10,
  m: 2 ** 20,
  g: 2 ** 30,
};

/** Reads `1.5GiB`, `800MB`, `auto` or `50%` (of the free memory). @throws {UserError} */
export function parseMemory(text: string, free: () => number = freeMemory): number {
  if (text === "auto") return Math.floor(AUTO_SHARE * free());
  const [, number, unit] = /^(\d+(?:\.\d+)?)\s*([a-z%]*)$/i.exec(text.trim()) ?? [];
  const value = Number(number);
  if (number !== undefined && unit === "%" && value > 0 && value <= 100) return Math.floor((value / 100) * free());
  const factor = UNITS[unit?.toLowerCase() ?? "none"];
  if (number === undefined || factor === undefined || value <= 0) {
    throw new UserError(
      `--memory takes a size such as 1.5GiB or 800MB, a share of the free memory such as 50%, or auto; got ${JSON.stringify(text)}`,
    );
  }
  return Math.floor(value * factor);
}

/** Bytes that this process may still take: the machine's available memory, or what is left of its control group's. */
export function freeMemory(): number {
  const available = /^MemAvailable:\s+(\d+) kB/m.exec(textOf("/proc/meminfo") ?? "")?.[1];
  const machine = available === undefined ? Infinity : 1024 * Number(available);
  const limit = Number(textOf("/sys/fs/cgroup/memory.max"));
  const used = Number(textOf("/sys/fs/cgroup/memory.current"));
  const group = Number.isFinite(limit) && limit > 0 && Number.isFinite(used) ? limit - used : Infinity;
  const free = Math.min(machine, group);
  if (!Number.isFinite(free))
    throw new UserError("--memory: the free memory of this system is not known; give a size such as 1.5GiB");
  return free;
}

function textOf(path: string): string | null {
  return existsSync(path) ? readFileSync(path, "utf8").trim() : null;
}

/** Bytes of this process that no plan can change: runtime, tokenizer and data as they are now, and what is to come. */
export function processBase(): number {
  return process.memoryUsage.rss() + GROWTH;
}

/**
 * How the schedule of a run is found. A memory limit is the limit of the whole process: `base` of it is gone already.
 * `--no-gradient-checkpointing` keeps every tape.
 * @throws {UserError} a limit without gradient checkpointing, or below the base
 */
export function checkpointingOf(
  config: Pick<TrainConfig, "gradientCheckpointing" | "strategy" | "memory">,
  base: number,
): Checkpointing {
  if (config.memory === undefined) return { name: config.gradientCheckpointing ? config.strategy : "off" };
  if (!config.gradientCheckpointing)
    throw new UserError("--memory needs gradient checkpointing, which is switched off; leave one of the two out");
  const limit = parseMemory(config.memory);
  if (limit <= base) {
    throw new UserError(`--memory ${config.memory}: the process alone needs ${formatBytes(base)} before any weight is loaded`);
  }
  return { name: "budget", bytes: limit - base };
}

/** A `LimitError` of planning in the user's terms: the least limit that works, and what lowers it. */
export function explainLimit(error: unknown, memory: string | undefined, planned: number, base: number): unknown {
  if (!(error instanceof LimitError) || memory === undefined) return error;
  const fixed = planned - error.limit;
  return new UserError(
    `--memory ${memory} is not enough: the least that works is ${formatBytes(base + fixed + error.least)} ` +
      `(${formatBytes(base)} for the process, ${formatBytes(fixed)} for weights, gradients and optimizer, ${formatBytes(error.least)} for activations). ` +
      "A shorter --sequence-length, a smaller --batch-size (with more --gradient-accumulation), a lower --rank or --method lora lower it",
  );
}
