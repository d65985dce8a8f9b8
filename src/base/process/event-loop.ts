/** Lets signals and timers in, if it is time. True when it did. @throws the signal's reason when that is aborted */
export type Breath = () => boolean | Promise<boolean>;

/** Between two breaths. */
const SLICE_MS = 50;

/**
 * Lets in all messages that have arrived. A timer that is due may go off before the system is asked for them, which it is before a second
 * one goes off.
 */
export async function hear(): Promise<void> {
  await Bun.sleep(0);
  await Bun.sleep(0);
}

/** For long work in one piece, which calls it again and again: without a breath, Ctrl-C would not be heard until the end. */
export function createBreath(signal?: AbortSignal): Breath {
  let last = performance.now();
  return () => {
    if (performance.now() - last < SLICE_MS) return false;
    return Bun.sleep(0).then(() => {
      signal?.throwIfAborted();
      last = performance.now();
      return true;
    });
  };
}
