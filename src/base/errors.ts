/**
 * An error that the user can mend: bad input, a full disk, a missing file. The command line prints the message alone
 * (no stack trace) and exits with `exitCode`. A message says what was expected, what came, where, and what to do.
 */
export class UserError extends Error {
  override name = "UserError";

  constructor(
    message: string,
    readonly exitCode = 2,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The code of the system call that an error comes from, such as `ENOSPC`; null: it comes from none. */
export function systemCode(error: unknown): string | null {
  if (typeof error !== "object" || error === null) return null;
  if ("code" in error && typeof error.code === "string") return error.code;
  return "cause" in error ? systemCode(error.cause) : null;
}

/** Text of an unknown thrown value. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const LONGEST_EXPLANATION = 300;

/**
 * Returns what a library says of input that it refuses, cut to a readable length; `otherwise` where it only stumbled over it,
 * which tells a user nothing.
 */
export function explanationOf(error: unknown, otherwise: string): string {
  if (error instanceof TypeError || error instanceof RangeError) return otherwise;
  const message = messageOf(error);
  return message.length <= LONGEST_EXPLANATION ? message : `${message.slice(0, LONGEST_EXPLANATION - 3)}...`;
}

/** Returns what an action gives; null: it is refused. */
export function attempt<T>(action: () => T): T | null {
  try {
    return action();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return null;
  }
}
