import type { ResidentBytes } from "../../runtime/resident.ts";
import type { Chain } from "../../schedule/chain.ts";
import type { Schedule } from "../../schedule/ops.ts";
import { simulate } from "../../schedule/simulate.ts";

/** Bytes of what is not scheduled: resident memory, the inputs of a micro-batch, logits and replay checks where they are asked for. */
export interface FixedBytes extends ResidentBytes {
  /** The window of weights that lie in their file. */
  readonly window: number;
  readonly batch: number;
  /** Values that cross segments beside the boundaries, and their gradients. */
  readonly carried: number;
  readonly logits: number;
  readonly checks: number;
}

/** Peak memory of training, in bytes, by part. `peak` is their sum. */
export interface MemoryForecast {
  /** Bytes that are not scheduled: weights, adapters, gradients, optimizer state, the batch's own inputs, ... */
  readonly resident: number;
  /** Boundaries and tapes at the moment of the peak. */
  readonly stash: number;
  /** Temporary memory of the kernel program at the moment of the peak. */
  readonly workspace: number;
  /** Bytes that the executor's library takes for its programs beside the plan, at most; see runtime/temporary.ts. */
  readonly temporary: number;
  readonly peak: number;
}

export function fixedTotal(fixed: FixedBytes): number {
  const { frozen, window, trainable, gradients, optimizer, batch, carried, logits, checks } = fixed;
  return frozen + window + trainable + gradients + optimizer + batch + carried + logits + checks;
}

/** Returns what a schedule needs beside what is fixed, by exact simulation. */
export function forecast(
  step: { readonly chain: Chain; readonly schedule: Schedule },
  fixed: FixedBytes,
  temporary: number,
): MemoryForecast {
  const { peak, items, steps } = simulate(step.chain, step.schedule);
  const at = steps.findIndex(({ during }) => during === peak);
  const stash = items
    .filter((item) => item.kind !== "workspace" && item.first <= at && at <= item.last)
    .reduce((bytes, item) => bytes + item.bytes, 0);
  const resident = fixedTotal(fixed);
  return { resident, stash, workspace: peak - stash, temporary, peak: resident + peak + temporary };
}

/** Returns what a program between training steps needs: an update, which finds an empty stash. */
export function betweenSteps(fixed: FixedBytes, workspace: number, temporary: number): MemoryForecast {
  const resident = fixedTotal(fixed);
  return { resident, stash: 0, workspace, temporary, peak: resident + workspace + temporary };
}

/** The forecast with the highest peak; of equal ones the first. */
export function largestOf(forecasts: readonly (MemoryForecast | null)[]): MemoryForecast {
  return forecasts.filter((each) => each !== null).reduce((most, one) => (one.peak > most.peak ? one : most));
}
