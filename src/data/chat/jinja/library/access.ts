import { itemOf, plainAttribute } from "../values/items.ts";
import { methodOf } from "./methods.ts";
import { Callable, Dict, type Named, typeName, Undefined, type Value } from "../values/values.ts";

/** `object.name`, `object[key]` and slices, by the rules of Jinja's sandbox. */

/** What Python has of its own under such names is out of reach. */
const INTERNAL = /^__\w+__$/;

/** Methods that would change a value, which the sandbox of Transformers refuses. */
const CHANGING: Readonly<Record<string, readonly string[]>> = {
  list: ["append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"],
  dict: ["clear", "pop", "popitem", "setdefault", "update"],
};

/** An attribute or method, else the item of that name, else undefined. */
export function attribute(object: Value, name: string): Value {
  if (object instanceof Undefined) object.fail();
  const own = ownAttribute(object, name);
  if (own !== undefined) return own;
  const found = itemOf(object, name);
  return found === undefined ? new Undefined(name, object) : found;
}

/** An item, else (under a text) the attribute or method of that name, else undefined. */
export function item(object: Value, key: Value): Value {
  if (object instanceof Undefined) object.fail();
  const found = itemOf(object, key);
  if (found !== undefined) return found;
  const own = typeof key === "string" ? ownAttribute(object, key) : undefined;
  return own === undefined ? new Undefined(key, object) : own;
}

export function ownAttribute(object: Value, name: string): Value | undefined {
  const type = typeName(object);
  if ((INTERNAL.test(name) && !(object instanceof Dict && object.has(name))) || CHANGING[type]?.includes(name))
    return new Undefined(name, object, `access to attribute '${name}' of '${type}' object is unsafe`);
  const plain = plainAttribute(object, name);
  if (plain !== undefined) return plain;
  const method = methodOf(object, name);
  if (!method) return undefined;
  const call = (positional: readonly Value[], named: Named): Value => method.invoke(object, positional, named);
  return new Callable(name, call, undefined, () => `<built-in method ${name} of ${type} object>`);
}
