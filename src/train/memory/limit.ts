import { UserError } from "../../base/errors.ts";
import { parseSize } from "../../base/bytes.ts";
import type { TrainConfig } from "../config.ts";
import type { Executor } from "../../runtime/executor.ts";
import { freeMemory, knownFreeMemory } from "../../base/process/free-memory.ts";
import { AUTO_SHARE } from "../../load/open-weights.ts";
import { formatBytes } from "../../base/bytes.ts";
import { CapacityError, type Checkpointing, LimitError } from "./step-plan.ts";

/**
 * Bytes that the process takes on top of the plan once its programs have been made: optimised code of the kernels and of
 * the step, tables of the planner, pieces of files that are written, and garbage between two collections.
 */
const GROWTH = 45 << 20;
/** Threads that move boundaries and tapes. */
const TRANSFER_THREADS = 10 << 20;

/** Until the runtime's allocator has returned what it has free to the system, which is some 10 MiB that differ from start to start. */
const RETURN_MS = 150;

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

/** Bytes of this process that no plan can change: runtime, tokenizer, data and programs as they are now, and what is to come. */
export function processBase({ offload = "off" }: Partial<Pick<TrainConfig, "offload">> = {}): number {
  Bun.gc(true);
  Bun.sleepSync(RETURN_MS);
  Bun.gc(true);
  return process.memoryUsage.rss() + GROWTH + (offload === "off" ? 0 : TRANSFER_THREADS);
}

/** Bytes that CUDA takes of a card for itself, about: its context, kernels and workspaces of its libraries. */
const CUDA_BASE = 600 << 20;

/** The memory that `--memory` is about. */
export interface LimitedMemory {
  /** The owner of `base`. */
  readonly owner: "the process" | "CUDA itself";
  /** Bytes that may be taken. @throws {UserError} when that is not known */
  free(): number;
  /** The same; 0 when that is not known. */
  known(): number;
  /** Bytes that no plan can change. */
  base(): number;
}

/** The memory of the process; with an executor on a card, the card's. */
export function limitedMemory(
  { card }: Pick<Executor, "card">,
  config: Partial<Pick<TrainConfig, "offload" | "nodes">>,
): LimitedMemory {
  if (!card) {
    /** What is free is for all processes of a run. */
    const share = (bytes: number) => Math.floor(bytes / (config.nodes ?? 1));
    const known = () => {
      const free = knownFreeMemory();
      return Number.isFinite(free) ? share(free) : 0;
    };
    return { owner: "the process", free: () => share(freeMemory()), known, base: () => processBase(config) };
  }
  const free = () => {
    const memory = card.memory();
    if (memory !== null) return memory.free;
    throw new UserError("--memory: the free memory of the card cannot be asked here; give a size such as 8GiB");
  };
  return { owner: "CUDA itself", free, known: () => card.memory()?.free ?? 0, base: () => CUDA_BASE };
}

/** Share of a limit from which on garbage is collected, and milliseconds from one collection to the next. */
const NEAR = 0.95;
const PAUSE = 1000;

/**
 * Collects garbage, when it is called, if the process is near its limit. By itself the runtime lets garbage grow by a share
 * of all that it knows to be in use, and the executor's memory is a part of that.
 */
export function createCollector(limit: () => number): () => void {
  let next = 0;
  return () => {
    if (performance.now() < next || process.memoryUsage.rss() < NEAR * limit()) return;
    Bun.gc(true);
    next = performance.now() + PAUSE;
  };
}

const LOWER =
  "A shorter --sequence-length, a smaller --batch-size (with more --gradient-accumulation), a lower --rank, --method lora or --quantize nf4 lower it";

function capacityText({ capacity, fixed, least }: CapacityError): string {
  const { frozen, window, trainable, gradients, optimizer, batch, logits, checks } = fixed;
  const trained = trainable + gradients + optimizer;
  const rest = least - frozen - window - trained;
  return (
    `this model needs ${formatBytes(least)} at least, but the WebAssembly executor has addresses for ${formatBytes(capacity)}: ` +
    `${formatBytes(least - capacity)} are missing (${formatBytes(frozen)} of frozen weights, ${window > 0 ? `${formatBytes(window)} that streamed ones pass through, ` : ""}` +
    `${formatBytes(trained)} for what is trained, its gradients and optimizer, ${formatBytes(Math.max(rest, batch + logits + checks))} for activations). ` +
    `${frozen > 0 ? "--stream auto leaves frozen weights in their file. " : ""}${LOWER}`
  );
}

/** What the process has resident when it plans differs by a few MiB from start to start; a limit that is named must work at the next. */
export const LIMIT_SPREAD = 4 << 20;

/**
 * Runs `plan`. A limit that it cannot keep is told in the user's terms: the least limit that works, and what lowers it.
 * @throws {UserError}
 */
export function explainingLimit<T>(memory: string | undefined, strategy: Checkpointing, plan: () => T): T {
  try {
    return plan();
  } catch (error) {
    if (error instanceof CapacityError) throw new UserError(capacityText(error));
    if (!(error instanceof LimitError)) throw error;
    const lower = LOWER;
    if (strategy.name !== "budget" || memory === undefined) {
      throw new UserError(`--activation-memory is not enough: the least that works is ${formatBytes(error.least)}. ${lower}`);
    }
    const base = (strategy.base?.() ?? 0) + error.reading;
    const { temporary, fixed } = error;
    // Rounded up, in whole MiB: formatting to three digits may take more away than there is to spare.
    const least = Math.ceil((base + fixed + temporary + error.least + LIMIT_SPREAD) / 2 ** 20);
    throw new UserError(
      `--memory ${memory} is not enough: the least that works is ${least} MiB ` +
        `(${formatBytes(base + LIMIT_SPREAD)} for ${strategy.owner ?? "the process"}, ${formatBytes(fixed)} for weights, gradients and optimizer, ${formatBytes(error.least)} for activations` +
        `${temporary > 0 ? `, ${formatBytes(temporary)} of temporary memory of ONNX Runtime` : ""}). ` +
        lower,
    );
  }
}
