/**
 * An error that the user can mend: bad input, a full disk, a missing file. The command line prints the message alone
 * (no stack trace) and exits with `exitCode`. A message says what was expected, what came, where, and what to do.
 */
export class UserError extends Error {
  override name = "UserError";

  constructor(
    message: string,
    readonly exitCode = 2,
  ) {
    super(message);
  }
}

/** Text of an unknown thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
