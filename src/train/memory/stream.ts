import { formatBytes } from "../../base/bytes.ts";
import { existingFolder } from "./offload.ts";
import { UserError } from "../../base/errors.ts";
import { byteLength } from "../../graph/types.ts";
import { knownFreeMemory } from "../../base/process/free-memory.ts";
import type { Executor } from "../../runtime/executor.ts";
import type { TrainConfig } from "../config.ts";
import { type OptimizerMemory, outsidePlaces, type ParamInfo, residentBytes } from "../../runtime/resident.ts";
import type { MemoryForecast } from "./forecast.ts";
import { AUTO_SHARE } from "../../load/open-weights.ts";
import { ALL_RESIDENT, hasHugeTable, mayHaveHugeTable, type Residencies, type Residency } from "../../load/residency.ts";
import { CapacityError, type Checkpointing, LimitError, plannedTime, type StepPlan } from "./step-plan.ts";

export interface StreamOptions {
  /** auto: in memory if they fit there; all: in their file, whatever fits; off: in memory. */
  readonly mode: TrainConfig["stream"];
  /** True for a frozen parameter that can be read from a file as it lies in memory. */
  canStream(param: ParamInfo): boolean;
  /** The folder of the file of trained state that does not fit into memory. */
  readonly folder: string;
  /** True: trained state lies there whatever fits, for tests. */
  readonly isTrainedOutside?: boolean;
  /** Bytes per second that weights are read with. */
  readonly bandwidth: number;
  /** Bytes that a plan without a limit of its own may take. */
  readonly free: () => number;
}

/**
 * Returns what `--stream` asks for.
 * @param output the run folder, beside which trained state lies that does not fit into memory
 * @param canStream true for a frozen parameter that can be read from a file as it lies in memory
 * @throws {UserError} replay checks with weights that are not in memory
 */
export function streamOf(
  { stream, verifyReplay }: Pick<TrainConfig, "stream" | "verifyReplay">,
  executor: Pick<Executor, "reach" | "card">,
  strategy: Checkpointing,
  canStream: StreamOptions["canStream"],
  output: string,
): StreamOptions {
  if (stream === "all" && verifyReplay)
    throw new UserError("--verify-replay needs all weights in memory, but --stream is all; leave one of the two out");
  const mode = verifyReplay || (stream === "auto" && executor.reach.kind === "none") ? "off" : stream;
  const isLimited = strategy.name === "budget";
  const free = () =>
    isLimited ? Infinity : AUTO_SHARE * (executor.card ? (executor.card.memory()?.free ?? Infinity) : knownFreeMemory());
  return { mode, canStream, folder: existingFolder(output), bandwidth: NOMINAL_BANDWIDTH, free };
}

/** Bytes per second of weights' files until they are measured: an ordinary disk's. */
export const NOMINAL_BANDWIDTH = 1e9;

/** What is compared of plans: the peak, and the largest micro-batch. */
interface Planned {
  readonly predicted: MemoryForecast;
  readonly largest: StepPlan & { readonly streaming: { readonly bytes: number; wait(bandwidth: number): number } | null };
}

/** Shares of the weights that are tried to be kept in memory. */
const SHARES = [0.9, 0.75, 0.5, 0.25, 0];

/** The shares that are tried: of all but what single rows are read of, too, where there is such a table. */
export function sharesOf({ hasTables }: Residencies): readonly number[] {
  return hasTables ? [1, ...SHARES] : SHARES;
}

/**
 * The fastest plan of all residencies that keep the limit; where everything fits and nothing else was asked for, the one with all weights in
 * memory, but for a huge table of which single rows are read.
 * @throws {LimitError | CapacityError} when none keeps it: that of the least memory
 */
export function chooseResidency<P extends Planned>(
  { mode, bandwidth, free, isTrainedOutside = false }: StreamOptions,
  under: (residency: Residency) => P,
  choices: () => Residencies | null,
  params: readonly ParamInfo[],
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
  const resident = mode === "auto" && !isTrainedOutside ? attempt(ALL_RESIDENT) : null;
  if (fits(resident)) {
    const byRows = mayHaveHugeTable(params) ? choices()?.keeping(1, "ample") : undefined;
    return (byRows && hasHugeTable(byRows, params) && attempt(byRows)) || resident;
  }
  const streamed = choices();
  if (streamed === null) {
    if (mode === "all") return under(ALL_RESIDENT);
    if (resident) return resident;
    throw failed;
  }
  const shares = mode === "all" ? [0] : sharesOf(streamed);
  const keeping = (isOutside: boolean) =>
    shares.map((share) => attempt(streamed.keeping(share, "ample", isOutside))).filter(fits);
  const inMemory = isTrainedOutside ? [] : keeping(false);
  // What is trained goes out last: it is written as well as read.
  const plans = inMemory.length === 0 && streamed.trains ? keeping(true) : inMemory;
  if (plans.length === 0) {
    const least = attempt(streamed.keeping(0, "least", streamed.trains));
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

/** A plan as far as it decides what lies in files. */
interface StreamedPlan extends Planned {
  readonly residency: Residency;
  readonly params: readonly ParamInfo[];
  readonly optimizer: OptimizerMemory | null;
}

/** Says of a plan what lies in files, and how many bytes move; null: everything is in memory. */
export function streamText({ residency, params, optimizer, largest }: StreamedPlan): string | null {
  if (largest.streaming === null) return null;
  const { streamed, isTrainedOutside, window } = residency;
  const sum = (some: readonly ParamInfo[]) => some.reduce((bytes, { type }) => bytes + byteLength(type), 0);
  const frozen = sum(params.filter(({ name, trainable }) => !trainable && streamed.has(name)));
  const read = `reads ${formatBytes(largest.streaming.bytes)}`;
  const through = `through a window of ${formatBytes(window)}`;
  const stays = frozen > 0 ? [`${formatBytes(frozen)} of frozen weights stay in their files`] : [];
  if (!isTrainedOutside) return `${stays.join("")}; a micro-batch ${read} ${through}`;
  const { trainable, optimizer: state } = residentBytes(params, optimizer);
  const gradients = sum(params.filter((param) => param.trainable));
  stays.push(
    `${formatBytes(outsidePlaces(params, optimizer).bytes)} of what is trained, its gradients and the optimizer's state lie in a file`,
  );
  const update = optimizer
    ? `; an update reads ${formatBytes(3 * trainable + state)} and writes ${formatBytes(trainable + state)}`
    : "";
  return `${stays.join(", ")}; a micro-batch ${read} ${through} and writes ${formatBytes(gradients)}${update}`;
}
