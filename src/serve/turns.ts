/** First come, first served: so many at a time are in, a bounded number waits. */
export interface Turns {
  /**
   * A promise of what gives the place back, kept when there is one and all who came before have theirs; null when too many wait already.
   * Who gives up waiting leaves the queue.
   * @throws the signal's reason, in the promise
   */
  enter(signal: AbortSignal): Promise<() => void> | null;
  /** Takes a place that nobody waits for; null: there is none. */
  enterFree(): (() => void) | null;
}

/** @param places of those that are in at a time */
export function createTurns(limit: number, places = 1): Turns {
  const waiting: (() => void)[] = [];
  let inside = 0;
  const leave = () => {
    const next = waiting.shift();
    if (next) next();
    else inside--;
  };
  return {
    enterFree() {
      if (inside >= places) return null;
      inside++;
      return leave;
    },
    enter(signal) {
      if (signal.aborted) return Promise.reject(signal.reason);
      if (inside < places) {
        inside++;
        return Promise.resolve(leave);
      }
      if (waiting.length >= limit) return null;
      return new Promise((resolve, reject) => {
        const begin = () => {
          signal.removeEventListener("abort", giveUp);
          resolve(leave);
        };
        const giveUp = () => {
          waiting.splice(waiting.indexOf(begin), 1);
          reject(signal.reason as Error);
        };
        signal.addEventListener("abort", giveUp, { once: true });
        waiting.push(begin);
      });
    },
  };
}
