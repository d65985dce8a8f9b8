/** Describes what may be written to a stream. In a pipe, in CI and on a dumb terminal lines stay as they are written. */
interface Terminal {
  readonly isTTY?: boolean;
  readonly columns?: number;
}

type Environment = Readonly<Record<string, string | undefined>>;

/** Tells whether a line may be written over again. */
export function canRewrite(stream: Terminal, env: Environment = process.env): boolean {
  return stream.isTTY === true && env["TERM"] !== "dumb" && !env["CI"];
}

/** Tells whether text may be dimmed or coloured: not with NO_COLOR (https://no-color.org). */
export function hasColour(stream: Terminal, env: Environment = process.env): boolean {
  return canRewrite(stream, env) && !env["NO_COLOR"];
}

const LEAST_COLUMNS = 20;

/** COLUMNS, or the terminal's own. */
export function columnsOf(stream: Terminal, env: Environment = process.env): number {
  return Math.max(LEAST_COLUMNS, Number(env["COLUMNS"]) || stream.columns || 80);
}

/** Says something on standard error that a user should know and that stops nothing. */
export function printNote(text: string): void {
  process.stderr.write(`note: ${text}\n`);
}
