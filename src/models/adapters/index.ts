import { dora } from "./dora.ts";
import { ia3 } from "./ia3.ts";
import type { AdapterKind, PartName } from "./kind.ts";
import { lora } from "./lora.ts";
import { isAdapter } from "./names.ts";

/** Every kind of adapter. A kind is one file in this folder, a row here, and a fixture of test/golden/adapters. */
const KINDS = [lora, dora, ia3] as const;

/** The same without what is each kind's own in their types. */
const ANY: readonly AdapterKind[] = KINDS;

export type AdapterMethod = (typeof KINDS)[number]["name"];

/** Names of all kinds: values of `--method`. */
export const ADAPTER_METHODS: readonly AdapterMethod[] = KINDS.map(({ name }) => name);

/** Each kind in words: "lora: low-rank adapters". */
export const ADAPTER_SUMMARIES: readonly string[] = KINDS.map(({ name, summary }) => `${name}: ${summary}`);

/** What the kinds are called, in a sentence: "LoRA or DoRA". */
export const ADAPTER_TITLES = `${ANY.slice(0, -1)
  .map(({ title }) => title)
  .join(", ")} or ${ANY.at(-1)!.title}`;

type FlagsOf<T extends readonly unknown[]> = T extends readonly [{ readonly flags: infer F }, ...infer Rest]
  ? F & FlagsOf<Rest>
  : unknown;

/** The flags of all kinds, by configuration key. */
export const ADAPTER_FLAGS = Object.assign({}, ...KINDS.map(({ flags }) => flags)) as FlagsOf<typeof KINDS>;

export type AdapterFlag = keyof typeof ADAPTER_FLAGS;

/** The same keys, to pick them of a schema. */
export const ADAPTER_KEYS = Object.fromEntries(Object.keys(ADAPTER_FLAGS).map((key) => [key, true])) as {
  readonly [Key in AdapterFlag]: true;
};

/** The names of the kinds that have a flag. */
export const methodsWith = (flag: string): string[] => ANY.filter(({ flags }) => flag in flags).map(({ name }) => name);

/** Returns which modules get an adapter where a run names none, in words: the usual ones, then those of each kind with others. */
export function defaultTargets(usual: string): string {
  return [usual, ...ANY.flatMap(({ name, targets }) => (targets ? [`${name}: ${targets.description}`] : []))].join("; ");
}

export function adapterKind(name: string): AdapterKind {
  const kind = ANY.find((candidate) => candidate.name === name);
  if (!kind) throw new Error(`no kind of adapter is named ${name}; ${ADAPTER_METHODS.join(", ")} exist`);
  return kind;
}

/** The kind that a configuration of PEFT means: that with the most of its flags. Null where there is none. */
export function kindOfPeft(type: string, isOn: (flag: string) => boolean): AdapterKind | null {
  const fitting = ANY.filter(({ peft }) => peft.type === type && peft.flags.every(isOn));
  return fitting.toSorted((a, b) => b.peft.flags.length - a.peft.flags.length)[0] ?? null;
}

/** The flags of PEFT's configuration that tell a kind from others of its type, each as the kind has it. */
export function flagsOfPeft({ peft: { type, flags } }: AdapterKind): Readonly<Record<string, boolean>> {
  const all = ANY.filter(({ peft }) => peft.type === type).flatMap(({ peft }) => peft.flags);
  return Object.fromEntries(all.map((flag) => [flag, flags.includes(flag)]));
}

const PARTS: readonly PartName[] = ANY.flatMap(({ names }) => Object.values(names).flat());

const suffixes = (parts: readonly PartName[]): readonly string[] => [...new Set(parts.map(({ suffix }) => suffix))];

/** Suffixes of the parts of all kinds, as files have them. */
export const PART_SUFFIXES: readonly string[] = suffixes(PARTS);

const CONSTANTS = new Set(ANY.flatMap(({ computed }) => computed?.constant ?? []));

/** Whether a parameter is a constant that is computed of others, which no file has. */
export function isConstant({ name }: { readonly name: string }): boolean {
  return CONSTANTS.has(name.slice(name.lastIndexOf(".") + 1));
}

/** Tells whether a parameter is one of an adapter that files have. */
export const isAdapterPart = (param: { readonly name: string }): boolean => isAdapter(param) && !isConstant(param);

const TRANSPOSED = suffixes(PARTS.filter(({ transposed }) => transposed));
const VECTORS = suffixes(PARTS.filter(({ vector }) => vector));

/** Tells whether a parameter lies in memory with rows and columns exchanged. */
export function isTransposed(name: string): boolean {
  return TRANSPOSED.some((suffix) => name.endsWith(`.${suffix}`));
}

/** Tells whether a parameter is a vector whatever its shape: one row or column of factors. */
export function isVectorPart(name: string): boolean {
  return VECTORS.some((suffix) => name.endsWith(`.${suffix}`));
}
