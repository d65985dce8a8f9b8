import { TemplateError } from "../errors.ts";
import { ITEM_BYTES, OBJECT_BYTES, scan, spend, step } from "../meter.ts";
import { isList, type Named, type Value } from "../values/values.ts";

/** A function of Python's: a method, a filter, a test. */
export interface Builtin {
  readonly name: string;
  /** @throws {TemplateError} arguments that do not fit */
  invoke(self: Value, positional: readonly Value[], named: Named): Value;
}

type Run = (self: Value, ...args: Value[]) => Value;

/**
 * A function with parameters as in `"old new /count"`: names, `/` before one that may be left out, all by position or by
 * name; a `|` ends those that are by position only. What it reads and makes is counted.
 */
export function builtin(name: string, parameters: string, run: Run): Builtin {
  const [alone = "", rest] = parameters.includes("|") ? parameters.split("|") : ["", parameters];
  const words = (text: string): string[] => text.split(" ").filter((word) => word !== "");
  const unnamed = words(alone).length;
  const all = [...words(alone), ...words(rest!)];
  const names = all.map((word) => word.replace("/", ""));
  const needed = all.filter((word) => !word.startsWith("/")).length;
  const refuse = (why: string): never => {
    throw new TemplateError(`${name}() ${why}`);
  };
  return {
    name,
    invoke(self, positional, named) {
      if (positional.length > names.length) refuse(`takes at most ${names.length} arguments (${positional.length} given)`);
      step();
      count(self);
      const args: (Value | undefined)[] = [...positional];
      for (const [key, value] of named) {
        const index = names.indexOf(key);
        if (index < unnamed) refuse(`got an unexpected keyword argument '${key}'`);
        if (args[index] !== undefined) refuse(`got multiple values for argument '${key}'`);
        args[index] = value;
      }
      for (let i = 0; i < needed; i++) if (args[i] === undefined) refuse(`missing the argument '${names[i]!}'`);
      // Parameters that are left out take their defaults.
      const result = run(self, ...(args as Value[]));
      if (typeof result === "string") spend(result.length);
      else if (isList(result)) spend(OBJECT_BYTES + ITEM_BYTES * result.length);
      return result;
    },
  };
}

/** A function with any arguments. */
export function variadic(name: string, run: (self: Value, positional: readonly Value[], named: Named) => Value): Builtin {
  return {
    name,
    invoke(self, positional, named) {
      step();
      count(self);
      return run(self, positional, named);
    },
  };
}

function count(self: Value): void {
  if (typeof self === "string") scan(self);
  else if (isList(self)) step(Math.ceil(self.length / 8));
}

export function table(...builtins: readonly Builtin[]): ReadonlyMap<string, Builtin> {
  return new Map(builtins.map((entry) => [entry.name, entry]));
}
