import { TemplateError } from "../errors.ts";
import { ITEM_BYTES, scan, spend, step } from "../meter.ts";
import { characters, codePoints, repr, textLength } from "./text.ts";
import {
  Callable,
  Dict,
  Float,
  intOf,
  isList,
  Iter,
  Namespace,
  numberOf,
  Range,
  Tuple,
  typeName,
  Undefined,
  type Value,
  View,
} from "./values.ts";

/** The contents of a value: its items, their number, one of them, a slice; and its attributes, methods excepted. */

/** The items of a value, in a loop. @throws {TemplateError} a value without items */
export function iterate(value: Value): Iterable<Value> {
  if (isList(value)) return value;
  if (value instanceof Tuple) return value.items;
  if (value instanceof Dict) return value.keys();
  if (value instanceof View) return value.items();
  if (typeof value === "string") return characters(value);
  if (value instanceof Undefined) return [];
  if (value instanceof Iter) return { [Symbol.iterator]: () => value.items };
  if (value instanceof Range) return rangeItems(value);
  throw new TemplateError(`'${typeName(value)}' object has no items to go through`);
}

export function isIterable(value: Value): boolean {
  return value instanceof Iter || lengthOf(value) !== null;
}

function* rangeItems(range: Range): Generator<Value> {
  for (let i = 0; i < range.length; i++) yield range.at(i);
}

/** A list of a value's items. */
export function listOf(value: Value): readonly Value[] {
  const items: Value[] = [];
  for (const item of iterate(value)) {
    step();
    spend(ITEM_BYTES);
    items.push(item);
  }
  return items;
}

/** Python's `len`; null: the value has none. */
export function lengthOf(value: Value): number | null {
  if (typeof value === "string") {
    scan(value);
    return textLength(value);
  }
  if (isList(value)) return value.length;
  if (value instanceof Tuple) return value.items.length;
  if (value instanceof Dict) return value.size;
  if (value instanceof View) return value.dict.size;
  if (value instanceof Range) return value.length;
  return value instanceof Undefined ? 0 : null;
}

/** Counts a new list. */
export function reserve(length: number): void {
  step(length);
  spend(ITEM_BYTES * length);
}

/** @throws {TemplateError} not an int */
export function integer(value: Value, what: string): number {
  const number = intOf(value);
  if (number === null) throw new TemplateError(`${what} must be an integer, got ${repr(value)}`);
  return Number(number);
}

/** undefined: there is no such item. */
export function itemOf(object: Value, key: Value): Value | undefined {
  if (object instanceof Dict) {
    // A key that cannot be one is only not there.
    if (isList(key) || key instanceof Dict) return undefined;
    return object.get(key);
  }
  const number = intOf(key);
  if (number === null) return undefined;
  const index = Number(number);
  if (typeof object === "string") {
    const points = codePoints(object);
    return points ? points.at(index) : index < 0 ? object[object.length + index] : object[index];
  }
  if (isList(object)) return object.at(index);
  if (object instanceof Tuple) return object.items.at(index);
  if (!(object instanceof Range)) return undefined;
  const at = index < 0 ? object.length + index : index;
  return at >= 0 && at < object.length ? object.at(at) : undefined;
}

/** `object[start:stop:stride]`; null: left out. */
export function slice(object: Value, bounds: readonly [Value, Value, Value]): Value {
  if (object instanceof Undefined) object.fail();
  const length =
    typeof object === "string" || isList(object) || object instanceof Tuple || object instanceof Range ? lengthOf(object) : null;
  if (length === null) throw new TemplateError(`'${typeName(object)}' object is not subscriptable by a slice`);
  const [start, stop, stride] = sliceBounds(bounds, length);
  const indices = new Range(start, stop, stride);
  if (object instanceof Range) return new Range(object.at(start), object.at(stop), object.stride * stride);
  if (typeof object === "string") {
    const points = codePoints(object) ?? object;
    if (stride === 1)
      return typeof points === "string" ? points.slice(start, Math.max(start, stop)) : points.slice(start, stop).join("");
    reserve(indices.length);
    return Array.from({ length: indices.length }, (_, i) => points[indices.at(i)]!).join("");
  }
  const items = isList(object) ? object : (object as Tuple).items;
  reserve(indices.length);
  const part = Array.from({ length: indices.length }, (_, i) => items[indices.at(i)]!);
  return isList(object) ? part : new Tuple(part);
}

/** Python's `slice(...).indices(length)`. */
function sliceBounds(bounds: readonly [Value, Value, Value], length: number): [number, number, number] {
  const number = (value: Value): number | null => {
    if (value === null) return null;
    const whole = intOf(value);
    if (whole === null) throw new TemplateError("slice indices must be integers or None");
    return Number(whole);
  };
  const stride = number(bounds[2]) ?? 1;
  if (stride === 0) throw new TemplateError("slice step cannot be zero");
  const [lowest, highest] = stride > 0 ? [0, length] : [-1, length - 1];
  const bound = (value: number | null, otherwise: number): number =>
    value === null ? otherwise : Math.min(highest, Math.max(lowest, value < 0 ? value + length : value));
  return stride > 0
    ? [bound(number(bounds[0]), 0), bound(number(bounds[1]), length), stride]
    : [bound(number(bounds[0]), length - 1), bound(number(bounds[1]), -1), stride];
}

/** An attribute that is no method; undefined: there is none. */
export function plainAttribute(object: Value, name: string): Value | undefined {
  const number = numberOf(object);
  if (number !== null && (name === "real" || name === "imag")) {
    if (object instanceof Float) return name === "real" ? object : new Float(0);
    return name === "real" ? number : 0;
  }
  if (object instanceof Namespace) return object.attributes.get(name);
  if (object instanceof Callable) return object.attribute(name);
  if (object instanceof Tuple && object.names.includes(name)) return object.items[object.names.indexOf(name)];
  if (!(object instanceof Range)) return undefined;
  return { start: object.start, stop: object.stop, step: object.stride }[name];
}
