import { test } from "bun:test";

/**
 * True if tests that take long or count on chance are run in full: with `REMAT_SLOW=1`, which CI sets. The plain suite has fewer rounds
 * of them, or leaves them out.
 */
export const SLOW = process.env["REMAT_SLOW"] === "1";

/**
 * Threads of executors where the numbers are tested, which do not depend on them: models as small as the fixtures wait for a second thread
 * longer than it saves.
 */
export const THREADS = SLOW ? 2 : 1;

/** A test that only the full suite runs. */
export const slowTest = SLOW ? test : test.skip;
