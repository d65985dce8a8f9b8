export interface Timing {
  readonly median: number;
  readonly best: number;
}

/** Seconds of a call, over at least `seconds` and five calls. */
export function time(run: () => void, seconds: number): Timing {
  const times: number[] = [];
  const end = performance.now() + 1000 * seconds;
  while (performance.now() < end || times.length < 5) {
    const start = performance.now();
    run();
    times.push((performance.now() - start) / 1000);
  }
  times.sort((a, b) => a - b);
  return { median: times[times.length >> 1]!, best: times[0]! };
}
