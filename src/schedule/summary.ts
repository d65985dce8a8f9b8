/** A schedule in a few numbers and a sentence. */
import { type Chain, idealTime } from "./chain.ts";
import type { Schedule } from "./ops.ts";
import { simulate } from "./simulate.ts";

export interface Summary {
  /** Trainable segments that run forward once and keep their whole tape, a smaller one, or none. The fused head is none of them. */
  readonly whole: number;
  readonly partial: number;
  readonly inputOnly: number;
  /** Segments that run forward again, and the largest number of times that one runs. */
  readonly replayed: number;
  readonly mostForwards: number;
  /** Segments' inputs and tapes that leave memory, the bytes that go out, and the share of the time that is waited for them. */
  readonly outside: number;
  readonly bytesOut: number;
  readonly waiting: number;
  /** Time over that of a step that computes nothing twice, as a share. */
  readonly overhead: number;
}

export function summarise(chain: Chain, schedule: Schedule): Summary {
  const forwards = new Int32Array(chain.n + 1);
  const variants = new Int32Array(chain.n + 1);
  const counts = { whole: 0, partial: 0, inputOnly: 0, replayed: 0 };
  for (const op of schedule) {
    if (op.kind === "FN" || op.kind === "FC" || op.kind === "FA") forwards[op.i]!++;
    if (op.kind === "FA") variants[op.i] = op.k;
    if (op.kind !== "B") continue;
    const k = variants[op.i]!;
    if (forwards[op.i]! > 1) counts.replayed++;
    else if (k === 0) counts.whole++;
    else if (chain.variants[op.i - 1]![k - 1]!.r > 0) counts.partial++;
    else counts.inputOnly++;
  }
  const { time, waited, transfers } = simulate(chain, schedule);
  const copies = transfers.filter(({ direction }) => direction === "out");
  const outside = {
    outside: copies.length,
    bytesOut: copies.reduce((sum, { bytes }) => sum + bytes, 0),
    waiting: time > 0 ? waited / time : 0,
  };
  const ideal = idealTime(chain);
  // Two sums of the same times may differ by rounding.
  const overhead = ideal > 0 ? Math.max(0, time / ideal - 1) : 0;
  return { ...counts, ...outside, mostForwards: Math.max(...forwards), overhead };
}

/** `10 segments keep everything, 12 a part; 3 are replayed; 5.2 % more time than with everything kept`. */
export function formatSummary(summary: Summary): string {
  const { whole, partial, inputOnly, replayed, mostForwards, outside, bytesOut, waiting, overhead } = summary;
  const kept = [
    `${whole} segments keep everything`,
    ...(partial > 0 ? [`${partial} a part`] : []),
    ...(inputOnly > 0 ? [`${inputOnly} their input alone`] : []),
  ].join(", ");
  const again = replayed > 0 ? `; ${replayed} are replayed${mostForwards > 2 ? `, up to ${mostForwards - 1} times` : ""}` : "";
  const away =
    outside > 0
      ? `; ${outside} inputs and tapes leave memory (${Math.round(bytesOut / 2 ** 20)} MiB, ${(100 * waiting).toFixed(1)} % of the time is spent waiting for them)`
      : "";
  return `${kept}${again}${away}; ${(100 * overhead).toFixed(1)} % more time than with everything kept`;
}
