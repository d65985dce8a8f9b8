/** A verb's own module. */
export interface VerbModule {
  help(): string;
  /** Returns the exit code. */
  run(args: readonly string[]): Promise<number>;
}

/** A verb of the command line. Its code is imported when it is needed, so that start-up stays short. */
export interface Verb {
  /** One line for the overview. */
  readonly summary: string;
  load(): Promise<VerbModule>;
}

export const VERBS: Readonly<Record<string, Verb>> = {
  train: { summary: "fine-tune a model", load: () => import("./train.ts") },
  step: { summary: "one forward and backward without an update: loss and gradients", load: () => import("./step.ts") },
};
