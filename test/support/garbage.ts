const collect = Bun.gc;

/** Bytes by which the process may grow between two collections that the code under test asks for. */
const GROWTH = 128 << 20;

/** Collects all garbage now. */
export const collectGarbage = (): void => void collect(true);

/**
 * Skips collections that the code under test asks for while the process has not grown since the last one. A run collects to stay within
 * the memory of its process; here hundreds of runs share one, and collecting took half of the time of each.
 */
export function spareCollections(): void {
  let from = process.memoryUsage.rss();
  Bun.gc = (force) => {
    if (process.memoryUsage.rss() < from + GROWTH) return 0;
    const size = collect(force);
    from = process.memoryUsage.rss();
    return size;
  };
}
