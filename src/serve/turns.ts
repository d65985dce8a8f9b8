/** First come, first served: one at a time is in, a bounded number waits. */
export interface Turns {
  /**
   * A promise of what gives the place back, kept when all who came before are done; null when too many wait already. Who
   * gives up waiting leaves the queue.
   * @throws the signal's reason, in the promise
   */
  enter(signal: AbortSignal): Promise<() => void> | null;
}

export function createTurns(limit: number): Turns {
  const waiting: (() => void)[] = [];
  let isBusy = false;
  const leave = () => {
    const next = waiting.shift();
    if (next) next();
    else isBusy = false;
  };
  return {
    enter(signal) {
      if (signal.aborted) return Promise.reject(signal.reason);
      if (!isBusy) {
        isBusy = true;
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
