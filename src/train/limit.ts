import { existsSync, readFileSync } from "node:fs";
import { UserError } from "../errors.ts";
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
  const size = parseSize(text);
  if (size === null) {
    throw new UserError(
      `--memory takes a size such as 1.5GiB or 800MB, a share of the free memory such as 50%, or auto; got ${JSON.stringify(text)}`,
    );
  }
  return "share" in size ? Math.floor(size.share * free()) : size.bytes;
}

/** Reads a size (`1.5GiB`, `800MB`, `1e9`) or a share above 0 and up to 1 (`50%`); null is neither. */
export function parseSize(text: string): { readonly bytes: number } | { readonly share: number } | null {
  const [, number, unit = ""] = /^(\d+(?:\.\d+)?(?:e\d+)?)\s*([a-z%]*)$/i.exec(text.trim()) ?? [];
  const value = Number(number);
  if (!(value > 0)) return null;
  if (unit === "%") return value <= 100 ? { share: value / 100 } : null;
  const factor = UNITS[unit.toLowerCase()];
  return factor === undefined ? null : { bytes: Math.floor(value * factor) };
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

/**
 * Most bytes of memory that this process has had resident. On Linux the high-water mark of its own address space:
 * getrusage's also counts the process that started it, whose memory a child shares until it runs its own program.
 */
export function peakProcessMemory(): number {
  const own = /^VmHWM:\s+(\d+) kB/m.exec(textOf("/proc/self/status") ?? "")?.[1];
  return 1024 * (own === undefined ? process.resourceUsage().maxRSS : Number(own));
}

/** Bytes of this process that no plan can change: runtime, tokenizer and data as they are now, and what is to come. */
export function processBase(): number {
  return process.memoryUsage.rss() + GROWTH;
}

/**
 * Runs `plan`. A limit that it cannot keep is told in the user's terms: the least limit that works, and what lowers it.
 * `base` of a budget's limit is gone before anything is planned.
 * @throws {UserError}
 */
export function explainingLimit<T>(memory: string | undefined, strategy: Checkpointing, base: number, plan: () => T): T {
  try {
    return plan();
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    const lower =
      "A shorter --sequence-length, a smaller --batch-size (with more --gradient-accumulation), a lower --rank or --method lora lower it";
    if (strategy.name !== "budget" || memory === undefined) {
      throw new UserError(`--activation-memory is not enough: the least that works is ${formatBytes(error.least)}. ${lower}`);
    }
    const fixed = strategy.bytes - error.limit;
    throw new UserError(
      `--memory ${memory} is not enough: the least that works is ${formatBytes(base + fixed + error.least)} ` +
        `(${formatBytes(base)} for the process, ${formatBytes(fixed)} for weights, gradients and optimizer, ${formatBytes(error.least)} for activations). ` +
        lower,
    );
  }
}
