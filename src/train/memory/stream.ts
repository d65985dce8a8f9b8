import { formatBytes } from "../../base/bytes.ts";
import { UserError } from "../../base/errors.ts";
import { byteLength } from "../../graph/types.ts";
import { knownFreeMemory } from "../../base/process/free-memory.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { TrainConfig } from "../config.ts";
import type { ParamInfo } from "../../runtime/resident.ts";
import type { MemoryForecast } from "./forecast.ts";
import { AUTO_SHARE } from "../../load/open-weights.ts";
import { ALL_RESIDENT, type Residencies, type Residency } from "../../load/residency.ts";
import { CapacityError, type Checkpointing, LimitError, plannedTime, type StepPlan } from "./step-plan.ts";

export interface StreamOptions {
  /** auto: in memory if they fit there; all: in their file, whatever fits; off: in memory. */
  readonly mode: TrainConfig["stream"];
  /** True for a frozen parameter that can be read from a file as it lies in memory. */
  canStream(param: ParamInfo): boolean;
  /** Bytes per second that weights are read with. */
  readonly bandwidth: number;
  /** Bytes that a plan without a limit of its own may take. */
  readonly free: () => number;
}

/**
 * Returns what `--stream` asks for.
 * @param canStream true for a frozen parameter that can be read from a file as it lies in memory
 * @throws {UserError} replay checks with weights that are not in memory
 */
export function streamOf(
  { stream, verifyReplay }: Pick<TrainConfig, "stream" | "verifyReplay">,
  executor: Pick<Executor, "reach" | "card">,
  strategy: Checkpointing,
  canStream: StreamOptions["canStream"],
): StreamOptions {
  if (stream === "all" && verifyReplay)
    throw new UserError("--verify-replay needs all weights in memory, but --stream is all; leave one of the two out");
  const mode = verifyReplay || (stream === "auto" && executor.reach.kind === "none") ? "off" : stream;
  const isLimited = strategy.name === "budget";
  const free = () =>
    isLimited ? Infinity : AUTO_SHARE * (executor.card ? (executor.card.memory()?.free ?? Infinity) : knownFreeMemory());
  return { mode, canStream, bandwidth: NOMINAL_BANDWIDTH, free };
}

/** Bytes per second of weights' files until they are measured: an ordinary disk's. */
export const NOMINAL_BANDWIDTH = 1e9;

/** What is compared of plans: the peak, and the largest micro-batch. */
interface Planned {
  readonly predicted: MemoryForecast;
  readonly largest: StepPlan & { readonly streaming: { readonly bytes: number; wait(bandwidth: number): number } | null };
}

/** Shares of the weights that are tried to be kept in memory. */
export const SHARES = [0.9, 0.75, 0.5, 0.25, 0];

/**
 * The fastest plan of all residencies that keep the limit; where everything fits and nothing else was asked for, the one with all weights in
 * memory.
 * @throws {LimitError | CapacityError} when none keeps it: that of the least memory
 */
export function chooseResidency<P extends Planned>(
  { mode, bandwidth, free }: StreamOptions,
  under: (residency: Residency) => P,
  choices: () => Residencies | null,
): P {
  let failed: unknown = null;
  const attempt = (residency: Residency): P | null => {
    try {
      return under(residency);
    } catch (error) {
      if (!(error instanceof LimitError || error instanceof CapacityError)) throw error;
      failed = error;
      return null;
    }
  };
  const machine = mode === "auto" ? free() : Infinity;
  const fits = (plan: P | null): plan is P => plan !== null && plan.predicted.peak <= machine;
  const resident = mode === "auto" ? attempt(ALL_RESIDENT) : null;
  if (fits(resident)) return resident;
  const streamed = choices();
  if (streamed === null) {
    if (mode === "all") return under(ALL_RESIDENT);
    if (resident) return resident;
    throw failed;
  }
  const shares = mode === "all" ? [0] : SHARES;
  const plans = shares.map((share) => attempt(streamed.keeping(share, "ample"))).filter(fits);
  if (plans.length === 0) {
    const least = attempt(streamed.keeping(0, "least"));
    if (least) return least;
    throw failed;
  }
  const seconds = plans.map((plan) => microBatchSeconds(plan, bandwidth));
  return plans[seconds.indexOf(Math.min(...seconds))]!;
}

/** Seconds of a micro-batch of the largest size, in the unit of the chain's times. */
function microBatchSeconds({ largest }: Planned, bandwidth: number): number {
  return plannedTime(largest) + (largest.streaming?.wait(bandwidth) ?? 0);
}

/** Says of a plan how much stays in files, and how much of it a micro-batch reads; null: everything is in memory. */
export function streamText({
  residency,
  params,
  largest,
}: Planned & { residency: Residency; params: readonly ParamInfo[] }): string | null {
  if (largest.streaming === null) return null;
  const stays = params
    .filter(({ name }) => residency.streamed.has(name))
    .reduce((bytes, { type }) => bytes + byteLength(type), 0);
  return (
    `${formatBytes(stays)} of frozen weights stay in their files; a micro-batch reads ${formatBytes(largest.streaming.bytes)}` +
    ` through a window of ${formatBytes(residency.window)}`
  );
}
