import { TemplateError } from "../errors.ts";
import { pairOf } from "./filters-text.ts";
import { OBJECT_BYTES, spend } from "../meter.ts";
import { dictFromKeys } from "./methods.ts";
import { integer, iterate } from "../values/items.ts";
import { strftime } from "./strftime.ts";
import { str } from "../values/text.ts";
import {
  Callable,
  Dict,
  type Named,
  Namespace,
  NO_NAMES,
  orElse,
  Range,
  typeName,
  Undefined,
  type Value,
} from "../values/values.ts";

/** Longest range that the sandbox of Jinja allows. */
const MAX_RANGE = 100_000;

function range(positional: readonly Value[]): Range {
  if (positional.length < 1 || positional.length > 3) throw new TemplateError("range takes 1 to 3 arguments");
  const numbers = positional.map((value) => integer(value, "an argument of range"));
  const [start, stop, stride] = numbers.length === 1 ? [0, numbers[0]!, 1] : [numbers[0]!, numbers[1]!, numbers[2] ?? 1];
  if (stride === 0) throw new TemplateError("range() arg 3 must not be zero");
  const result = new Range(start, stop, stride);
  if (!(result.length <= MAX_RANGE))
    throw new TemplateError(`range() of ${result.length} numbers is too long; expected at most ${MAX_RANGE}`);
  return result;
}

/** `dict(mapping, name=value)`. */
function dict(positional: readonly Value[], named: Named = NO_NAMES): Dict {
  if (positional.length > 1) throw new TemplateError("dict expected at most 1 argument");
  const result = new Dict();
  const add = (key: Value, value: Value): void => {
    spend(OBJECT_BYTES);
    result.set(key, value);
  };
  const [source] = positional;
  if (source instanceof Dict) for (const [key, value] of source.entries()) add(key, value);
  else if (source !== undefined) for (const pair of iterate(source)) add(...pairOf(pair));
  for (const [key, value] of named) add(key, value);
  return result;
}

function namespace(positional: readonly Value[], named: Named): Namespace {
  const attributes = dict(positional, named);
  const hidden = attributes.keys().find((key) => typeof key === "string" && key.startsWith("_"));
  if (hidden !== undefined) throw new TemplateError(`the attribute '${str(hidden)}' of a namespace begins with an underscore`);
  return new Namespace(attributes);
}

function cycler(items: readonly Value[]): Callable {
  if (items.length === 0) throw new TemplateError("at least one item has to be provided");
  let at = 0;
  const next = (): Value => {
    const value = items[at]!;
    at = (at + 1) % items.length;
    return value;
  };
  const refuse = (): never => {
    throw new TemplateError("'Cycler' object is not callable");
  };
  return new Callable("cycler", refuse, (name) => {
    if (name === "current") return items[at]!;
    if (name === "next") return new Callable("next", next);
    if (name !== "reset") return undefined;
    return new Callable("reset", () => {
      at = 0;
      return null;
    });
  });
}

function joiner(separator: Value): Callable {
  let isFirst = true;
  return new Callable("joiner", () => {
    const text = isFirst ? "" : separator;
    isFirst = false;
    return text;
  });
}

const GLOBALS = {
  range,
  dict,
  namespace,
  cycler,
  joiner: (positional: readonly Value[], named: Named) => joiner(orElse(orElse(positional[0], named.get("sep")!), ", ")),
  raise_exception: ([message = ""]: readonly Value[]): never => {
    throw new TemplateError(str(message));
  },
} as const;

/** Returns what Jinja and Transformers offer to a chat template. */
export function globalsFor({ now }: { readonly now: Date }): ReadonlyMap<string, Value> {
  const globals = new Map<string, Value>(
    Object.entries(GLOBALS).map(([name, call]) => {
      const attribute = (key: string): Value | undefined =>
        name === "dict" && key === "fromkeys"
          ? new Callable(key, ([keys, value = null]) => dictFromKeys(keys ?? new Undefined("keys"), value))
          : undefined;
      return [name, new Callable(name, call, attribute)];
    }),
  );
  const clock = ([format]: readonly Value[]): string => {
    if (typeof format !== "string") throw new TemplateError(`strftime() argument 1 must be str, not ${typeName(format ?? null)}`);
    return strftime(now, format);
  };
  return globals.set("strftime_now", new Callable("strftime_now", clock));
}
