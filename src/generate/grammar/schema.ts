import { isRecord, show } from "../../base/json.ts";
import { UserError } from "../../base/errors.ts";
import { choice, type Expression, measure, oneText, type Reference } from "./expression.ts";
import { FORMAT_NAMES, formatOf, quoted } from "./formats.ts";
import { GREATEST, integersBetween } from "./integers.ts";
import * as json from "./json-text.ts";
import { MOST_PLACES, numbersBetween, scaled } from "./numbers.ts";
import { PatternError } from "./pattern.ts";

/** The longest place that is told: its names are the schema's. */
const LONGEST_PATH = 200;

/** A schema that cannot be followed, and the place in it. */
export class SchemaError extends UserError {
  readonly path: string;

  constructor(place: string, problem: string) {
    const path = place.length <= LONGEST_PATH ? place : `${place.slice(0, LONGEST_PATH - 3)}...`;
    super(`${path}: ${problem}`);
    this.path = path;
  }
}

type Schema = Readonly<Record<string, unknown>>;

const TYPES = ["object", "array", "string", "number", "integer", "boolean", "null"] as const;
type Type = (typeof TYPES)[number];

/** Keywords that say nothing about what is valid, or are read where others refer to them. */
const SILENT: ReadonlySet<string> = new Set([
  "$schema",
  "$id",
  "$comment",
  "$defs",
  "definitions",
  "title",
  "description",
  "default",
  "examples",
  "deprecated",
  "readOnly",
  "writeOnly",
]);

