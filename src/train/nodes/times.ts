/** Micro-batches that say how long the next one will take. */
const NEWEST = 3;

/** The seconds that a process takes for a micro-batch. */
export interface Times {
  /** The least of the newest ones: the first one is that of a process that warms up, and others may be disturbed. Null: none is known. */
  readonly expected: number | null;
  add(seconds: number): void;
}

export function createTimes(): Times {
  const newest: number[] = [];
  return {
    get expected() {
      return newest.length === 0 ? null : Math.min(...newest);
    },
    add(seconds) {
      newest.push(seconds);
      if (newest.length > NEWEST) newest.shift();
    },
  };
}
