import { dora } from "./dora.ts";
import type { AdapterKind } from "./kind.ts";
import { lora } from "./lora.ts";

/** Every kind of adapter. A kind is one file in this folder, a row here, and a fixture of test/golden/adapters. */
const KINDS = [lora, dora] as const satisfies readonly AdapterKind[];

export type AdapterMethod = (typeof KINDS)[number]["name"];

/** Names of all kinds: values of `--method`. */
export const ADAPTER_METHODS: readonly AdapterMethod[] = KINDS.map(({ name }) => name);

/** Each kind in words: "lora: low-rank adapters". */
export const ADAPTER_SUMMARIES: readonly string[] = KINDS.map(({ name, summary }) => `${name}: ${summary}`);

export function adapterKind(name: string): AdapterKind {
  const kind: AdapterKind | undefined = KINDS.find((candidate) => candidate.name === name);
  if (!kind) throw new Error(`no kind of adapter is named ${name}; ${ADAPTER_METHODS.join(", ")} exist`);
  return kind;
}

/** The kind that a configuration of PEFT means: that with the most of its flags. Null where there is none. */
export function kindOfPeft(type: string, isOn: (flag: string) => boolean): AdapterKind | null {
  const fitting = (KINDS as readonly AdapterKind[]).filter(({ peft }) => peft.type === type && peft.flags.every(isOn));
  return fitting.toSorted((a, b) => b.peft.flags.length - a.peft.flags.length)[0] ?? null;
}

/** Flags of PEFT's configuration that tell kinds apart. */
export const KIND_FLAGS: readonly string[] = [...new Set(KINDS.flatMap(({ peft }) => peft.flags))];

const SITES = (["linear", "head", "embedding"] as const).map((layer) => ({ layer, rows: 1, columns: 1 }));

/** Suffixes of the parts of all kinds, as files have them. */
export const PART_SUFFIXES: readonly string[] = [
  ...new Set(KINDS.flatMap((kind) => SITES.flatMap((site) => kind.parts(site, 1).map(({ suffix }) => suffix)))),
];

const CONSTANTS = new Set(KINDS.flatMap(({ computed }: AdapterKind) => computed?.constant ?? []));

/** Whether a parameter is a constant that is computed of others, which no file has. */
export function isConstant({ name }: { readonly name: string }): boolean {
  return CONSTANTS.has(name.slice(name.lastIndexOf(".") + 1));
}

const TRANSPOSED = new Set(
  KINDS.flatMap((kind: AdapterKind) => SITES.flatMap((site) => kind.parts(site, 1).filter(({ transposed }) => transposed))).map(
    ({ suffix }) => suffix,
  ),
);

/** Tells whether a parameter lies in memory with rows and columns exchanged. */
export function isTransposed(name: string): boolean {
  return [...TRANSPOSED].some((suffix) => name.endsWith(`.${suffix}`));
}
