/** A tensor's numbers in a GGUF file: blocks of so many elements, each of so many bytes. */
interface Blocks {
  /** ggml's number of the type. */
  readonly id: number;
  readonly elements: number;
  readonly bytes: number;
}

/** The types of tensors that are read; those that are written are among them. */
export const GGML_TYPES = {
  f32: { id: 0, elements: 1, bytes: 4 },
  f16: { id: 1, elements: 1, bytes: 2 },
  q4_0: { id: 2, elements: 32, bytes: 18 },
  q4_1: { id: 3, elements: 32, bytes: 20 },
  q5_0: { id: 6, elements: 32, bytes: 22 },
  q5_1: { id: 7, elements: 32, bytes: 24 },
  q8_0: { id: 8, elements: 32, bytes: 34 },
  q2_k: { id: 10, elements: 256, bytes: 84 },
  q3_k: { id: 11, elements: 256, bytes: 110 },
  q4_k: { id: 12, elements: 256, bytes: 144 },
  q5_k: { id: 13, elements: 256, bytes: 176 },
  q6_k: { id: 14, elements: 256, bytes: 210 },
  iq4_nl: { id: 20, elements: 32, bytes: 18 },
  iq4_xs: { id: 23, elements: 256, bytes: 136 },
  bf16: { id: 30, elements: 1, bytes: 2 },
  mxfp4: { id: 39, elements: 32, bytes: 17 },
} as const satisfies Readonly<Record<string, Blocks>>;

export type GgmlType = keyof typeof GGML_TYPES;

/** Types that ggml has beside them, by number, for messages. */
const OTHERS: Readonly<Record<number, string>> = {
  4: "Q4_2",
  5: "Q4_3",
  9: "Q8_1",
  15: "Q8_K",
  16: "IQ2_XXS",
  17: "IQ2_XS",
  18: "IQ3_XXS",
  19: "IQ1_S",
  21: "IQ3_S",
  22: "IQ2_S",
  24: "I8",
  25: "I16",
  26: "I32",
  27: "I64",
  28: "F64",
  29: "IQ1_M",
  31: "Q4_0_4_4",
  32: "Q4_0_4_8",
  33: "Q4_0_8_8",
  34: "TQ1_0",
  35: "TQ2_0",
  40: "NVFP4",
  41: "Q1_0",
};

const BY_NUMBER: ReadonlyMap<number, GgmlType> = new Map(
  Object.entries(GGML_TYPES).map(([name, { id }]) => [id, name as GgmlType]),
);

/** The type of a number; null: it is not read. */
export const typeOfNumber = (id: number): GgmlType | null => BY_NUMBER.get(id) ?? null;

/** The name of a type that is not read. */
export const nameOfNumber = (id: number): string => OTHERS[id] ?? "unknown";

/** The names of the types that are read, as llama.cpp writes them. */
export const typeNames = (): string => [...BY_NUMBER.values()].map((name) => name.toUpperCase()).join(", ");
