import type { z } from "zod";

/** A verb's own module. */
export interface VerbModule {
  help(): string;
  /** All its flags, for shell completion. */
  readonly flags: z.ZodObject;
  /** First words, for verbs that have such. */
  readonly words?: readonly string[];
  /** Returns the exit code. `verbs` is the table of all verbs, for the one that completes command lines. */
  run(args: readonly string[], verbs: VerbTable): Promise<number>;
}

/** A verb of the command line. Its code is imported when it is needed, so that start-up stays short. */
export interface Verb {
  /** One line for the overview. */
  readonly summary: string;
  load(): Promise<VerbModule>;
}

export type VerbTable = Readonly<Record<string, Verb>>;

/** Names that users of XTuner look for. */
export const ALIASES: Readonly<Record<string, readonly string[]>> = {
  "list-cfg": ["recipes", "list"],
  "copy-cfg": ["recipes", "copy"],
  convert: ["merge"],
  "check-custom-dataset": ["data", "check"],
  "log-dataset": ["data", "show"],
};
