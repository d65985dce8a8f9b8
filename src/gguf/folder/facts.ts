import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import type { GgufFile, GgufValue } from "../read/container.ts";

/** The metadata of a file by key, each value of the type that is asked for. */
export interface Facts {
  readonly path: string;
  /** `general.architecture`. */
  readonly architecture: string;
  has(key: string): boolean;
  kind(key: string): "list" | "single" | "none";
  /** Null where the file does not have the key, as in the others. @throws {UserError} a value of another type */
  number(key: string): number | null;
  text(key: string): string | null;
  flag(key: string): boolean | null;
  numbers(key: string): readonly number[] | null;
  texts(key: string): readonly string[] | null;
  flags(key: string): readonly boolean[] | null;
  /** As `number`. @throws {UserError} also where the key is missing */
  expectNumber(key: string): number;
}

/** The key of a setting that is the architecture's own. */
const OWN = "general.architecture";

/** @throws {UserError} a file that does not name its architecture */
export function factsOf({ path, metadata }: Pick<GgufFile, "path" | "metadata">): Facts {
  const read = <T>(key: string, expected: string, is: (value: GgufValue) => value is GgufValue & T): T | null => {
    const value = metadata.get(key);
    if (value === undefined) return null;
    if (is(value)) return value;
    const given = typeof value === "bigint" ? String(value) : show(value);
    throw new UserError(`${path}: expected ${key} to be ${expected}, got ${given}`);
  };
  const number = (key: string) => read(key, "a number", isNumber);
  const text = (key: string) => read(key, "a text", isText);
  const architecture = text(OWN);
  if (architecture === null)
    throw new UserError(`${path} does not name its architecture (${OWN}); is it a model, and no adapter or vocabulary?`);
  return {
    path,
    architecture,
    has: (key) => metadata.has(key),
    kind: (key) => (Array.isArray(metadata.get(key)) ? "list" : metadata.has(key) ? "single" : "none"),
    number,
    text,
    flag: (key) => read(key, "true or false", isFlag),
    numbers: (key) => read(key, "a list of numbers", listOf(isNumber)),
    texts: (key) => read(key, "a list of texts", listOf(isText)),
    flags: (key) => read(key, "a list of true and false", listOf(isFlag)),
    expectNumber(key) {
      const value = number(key);
      if (value === null) throw new UserError(`${path} has no ${key}, which a model of ${architecture} needs; is it cut?`);
      return value;
    },
  };
}

const isNumber = (value: GgufValue): value is number => typeof value === "number";
const isText = (value: GgufValue): value is string => typeof value === "string";
const isFlag = (value: GgufValue): value is boolean => typeof value === "boolean";
const listOf =
  <T extends GgufValue>(is: (value: GgufValue) => value is T) =>
  (value: GgufValue): value is GgufValue & readonly T[] =>
    Array.isArray(value) && (value as readonly GgufValue[]).every(is);

/**
 * The shortest decimal number that an f32 was made of: files hold 1e-5 as 9.999999747378752e-6.
 * @param of makes the file's number of the one that is looked for; by default they are the same
 */
export function shortest(value: number, of = (decimal: number): number => decimal): number {
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(of(short)) === Math.fround(of(value))) return short;
  }
  return value;
}
