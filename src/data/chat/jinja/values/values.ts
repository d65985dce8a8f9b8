import { TemplateError } from "../errors.ts";

/**
 * Values as Python has them. A `number` is an int that JavaScript holds exactly, a `bigint` any other; a text's items are its
 * code points; no value changes once it is made, but for namespaces (the sandbox of Transformers forbids the rest).
 */
export type Value =
  | null
  | boolean
  | string
  | number
  | bigint
  | Float
  | Tuple
  | Dict
  | View
  | Range
  | Iter
  | Undefined
  | Namespace
  | Callable
  | readonly Value[];

export class Float {
  constructor(readonly value: number) {}
}

export class Tuple {
  /** @param names attributes of the items, of a named tuple */
  constructor(
    readonly items: readonly Value[],
    readonly names: readonly string[] = [],
  ) {}
}

/** Python's range; steps of any sign but 0. */
export class Range {
  readonly length: number;

  constructor(
    readonly start: number,
    readonly stop: number,
    readonly stride: number,
  ) {
    this.length = Math.max(0, Math.ceil((stop - start) / stride));
  }

  at(index: number): number {
    return this.start + index * this.stride;
  }
}

/** Describes what a dict is filed by: keys that are equal in Python (`1`, `1.0` and `True`) have the same. */
type Hash = unknown;

export class Dict {
  private readonly values = new Map<Hash, Value>();
  /** Keys that are not their own hash. */
  private readonly originals = new Map<Hash, Value>();

  static of(entries: Iterable<readonly [Value, Value]>): Dict {
    const dict = new Dict();
    for (const [key, value] of entries) dict.set(key, value);
    return dict;
  }

  get size(): number {
    return this.values.size;
  }

  /** undefined: it has none. */
  get(key: Value): Value | undefined {
    return this.values.get(hashOf(key));
  }

  has(key: Value): boolean {
    return this.values.has(hashOf(key));
  }

  set(key: Value, value: Value): void {
    const hash = hashOf(key);
    if (hash !== key && !this.values.has(hash)) this.originals.set(hash, key);
    this.values.set(hash, value);
  }

  keys(): Value[] {
    return Array.from(this.values.keys(), (hash) => this.original(hash));
  }

  entries(): (readonly [Value, Value])[] {
    return Array.from(this.values, ([hash, value]) => [this.original(hash), value] as const);
  }

  private original(hash: Hash): Value {
    // No key that is not its own hash is None.
    return this.originals.get(hash) ?? (hash as Value);
  }
}

/** `dict.keys()`, `dict.values()`, `dict.items()`. */
export class View {
  constructor(
    readonly kind: "keys" | "values" | "items",
    readonly dict: Dict,
  ) {}

  items(): readonly Value[] {
    if (this.kind === "keys") return this.dict.keys();
    return this.dict.entries().map((entry) => (this.kind === "values" ? entry[1] : new Tuple(entry)));
  }
}

/** Describes what gives its items once: a generator, or `reversed`. */
export class Iter {
  /** @param type Python's name */
  constructor(
    readonly items: Iterator<Value>,
    readonly type = "generator",
  ) {}
}

/** A value that is not there: it prints as nothing, is false and empty, and everything else is refused. */
export class Undefined {
  /**
   * @param name of the variable, or of the attribute (a key that is no text: the item) that `of` lacks
   * @param hint the message, where a name does not say it
   */
  constructor(
    readonly name: Value,
    readonly of: Value | undefined = undefined,
    readonly hint: string | null = null,
  ) {}

  fail(): never {
    throw new TemplateError(this.message());
  }

  message(): string {
    if (this.hint !== null) return this.hint;
    const name = typeof this.name === "string" ? `'${this.name}'` : String(this.name);
    if (this.of === undefined) return `${name} is undefined`;
    const object = this.of === null ? "None" : `${typeName(this.of)} object`;
    return typeof this.name === "string" ? `'${object}' has no attribute ${name}` : `${object} has no element ${name}`;
  }
}

