import type { AttrValue } from "../graph/types.ts";
import type { DType } from "../base/dtype.ts";
import { dtypeOf } from "./encode.ts";

/** Arithmetic on integers: with bit operations; without them (CUDA); in 32 bits alone, which slices of are not (WebGPU). */
export type Integers = "bits" | "wide" | "narrow";

/** Describes what a runtime that reads a model has kernels for, as far as that decides how the model is written. */
export interface Target {
  readonly integers: Integers;
  /** Arithmetic in bf16. Without it operators compute in f32 between casts, which rounds as bf16 kernels do. */
  readonly bf16: boolean;
  /** Kernels in f16 that add up in f32. Without them sums are computed in f32 between casts. */
  readonly f16Sums: boolean;
}

/** The type that values have in a model: what has no integers of 8 bits with a sign takes their bits as they are. */
export function writtenType(dtype: DType, { integers }: Target): DType {
  return integers === "narrow" && dtype === "i8" ? "u8" : dtype;
}

/** All that ONNX has: for the files of a run. */
export const PORTABLE: Target = { integers: "bits", bf16: true, f16Sums: true };

/** Operators that compare. */
const COMPARISONS: ReadonlySet<string> = new Set(["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]);

/** Operators that move values without looking at them, which every provider does in any type. */
const MOVES: ReadonlySet<string> = new Set([
  "Cast",
  "Concat",
  "Expand",
  "Gather",
  "Identity",
  "Reshape",
  "Slice",
  "Split",
  "Transpose",
  "Unsqueeze",
]);

/** Element type of a standard operator's output `output`, from those of its inputs. A `Cast` names its type, or its ONNX number. */
export function outputDtype(
  op: string,
  inputs: readonly (DType | null)[],
  attrs: Readonly<Record<string, AttrValue>>,
  output = 0,
): DType {
  if (op === "Cast") return typeof attrs["to"] === "number" ? dtypeOf(attrs["to"])! : (attrs["to"] as DType);
  if (op === "ConstantOfShape") return "f32";
  if (op === "ArgMax" || (op === "TopK" && output === 1)) return "i64";
  if (COMPARISONS.has(op)) return "bool";
  const first = op === "Where" ? inputs[1] : inputs[0];
  if (!first) throw new Error(`${op}: its first value has no type`);
  return first;
}

/** Operators that add up, whose rounding grows with the number of terms. */
const SUMS: ReadonlySet<string> = new Set(["Gemm", "MatMul", "ReduceMean", "ReduceSum", "ReduceSumSquare", "Softmax"]);

/** The half type of an operator's inputs, if a target needs casts around it; else null. */
export function needsCasts(op: string, inputs: readonly (DType | null)[], { bf16, f16Sums }: Target): "bf16" | "f16" | null {
  if (!bf16 && !MOVES.has(op) && inputs.includes("bf16")) return "bf16";
  return !f16Sums && SUMS.has(op) && inputs.includes("f16") ? "f16" : null;
}
