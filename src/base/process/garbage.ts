/** Bytes by which the process may grow between two collections. */
const GROWTH = 4 << 20;

/**
 * Collects garbage, when it is called, if the process has grown since. By itself the runtime lets garbage grow by a share of all
 * that it knows to be in use, and the executor's memory is a part of that.
 */
export function createSweeper(): () => void {
  let from = process.memoryUsage.rss();
  return () => {
    if (process.memoryUsage.rss() < from + GROWTH) return;
    Bun.gc(true);
    from = process.memoryUsage.rss();
  };
}
