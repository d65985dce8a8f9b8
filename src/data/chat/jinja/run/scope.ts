import { TemplateError } from "../errors.ts";
import { SCOPE_STEPS, step } from "../meter.ts";
import type { Value } from "../values/values.ts";

/** Describes what one rendering has at a time. */
export interface Rendering {
  /** The text of the innermost block that collects one. */
  out: string;
  /** The line of the statement that runs. */
  line: number;
  /** Calls of macros, loops and blocks within each other. */
  depth: number;
  readonly now: Date;
  /** The text that is written at both ends of `{% generation %}`. */
  readonly mark: string;
}

/** Calls within calls; Python ends at some 200. */
const MAX_DEPTH = 400;

/** Variables of a block. */
export class Scope {
  private readonly variables = new Map<string, Value>();

  constructor(
    readonly parent: Scope | null,
    readonly rendering: Rendering,
  ) {}

  /** undefined: there is none of that name. */
  get(name: string): Value | undefined {
    const value = this.variables.get(name);
    return value !== undefined || this.parent === null ? value : this.parent.get(name);
  }

  set(name: string, value: Value): void {
    this.variables.set(name, value);
  }

  /** The scope of the template's own variables. */
  outermost(): Scope {
    return this.parent?.parent ? this.parent.outermost() : this;
  }

  inner(): Scope {
    return new Scope(this, this.rendering);
  }
}

/** Runs `write` and gives what it wrote, in place of writing it. */
export function captured(rendering: Rendering, write: () => void): string {
  const { out } = rendering;
  rendering.out = "";
  write();
  const text = rendering.out;
  rendering.out = out;
  return text;
}

/** Runs a call within the one that runs. @throws {TemplateError} too many within each other */
export function called<Result>(rendering: Rendering, what: string, run: () => Result): Result {
  step(SCOPE_STEPS);
  if (rendering.depth >= MAX_DEPTH) throw new TemplateError(`${what} calls itself without an end (${MAX_DEPTH} calls deep)`);
  const { line } = rendering;
  rendering.depth++;
  const result = run();
  rendering.depth--;
  // An error in the rest of the statement belongs to the caller's line.
  rendering.line = line;
  return result;
}
