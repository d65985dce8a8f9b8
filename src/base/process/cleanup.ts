/**
 * Runs work that opens things, and closes them afterwards, the last one first. Every closing is tried. An error of the work is what is
 * thrown, whatever else fails on the way out (a file system that has become read-only, say); without one, the first error of closing is.
 * @param work calls `defer` with what closes a thing, as soon as the thing is open
 */
export async function withCleanup<T>(work: (defer: (close: () => unknown) => void) => Promise<T>): Promise<T> {
  const closing: (() => unknown)[] = [];
  let result: T;
  try {
    result = await work((close) => closing.push(close));
  } catch (error) {
    for (const close of closing.reverse()) {
      try {
        await close();
      } catch {
        // The error that led here is the one to report.
      }
    }
    throw error;
  }
  let failed: { readonly error: unknown } | null = null;
  for (const close of closing.reverse()) {
    try {
      await close();
    } catch (error) {
      failed ??= { error };
    }
  }
  if (failed !== null) throw failed.error;
  return result;
}