/** The one value that changes. */
export class Namespace {
  constructor(readonly attributes: Dict) {}
}

export type Named = ReadonlyMap<string, Value>;

export const NO_NAMES: Named = new Map();

/** A macro, a function, a method of a value, a loop. */
export class Callable {
  constructor(
    readonly name: string,
    readonly call: (positional: readonly Value[], named: Named) => Value,
    /** Values of attributes by name; undefined: it has none. */
    readonly attribute: (name: string) => Value | undefined = () => undefined,
    /** The text that the function prints as. */
    readonly text: () => string = () => `<function ${name}>`,
  ) {}
}

export function typeName(value: Value): string {
  if (value === null) return "NoneType";
  if (typeof value === "boolean") return "bool";
  if (typeof value === "string") return "str";
  if (typeof value === "number" || typeof value === "bigint") return "int";
  if (value instanceof Float) return "float";
  if (value instanceof Tuple) return "tuple";
  if (value instanceof Dict) return "dict";
  if (value instanceof View) return `dict_${value.kind}`;
  if (value instanceof Range) return "range";
  if (value instanceof Iter) return value.type;
  if (value instanceof Undefined) return "Undefined";
  if (value instanceof Namespace) return "Namespace";
  if (value instanceof Callable) return "function";
  return "list";
}

/** A value, or another where there is none; None is a value. */
export function orElse(value: Value | undefined, otherwise: Value): Value {
  return value === undefined ? otherwise : value;
}

export function isList(value: Value): value is readonly Value[] {
  return Array.isArray(value);
}

/** The number of an int, a float or a bool (an int there), for comparison and arithmetic; null: it is none. */
export function numberOf(value: Value): number | bigint | null {
  if (typeof value === "number" || typeof value === "bigint") return value;
  if (typeof value === "boolean") return value ? 1 : 0;
  return value instanceof Float ? value.value : null;
}

/** The number of an int or a bool; null: it is none. */
export function intOf(value: Value): number | bigint | null {
  return value instanceof Float ? null : numberOf(value);
}

/** An int by the rule of `Value`. */
export function int(value: number | bigint): number | bigint {
  if (typeof value === "number") return Number.isSafeInteger(value) ? value + 0 : BigInt(value);
  return value >= Number.MIN_SAFE_INTEGER && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

function hashOf(key: Value): Hash {
  if (typeof key === "string" || typeof key === "number" || typeof key === "bigint" || key === null) return key;
  if (typeof key === "boolean") return key ? 1 : 0;
  if (key instanceof Float) return Number.isInteger(key.value) ? int(key.value) : key.value;
  if (key instanceof Tuple) return Symbol.for(JSON.stringify(key.items.map(hashText)));
  if (key instanceof Undefined) return Undefined;
  if (isList(key) || key instanceof Dict || (key instanceof View && key.kind !== "values"))
    throw new TemplateError(`unhashable type: '${typeName(key)}'`);
  return key;
}

/** Tells hashes of a tuple's items apart. */
function hashText(item: Value): string {
  const hash = hashOf(item);
  if (hash instanceof Object) throw new TemplateError("a key can hold plain values only");
  return `${typeof hash === "bigint" ? "number" : typeof hash} ${typeof hash === "symbol" ? Symbol.keyFor(hash)! : String(hash)}`;
}

export function truth(value: Value): boolean {
  if (typeof value === "boolean") return value;
  if (typeof value === "string" || isList(value)) return value.length > 0;
  if (value === null || value instanceof Undefined) return false;
  if (value instanceof Tuple) return value.items.length > 0;
  if (value instanceof Dict) return value.size > 0;
  if (value instanceof View) return value.dict.size > 0;
  if (value instanceof Range) return value.length > 0;
  const number = numberOf(value);
  return number === null || Number.isNaN(number) || Boolean(number);
}
