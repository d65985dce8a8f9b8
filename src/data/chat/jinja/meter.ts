import { TemplateError } from "./errors.ts";

/**
 * Counts what one rendering takes, so that no template runs without an end or fills the memory. Everything that makes a
 * value counts before the value is made. A rendering is one synchronous call, so one meter serves them all in turn.
 */

/**
 * Steps of one rendering beyond what its input allows: statements, turns of loops, items of lists; some hundred times what a
 * conversation of a hundred turns takes.
 */
const MAX_STEPS = 3_000_000;

/** Steps for each byte of input: a template may go over all turns at each of a thousand turns. */
const STEPS_PER_INPUT_BYTE = 256;

/** Steps that no input raises; a few seconds. */
const MOST_STEPS = 50_000_000;

/** Bytes of one rendering's new values beyond what its input allows. */
const MAX_BYTES = 2 ** 26;

/** New bytes for each byte of input: many filters may go over a long message. */
const BYTES_PER_INPUT_BYTE = 64;

/** Steps of a turn of a loop or a call, which makes a scope of its own. */
export const SCOPE_STEPS = 10;

/** Bytes of a list, a tuple or a dict without its items. */
export const OBJECT_BYTES = 64;

/** Bytes of a list's item: the reference to a value. */
export const ITEM_BYTES = 8;

/** Characters that are read in the time of one step. */
const STEP_CHARACTERS = 64;

let steps = 0;
let bytes = 0;
let mostSteps = MAX_STEPS;
let mostBytes = MAX_BYTES;

/** Counts steps. @throws {TemplateError} too many */
export function step(count = 1): void {
  steps += count;
  if (!(steps <= mostSteps)) throw new TemplateError(`it does not come to an end within ${mostSteps} steps`);
}

/** Counts bytes of values that are about to be made. @throws {TemplateError} too many */
export function spend(count: number): void {
  bytes += count;
  if (!(bytes <= mostBytes))
    throw new TemplateError(`its texts and lists grow without an end (beyond ${Math.round(mostBytes / 2 ** 20)} MiB)`);
}

/** Counts the reading of a text. */
export function scan(text: string): void {
  step(Math.ceil(text.length / STEP_CHARACTERS));
}

/** Characters of a part from which a search for it may take the time of both lengths. */
const LONG_PART = 64;

/** Counts the search for a part in a text: at worst each place is compared with all of a long part. */
export function search(text: string, part: string): void {
  scan(text);
  if (part.length > LONG_PART) step(Math.ceil((text.length * part.length) / SEARCHED));
}

/** Characters that a search compares in the time of one step. */
const SEARCHED = 1 << 13;

/**
 * Runs `render` with a meter of its own.
 * @param inputBytes characters of the variables
 */
export function metered<Result>(inputBytes: number, render: () => Result): Result {
  const outer = [steps, bytes, mostSteps, mostBytes] as const;
  [steps, bytes] = [0, 0];
  mostSteps = Math.min(MOST_STEPS, MAX_STEPS + STEPS_PER_INPUT_BYTE * inputBytes);
  mostBytes = MAX_BYTES + BYTES_PER_INPUT_BYTE * inputBytes;
  try {
    return render();
  } finally {
    [steps, bytes, mostSteps, mostBytes] = outer;
  }
}
