import { JsonNumber, keysInOrder } from "../../../../base/exact-json.ts";
import { Dict, Float, int, type Value } from "./values.ts";

/** A value of JSON as Python has it. What JSON has no form for is not there: in an object it is left out, in a list None. */
export function fromJson(value: unknown): Value {
  if (typeof value === "string" || typeof value === "boolean" || value === null || value === undefined) return value ?? null;
  if (typeof value === "number") return Number.isSafeInteger(value) ? value + 0 : new Float(value);
  if (typeof value === "bigint") return int(value);
  if (value instanceof JsonNumber) return value.isFloat ? new Float(Number(value.source)) : int(BigInt(value.source));
  if (Array.isArray(value)) return value.map(fromJson);
  if (typeof value !== "object") return null;
  const dict = new Dict();
  const object = value as Readonly<Record<string, unknown>>;
  for (const key of keysInOrder(object)) {
    if (object[key] !== undefined) dict.set(key, fromJson(object[key]));
  }
  return dict;
}

/** About how many characters a value of JSON holds. */
export function sizeOf(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 8;
  let size = 8;
  for (const key in value) size += key.length + sizeOf((value as Record<string, unknown>)[key]);
  return size;
}
