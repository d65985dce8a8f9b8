import { partName, withoutPrefix } from "./names.ts";

/**
 * Parameters of the experts of a block as Transformers 5 and PEFT's `target_parameters` have them: one tensor for all experts, `gate_up_proj` [E, 2 I, H], gate above
 * up, and `down_proj` [E, H, I]; or both transposed, gate and up by turns (gpt-oss). Here each takes the place of a module's name, though the model knows each matrix of
 * an expert by itself.
 */

const PARAMETERS = ["gate_up_proj", "down_proj"] as const;

const PARAMETER = /^(.*\.experts)\.(?:gate_up_proj|down_proj)$/;
/** A part of the adapter of a parameter. */
const PART = /^(.*\.experts)\.(gate_up_proj|down_proj)\.(.+)$/;
/** A module of PEFT's that wraps a parameter, or two, one around the other. */
const WRAPPER = /^(.*\.experts)(\.base_layer)?$/;
/** A matrix of one expert, by the names of Llama's and of LFM2's kind. */
const MATRIX = /^(.*\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$/;

export const isExpertParameter = (module: string): boolean => PARAMETER.test(module);

/** Tells whether a parameter of experts is one that names stand for, each of which is its name or the end of it after a dot. */
export function isTargetParameter(module: string, names: readonly string[]): boolean {
  return isExpertParameter(module) && names.some((name) => module === name || module.endsWith(`.${name}`));
}

/** The parameters of experts of a model with these weights. */
export function expertParameters(weights: Iterable<string>): string[] {
  const lists = new Set<string>();
  for (const name of weights) {
    const [, list] = MATRIX.exec(name) ?? [];
    if (list !== undefined) lists.add(list);
  }
  return [...lists].flatMap((list) => PARAMETERS.map((parameter) => `${list}.${parameter}`));
}

/** A weight that is a matrix of an expert. */
export interface ExpertMatrix {
  /** The parameter of all experts that it is a part of. */
  readonly module: string;
  readonly expert: number;
  readonly matrix: "gate" | "up" | "down";
}

/** Returns what a weight is of its expert; null: it is no matrix of one. */
export function expertMatrix(weight: string): ExpertMatrix | null {
  const [, list, expert, matrix = ""] = MATRIX.exec(weight) ?? [];
  if (list === undefined) return null;
  const isDown = matrix === "down_proj" || matrix === "w2";
  return {
    module: `${list}.${PARAMETERS[isDown ? 1 : 0]}`,
    expert: Number(expert),
    matrix: isDown ? "down" : matrix === "up_proj" || matrix === "w3" ? "up" : "gate",
  };
}

/**
 * The name in PEFT's file of a parameter of an adapter. PEFT holds the adapter of a parameter of experts as that of their list, or, where both
 * parameters have one, that of `gate_up_proj` as that of what the list is wrapped around.
 */
export function storedName(name: string, isAdapted: (module: string) => boolean): string {
  const [, list, parameter, suffix = ""] = PART.exec(withoutPrefix(name) ?? "") ?? [];
  if (list === undefined) return name;
  const isInner = parameter === PARAMETERS[0] && isAdapted(`${list}.${PARAMETERS[1]}`);
  return partName(isInner ? `${list}.base_layer` : list, suffix);
}

/** The parameter that a module in PEFT's file wraps; any other module as it is. @param names those of `target_parameters` */
export function unwrapped(module: string, names: readonly string[]): string {
  const [, list, isInner] = WRAPPER.exec(module) ?? [];
  if (list === undefined) return module;
  const wrapped = PARAMETERS.map((parameter) => `${list}.${parameter}`).filter((parameter) =>
    isTargetParameter(parameter, names),
  );
  const found = isInner ? (wrapped.length === 2 ? wrapped[0] : undefined) : wrapped.at(-1);
  return found ?? module;
}

/** The part of a matrix that lies at an expert: rows [rank, columns] of A. */
export function expertRows(a: Float32Array, expert: number, experts: number): Float32Array {
  const size = a.length / experts;
  return a.subarray(expert * size, (expert + 1) * size);
}

/** Some rows of B [out, rank * E], each `step` behind the one before, of one expert's columns: [count, rank]. */
export function expertColumns(
  b: Float32Array,
  {
    expert,
    experts,
    rank,
    first,
    step,
    count,
  }: { readonly [Key in "expert" | "experts" | "rank" | "first" | "step" | "count"]: number },
): Float32Array {
  const own = new Float32Array(count * rank);
  for (let row = 0; row < count; row++)
    for (let r = 0; r < rank; r++) own[row * rank + r] = b[((first + row * step) * rank + r) * experts + expert]!;
  return own;
}