/** Keywords that say something about values of one type. */
const KEYWORDS = {
  object: ["properties", "required", "additionalProperties"],
  array: ["items", "minItems", "maxItems"],
  string: ["minLength", "maxLength", "format", "pattern"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
} as const;

/** The most of what a schema may have in all its parts; bytes are those of names and values. */
const MOST = { schemas: 5000, properties: 1000, values: 1000, patterns: 100, bytes: 128 << 10 } as const;

/**
 * The documents that a JSON schema lets through, or some of them: properties come in the order of the schema, and none that it does not name.
 * It is the part of the language that OpenAI's structured outputs take. @param path how messages call the schema
 * @throws {SchemaError} a keyword that is not known or cannot be followed, by its place; a schema that no document fits
 */
export function expressionOf(schema: unknown, path: string): Expression {
  const reader = createReader(schema, path);
  const expression = reader.read(schema, path, new Set());
  if (measure(expression)(expression) === Infinity)
    throw new SchemaError(path, "no document fits: whatever fits would have to contain itself without end");
  return expression;
}

interface Reader {
  /** @param open references that have been followed since the document's last byte */
  read(schema: unknown, path: string, open: ReadonlySet<string>): Expression;
}

/** Takes a number of things of what a schema may have. @throws {SchemaError} there are no more */
type Use = (what: keyof typeof MOST, count: number, path: string) => void;

function createReader(root: unknown, rootPath: string): Reader {
  const references = new Map<string, Reference>();
  const left: Record<keyof typeof MOST, number> = { ...MOST };
  const use: Use = (what, count, path) => {
    left[what] -= count;
    if (left[what] < 0) throw new SchemaError(path, `the schema has more than ${MOST[what]} ${what}`);
  };

  const read = (schema: unknown, path: string, open: ReadonlySet<string>): Expression => {
    use("schemas", 1, path);
    if (schema === true) return json.ANY_VALUE;
    if (!isRecord(schema)) throw new SchemaError(path, `expected a schema, got ${show(schema)}`);
    const keys = Object.keys(schema).filter((key) => !SILENT.has(key) && schema[key] !== undefined);
    const alone = (key: string, ...others: readonly string[]) => {
      const strange = keys.find((each) => each !== key && !others.includes(each));
      if (strange !== undefined) throw new SchemaError(`${path}.${strange}`, `it is not supported beside ${key}`);
    };
    if (keys.includes("$ref")) {
      alone("$ref");
      return readReference(schema["$ref"], path, open);
    }
    if (keys.includes("anyOf")) {
      alone("anyOf");
      const options = schema["anyOf"];
      if (!Array.isArray(options) || options.length === 0) throw new SchemaError(`${path}.anyOf`, "expected a list of schemas");
      return choice(...options.map((option, i) => read(option, `${path}.anyOf[${i}]`, open)));
    }
    if (keys.includes("const") || keys.includes("enum")) {
      const key = keys.includes("const") ? "const" : "enum";
      alone(key, "type");
      return readValues(schema, key, path, use);
    }
    return readTypes(schema, keys, path);
  };

  const readReference = (pointer: unknown, path: string, open: ReadonlySet<string>): Expression => {
    const place = `${path}.$ref`;
    if (typeof pointer !== "string" || !/^#(?:\/|$)/.test(pointer))
      throw new SchemaError(place, `expected a place in the schema, such as "#/$defs/NAME", got ${show(pointer)}`);
    if (open.has(pointer)) throw new SchemaError(place, "it refers to itself, with nothing in between");
    const known = references.get(pointer);
    if (known) return known;
    const reference: Reference = { kind: "reference", target: null };
    references.set(pointer, reference);
    const keys = pointer
      .split("/")
      .slice(1)
      .map((key) => decodeURIComponentSafely(key).replaceAll("~1", "/").replaceAll("~0", "~"));
    let target: unknown = root;
    for (const key of keys) {
      const inside: unknown = Array.isArray(target)
        ? target[Number(key)]
        : isRecord(target) && Object.hasOwn(target, key)
          ? target[key]
          : undefined;
      if (inside === undefined) throw new SchemaError(place, `there is no ${pointer} in the schema`);
      target = inside;
    }
    reference.target = read(target, [rootPath, ...keys].join("."), new Set([...open, pointer]));
    return reference;
  };

  const readTypes = (schema: Schema, keys: readonly string[], path: string): Expression => {
    const known: readonly string[] = ["type", ...Object.values(KEYWORDS).flat()];
    const strange = keys.find((key) => !known.includes(key));
    if (strange !== undefined) throw new SchemaError(`${path}.${strange}`, "it is not supported");
    if (schema["type"] !== undefined) return choice(...typesOf(schema["type"], path).map((type) => readType(type, schema, path)));
    // Without a type, values of other types than the keywords are about would be valid whatever they are.
    const [kind] = (Object.keys(KEYWORDS) as (keyof typeof KEYWORDS)[]).filter((each) =>
      KEYWORDS[each].some((key) => keys.includes(key)),
    );
    return kind === undefined ? json.ANY_VALUE : readType(kind, schema, path);
  };

  const readType = (type: Type, schema: Schema, path: string): Expression => {
    switch (type) {
      case "object":
        return readObject(schema, path, use, read);
      case "array": {
        const { least, most } = countsOf(schema, "minItems", "maxItems", path);
        const items = schema["items"] === undefined ? json.ANY_VALUE : read(schema["items"], `${path}.items`, new Set());
        return json.arrayOf(items, least, most);
      }
      case "string":
        if (schema["pattern"] !== undefined) use("patterns", 1, path);
        return readString(schema, path);
      case "number":
        return readNumber(schema, path);
      case "integer":
        return readInteger(schema, path);
      case "boolean":
        return json.BOOLEAN;
      case "null":
        return json.NULL;
    }
  };

  return { read };
}

function readValues(schema: Schema, key: "const" | "enum", path: string, use: Use): Expression {
  const values: unknown = key === "const" ? [schema["const"]] : schema["enum"];
  if (!Array.isArray(values)) throw new SchemaError(`${path}.enum`, `expected a list of values, got ${show(values)}`);
  const types = schema["type"] === undefined ? TYPES : typesOf(schema["type"], path);
  const fitting = values.filter((value) => types.some((type) => isOf(value, type)));
  if (fitting.length === 0) throw new SchemaError(`${path}.${key}`, "no value is of the type that is expected");
  const texts = fitting.map((value) => JSON.stringify(value));
  use("values", texts.length, path);
  use(
    "bytes",
    texts.reduce((sum, written) => sum + Buffer.byteLength(written), 0),
    path,
  );
  return oneText(texts);
}

function readObject(schema: Schema, path: string, use: Use, read: Reader["read"]): Expression {
  const { properties, required = [], additionalProperties } = schema;
  if (![undefined, true, false].includes(additionalProperties as undefined))
    throw new SchemaError(`${path}.additionalProperties`, "only false is supported: list the properties");
  if (!Array.isArray(required) || !required.every((name) => typeof name === "string"))
    throw new SchemaError(`${path}.required`, "expected a list of names");
  if (properties === undefined && additionalProperties !== false && required.length === 0) return json.ANY_OBJECT;
  if (properties !== undefined && !isRecord(properties))
    throw new SchemaError(`${path}.properties`, `expected schemas by name, got ${show(properties)}`);
  const entries = Object.entries(properties ?? {});
  const missing = required.find((name) => !Object.hasOwn(properties ?? {}, name));
  if (missing !== undefined) throw new SchemaError(`${path}.required`, `${show(missing)} is none of the properties`);
  use("properties", entries.length, path);
  use(
    "bytes",
    entries.reduce((sum, [name]) => sum + Buffer.byteLength(name), 0),
    path,
  );
  return json.objectOf(
    entries.map(([name, value]) => ({
      name,
      value: read(value, `${path}.properties.${name}`, new Set()),
      isRequired: required.includes(name),
    })),
  );
}

function readString(schema: Schema, path: string): Expression {
  const { format, pattern } = schema;
  const { least, most } = countsOf(schema, "minLength", "maxLength", path);
  if (format === undefined && pattern === undefined) return json.stringOf(least, most);
  const beside = ["minLength", "maxLength"].find((key) => schema[key] !== undefined);
  if (beside !== undefined)
    throw new SchemaError(`${path}.${beside}`, `it is not supported beside ${pattern === undefined ? "format" : "pattern"}`);
  if (pattern === undefined) {
    const expression = formatOf(format);
    if (expression) return expression;
    throw new SchemaError(`${path}.format`, `only ${FORMAT_NAMES.join(", ")} are supported, not ${show(format)}`);
  }
  // A form beside a pattern is what the pattern is made for.
  if (typeof pattern !== "string")
    throw new SchemaError(`${path}.pattern`, `expected a regular expression, got ${show(pattern)}`);
  try {
    return quoted(pattern);
  } catch (error) {
    if (!(error instanceof PatternError)) throw error;
    throw new SchemaError(`${path}.pattern`, error.message);
  }
}

function readNumber(schema: Schema, path: string): Expression {
  const bounds = KEYWORDS.number.map((key) => {
    const bound = boundOf(schema, key, path);
    const units = bound === null ? null : scaled(bound);
    if (bound !== null && units === null)
      throw new SchemaError(`${path}.${key}`, `bounds of more than ${MOST_PLACES} decimal places are not supported`);
    return units;
  });
  if (bounds.every((units) => units === null)) return json.NUMBER;
  const [low, high, above, below] = bounds as [bigint | null, bigint | null, bigint | null, bigint | null];
  const least = greatest(low, above === null ? null : above + 1n);
  const most = greatest(high === null ? null : -high, below === null ? null : 1n - below);
  const expression = numbersBetween(least ?? LEAST, most === null ? -LEAST : -most);
  if (expression === null) throw new SchemaError(path, `no number of at most ${json.MOST_DIGITS} digits is within the bounds`);
  return expression;
}

/** Less than any number that is written, in units of the last place. */
const LEAST = scaled(-1e15)!;

const greatest = (a: bigint | null, b: bigint | null): bigint | null => (a === null ? b : b === null || a > b ? a : b);

function readInteger(schema: Schema, path: string): Expression {
  const low = boundOf(schema, "minimum", path) ?? -Infinity;
  const above = boundOf(schema, "exclusiveMinimum", path) ?? -Infinity;
  const high = boundOf(schema, "maximum", path) ?? Infinity;
  const below = boundOf(schema, "exclusiveMaximum", path) ?? Infinity;
  const least = Math.max(-GREATEST, Math.ceil(low), Math.floor(above) + 1);
  const most = Math.min(GREATEST, Math.floor(high), Math.ceil(below) - 1);
  if (least > most) throw new SchemaError(path, `no integer of at most ${json.MOST_DIGITS} digits is within the bounds`);
  return least === -GREATEST && most === GREATEST ? json.INTEGER : integersBetween(least, most);
}

function boundOf(schema: Schema, key: string, path: string): number | null {
  const bound = schema[key];
  if (bound === undefined) return null;
  if (typeof bound !== "number" || !Number.isFinite(bound))
    throw new SchemaError(`${path}.${key}`, `expected a number, got ${show(bound)}`);
  return bound;
}

function countsOf(schema: Schema, low: string, high: string, path: string): { readonly least: number; readonly most: number } {
  for (const key of [low, high]) {
    const count = schema[key];
    if (count !== undefined && (!Number.isSafeInteger(count) || (count as number) < 0))
      throw new SchemaError(`${path}.${key}`, `expected a whole number, got ${show(count)}`);
  }
  const least = (schema[low] as number | undefined) ?? 0;
  const most = (schema[high] as number | undefined) ?? Infinity;
  if (least > most) throw new SchemaError(`${path}.${low}`, `it is greater than ${high}`);
  return { least, most };
}

function typesOf(type: unknown, path: string): Type[] {
  const names: readonly unknown[] = Array.isArray(type) ? type : [type];
  const strange = names.find((name) => !TYPES.includes(name as Type));
  if (strange !== undefined || names.length === 0)
    throw new SchemaError(`${path}.type`, `expected one of ${TYPES.join(", ")} or a list of them, got ${show(type)}`);
  return [...new Set(names as readonly Type[])];
}

function isOf(value: unknown, type: Type): boolean {
  switch (type) {
    case "object":
      return isRecord(value);
    case "array":
      return Array.isArray(value);
    case "integer":
      return Number.isInteger(value);
    case "null":
      return value === null;
    default:
      return typeof value === type;
  }
}

function decodeURIComponentSafely(key: string): string {
  try {
    return decodeURIComponent(key);
  } catch {
    return key;
  }
}
