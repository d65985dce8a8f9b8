import { largestOf, type MemoryForecast } from "../memory/forecast.ts";

/** Seconds of forward and backward passes, with what they waited for. */
export interface ComputedTime {
  readonly measured: number;
  /** By the times that schedules were planned with; null where none are known, or replay checks are part of what was measured. */
  readonly predicted: number | null;
}

/** What has run in an engine's arena so far. */
export interface Tally {
  /** A micro-batch has run. @param touched bytes of the arena up to the highest address that it could touch */
  add(touched: number, forecast: MemoryForecast, seconds: ComputedTime): void;
  /** An update works in the arena's first bytes. */
  update(bytes: number): void;
  /** Begins to count what is touched from now on. */
  startAnew(): void;
  /** Bytes of the arena that were touched, ever and since `startAnew`. */
  readonly touched: number;
  readonly recent: number;
  /** The largest forecast of what has run; null: no micro-batch has. */
  readonly ran: MemoryForecast | null;
  /** True if an optimizer works in the arena. */
  readonly updates: boolean;
  readonly computed: ComputedTime;
}

export function createTally(): Tally {
  let [touched, recent, updates] = [0, 0, 0];
  let ran: MemoryForecast | null = null;
  let computed: ComputedTime = { measured: 0, predicted: 0 };
  const touch = (bytes: number) => {
    touched = Math.max(touched, bytes);
    recent = Math.max(recent, bytes);
  };
  return {
    add(bytes, forecast, { measured, predicted }) {
      touch(bytes);
      ran = ran ? largestOf([ran, forecast]) : forecast;
      computed = {
        measured: computed.measured + measured,
        predicted: computed.predicted === null || predicted === null ? null : computed.predicted + predicted,
      };
    },
    update(bytes) {
      updates = Math.max(updates, bytes);
      touch(bytes);
    },
    startAnew: () => void (recent = updates),
    get touched() {
      return touched;
    },
    get recent() {
      return recent;
    },
    get ran() {
      return ran;
    },
    get updates() {
      return updates > 0;
    },
    get computed() {
      return computed;
    },
  };
}
