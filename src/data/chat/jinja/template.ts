import { compileBody, compileSelf, type Execute } from "./run/statements.ts";
import { TemplateError } from "./errors.ts";
import { fromJson, sizeOf } from "./values/from-json.ts";
import { globalsFor } from "./library/globals.ts";
import { metered } from "./meter.ts";
import { parse } from "./syntax/parse.ts";
import { type Rendering, Scope } from "./run/scope.ts";
import type { Value } from "./values/values.ts";

/**
 * Jinja for chat templates, with what Transformers offers to them: the language of Jinja 3.1 in its sandbox with `trim_blocks`
 * and `lstrip_blocks`, the tags `generation`, `break` and `continue`, `tojson` as `json.dumps`, `raise_exception` and
 * `strftime_now`. Texts, numbers and lists are Python's. A rendering is bounded in steps and bytes (see `meter.ts`).
 */
export interface Template {
  readonly execute: Execute;
  readonly self: (scope: Scope) => Value;
}

/** @throws {TemplateError} when the source cannot be parsed; its message names the line */
export function parseTemplate(source: string): Template {
  return located(
    () => 1,
    () => {
      const body = parse(source);
      return { execute: compileBody(body), self: compileSelf(body) };
    },
  );
}

export interface RenderOptions {
  /** The text that is written at both ends of `{% generation %}`; none by default. */
  readonly mark?: string;
}

/**
 * @param variables values of JSON
 * @param now what `strftime_now` reads
 * @throws {TemplateError} when the template fails or calls `raise_exception`; its message names the line
 */
export function runTemplate(
  { execute, self }: Template,
  variables: Readonly<Record<string, unknown>>,
  now: Date,
  { mark = "" }: RenderOptions = {},
): string {
  const rendering: Rendering = { out: "", line: 1, depth: 0, now, mark };
  return metered(sizeOf(variables), () =>
    located(
      () => rendering.line,
      () => {
        const root = new Scope(null, rendering);
        for (const [name, value] of globalsFor(rendering)) root.set(name, value);
        for (const [name, value] of Object.entries(variables)) if (value !== undefined) root.set(name, fromJson(value));
        const scope = root.inner();
        root.set("self", self(scope));
        execute(scope);
        return rendering.out;
      },
    ),
  );
}

function outOfRange({ message }: RangeError): string {
  return message.includes("call stack") ? "it is nested too deeply" : "its texts grow without an end";
}

/** Runs a part of the engine, whose errors get the template's line. */
function located<Result>(line: () => number, run: () => Result): Result {
  try {
    return run();
  } catch (error) {
    // Ranges that a template can leave are those of the stack and of a text's length.
    const known = error instanceof RangeError ? new TemplateError(outOfRange(error)) : error;
    if (!(known instanceof TemplateError)) throw error;
    throw new TemplateError(`${known.message} (line ${known.line ?? line()} of the template)`);
  }
}
