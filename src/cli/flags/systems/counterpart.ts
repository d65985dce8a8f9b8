import { flagName } from "../../../base/names.ts";
import type { TrainConfigInput, TrainConfigKey } from "../../../train/config.ts";

/** Values of a configuration here. */
export type Settings = { readonly [Key in TrainConfigKey]?: TrainConfigInput[Key] | undefined };

/** Describes what a value of another system's key means here. */
export type Meaning =
  /** Settings, none where the value is what is always done here; and what a reader should know of it. */
  | { readonly set: Settings; readonly note?: string }
  /** Advice about a value without a counterpart, without the key. */
  | { readonly problem: string };

/** Describes what a key or flag of another system is here. */
export interface Counterpart {
  /** A flag, with its value where it has one: `--rank`, `--quantize nf4`; null where there is none. */
  readonly flag: string | null;
  /** Sentence about a name that has no flag: why none is needed, or what is missing. */
  readonly why: string | null;
  /** True if what the name asks for is not done here. */
  readonly isMissing?: boolean;
  /**
   * @param folder that relative paths start from
   * @param before what the keys that come earlier in the table have set
   */
  read(value: unknown, folder: string, before: Settings): Meaning;
}

export type Table = Readonly<Record<string, Counterpart>>;

export const NOTHING: Meaning = { set: {} };

/** Tells whether a value says nothing: absent, switched off or empty. */
export function isOff(value: unknown): boolean {
  if (value === null || value === undefined || value === false || value === "") return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && Object.keys(value).length === 0;
}

export const problem = (text: string): Meaning => ({ problem: text });

/** A key with a counterpart that takes the same values, or what `read` makes of them. An absent value says nothing. */
export function to(key: TrainConfigKey, read: Counterpart["read"] = (value) => ({ set: { [key]: value } })): Counterpart {
  return { flag: flagName(key), why: null, read: (value, ...rest) => (value === null ? NOTHING : read(value, ...rest)) };
}

/** The beta of dpo, or of kto where that is the objective. */
export const preferenceBeta: Counterpart = to("dpoBeta", (value, _, { objective }) => ({
  set: { [objective === "kto" ? "ktoBeta" : "dpoBeta"]: value },
}));

/** A switch that is one value of a setting here. */
export function switches(key: TrainConfigKey, value: string | boolean): Counterpart {
  const name = flagName(key);
  const flag = typeof value === "string" ? `${name} ${value}` : value ? name : name.replace("--", "--no-");
  return { flag, why: null, read: (written) => (isOff(written) ? NOTHING : { set: { [key]: value } }) };
}

/** A flag of another verb than `train`. */
export function verbFlag(flag: string): Counterpart {
  return { flag, why: null, read: () => ({ set: {}, note: `it is ${flag} of another verb here` }) };
}

/** A key that is not needed: all values that `fits` takes mean what is done in any case. */
export function needless(why: string, fits: (value: unknown) => boolean = () => true, otherwise = why): Counterpart {
  return { flag: null, why, read: (value) => (value === null || fits(value) ? NOTHING : problem(otherwise)) };
}

/** A key whose work is not done here, unless it is switched off. */
export function missing(why: string, isFine: (value: unknown) => boolean = isOff): Counterpart {
  return { flag: null, why, isMissing: true, read: (value) => (isFine(value) ? NOTHING : problem(why)) };
}

/** The same counterpart for several names. */
export function each(names: string, counterpart: Counterpart): Table {
  return Object.fromEntries(names.split(" ").map((name) => [name, counterpart]));
}

export const isOneOf =
  (...values: unknown[]) =>
  (value: unknown): boolean =>
    values.includes(value) || isOff(value);
