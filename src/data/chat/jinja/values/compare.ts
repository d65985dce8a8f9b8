import { TemplateError } from "../errors.ts";
import { iterate } from "./items.ts";
import { scan, search, step } from "../meter.ts";
import { Dict, isList, numberOf, Range, Tuple, typeName, Undefined, type Value, View } from "./values.ts";

/** Python's comparisons of values. */

export function equal(a: Value, b: Value): boolean {
  if (typeof a === "string" || a === null) {
    if (typeof a === "string" && typeof b === "string" && a.length === b.length) scan(a);
    return a === b;
  }
  const [x, y] = [numberOf(a), numberOf(b)];
  // Numbers of both kinds compare exactly with ==.
  if (x !== null || y !== null) return x !== null && y !== null && x == y;
  if (isList(a)) return isList(b) && equalItems(a, b);
  if (a instanceof Tuple) return b instanceof Tuple && equalItems(a.items, b.items);
  if (a instanceof Dict) {
    if (!(b instanceof Dict) || a.size !== b.size) return false;
    return (
      a === b ||
      a.entries().every(([key, value]) => {
        step();
        const other = b.get(key);
        return other !== undefined && same(value, other);
      })
    );
  }
  if (a instanceof Undefined) return b instanceof Undefined;
  if (a instanceof Range && b instanceof Range) {
    if (a.length !== b.length || a.length === 0) return a.length === b.length;
    return a.start === b.start && (a.length === 1 || a.stride === b.stride);
  }
  if (a instanceof View && b instanceof View && a.kind === b.kind && a.kind !== "values")
    return a.dict.size === b.dict.size && a.items().every((item) => contains(b, item));
  return a === b;
}

/** As items of lists are compared: what is itself is equal, NaN too. */
export function same(a: Value, b: Value): boolean {
  return a === b || equal(a, b);
}

function equalItems(a: readonly Value[], b: readonly Value[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  step(a.length);
  return a.every((item, i) => same(item, b[i]!));
}

/** The order of two values: below 0, 0 or above; NaN where a number has none. @throws {TemplateError} values without an order */
export function order(a: Value, b: Value, operator = "<"): number {
  if (typeof a === "string" && typeof b === "string") return textOrder(a, b);
  const [x, y] = [numberOf(a), numberOf(b)];
  if (x !== null && y !== null) return x < y ? -1 : x > y ? 1 : x == y ? 0 : NaN;
  const [items, others] = isList(a) && isList(b) ? [a, b] : a instanceof Tuple && b instanceof Tuple ? [a.items, b.items] : [];
  if (items && others) {
    step(Math.min(items.length, others.length));
    for (let i = 0; i < Math.min(items.length, others.length); i++) {
      if (!same(items[i]!, others[i]!)) return order(items[i]!, others[i]!, operator);
    }
    return items.length - others.length;
  }
  for (const value of [a, b]) if (value instanceof Undefined) value.fail();
  throw new TemplateError(`'${operator}' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** By code points, which UTF-16 units of surrogates are not in the order of. */
function textOrder(a: string, b: string): number {
  if (a === b) return 0;
  const limit = Math.min(a.length, b.length);
  let i = 0;
  while (i < limit && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  step(i >> 6);
  if (i === limit) return a.length - b.length;
  const rank = (unit: number): number => (unit >= 0xe000 ? unit - 0x2000 : unit >= 0xd800 ? unit + 0x2000 : unit);
  return rank(a.charCodeAt(i)) - rank(b.charCodeAt(i));
}

export function contains(container: Value, item: Value): boolean {
  if (typeof container === "string") {
    if (typeof item !== "string") {
      if (item instanceof Undefined) throw new TemplateError(`'in <string>' requires string as left operand, not Undefined`);
      throw new TemplateError(`'in <string>' requires string as left operand, not ${typeName(item)}`);
    }
    search(container, item);
    return container.includes(item);
  }
  if (container instanceof Dict) return container.has(item);
  if (container instanceof View && container.kind === "keys") return container.dict.has(item);
  for (const other of iterate(container)) {
    step();
    if (same(item, other)) return true;
  }
  return false;
}

export type Comparison = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "not in";

export function compare(operator: Comparison, a: Value, b: Value): boolean {
  switch (operator) {
    case "==":
      return equal(a, b);
    case "!=":
      return !equal(a, b);
    case "in":
      return contains(b, a);
    case "not in":
      return !contains(b, a);
    case "<":
      return order(a, b, operator) < 0;
    case "<=":
      return order(a, b, operator) <= 0;
    case ">":
      return order(a, b, operator) > 0;
    case ">=":
      return order(a, b, operator) >= 0;
  }
}
