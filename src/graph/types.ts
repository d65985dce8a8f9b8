/**
 * The intermediate representation. It is ONNX with static shapes: a node has an operator name, input and output
 * value names and attributes, and every value has a dtype and a shape. Names are unique within a graph (SSA).
 */
import { type DType, DTYPE_BYTES, type FloatType } from "../base/dtype.ts";

/** Formats of a frozen matrix that is two tensors in memory, codes and scales: see ops/dequantize.ts. */
export type Quantised = "q8" | "nf4";

/** How a frozen matrix may lie in memory. */
export type WeightType = FloatType | Quantised;

export type Shape = readonly number[];

export interface TensorType {
  readonly dtype: DType;
  readonly shape: Shape;
}

export type AttrValue = number | string | readonly number[];
export type Attrs = Readonly<Record<string, AttrValue>>;

/** Operator domain: standard ONNX (opset 23) or a model-local function of this product. */
export type Domain = "" | "remat";

export interface Node {
  readonly op: string;
  /** Value names; `""` is an absent optional input. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attrs: Attrs;
}

/**
 * Describes what a graph input is bound to.
 * - `boundary`: the tensor that enters the segment
 * - `param`: a weight (frozen or trainable)
 * - `batch`: data of the micro-batch, the same for all segments (token ids, positions, ...)
 * - `segment`: data of this segment alone (its index, which keys dropout)
 * - `tape`: a residual that the taped forward wrote
 * - `output-grad`: the gradient of the boundary that leaves the segment
 * - `cache`: keys or values of earlier tokens, of this segment alone; a `state` output updates it
 * - `accumulator`: the running parameter gradient that a `param-grad` output adds to (same memory)
 * - `carried`: a value that an earlier segment made beside its boundary
 * - `carried-grad`: the sum of a carried value's gradients so far, of the segments behind
 */
export type InputRole =
  "boundary" | "param" | "batch" | "segment" | "tape" | "output-grad" | "cache" | "accumulator" | "carried" | "carried-grad";

/**
 * Describes what a graph output is: `param-grad` is `accumulator + gradient`, `correct` how many labels were the likeliest token, `token-losses` what an
 * open head says of each token, `text-logits` what one says of each text (see `SegmentModel.open`). `carried` is a value for later segments, and
 * `carried-grad` the sum so far of such a value's gradients, with this segment's own.
 */
export type OutputRole =
  | "boundary"
  | "tape"
  | "input-grad"
  | "param-grad"
  | "loss"
  | "correct"
  | "token-losses"
  | "text-logits"
  | "logits"
  | "state"
  | "carried"
  | "carried-grad";

export interface GraphInput {
  readonly name: string;
  readonly role: InputRole;
  /** For `carried`: the segment's own name of the value, a key of `Segment.carried`. */
  readonly carries?: string;
}

export interface GraphOutput {
  readonly name: string;
  readonly role: OutputRole;
  /** For `param-grad`, `state` and `carried-grad`: the input whose memory this output updates in place. */
  readonly updates?: string;
  /** For `carried`: the segment's own name of the value, a key of `Segment.carried`. */
  readonly carries?: string;
}

export interface Graph {
  readonly name: string;
  readonly inputs: readonly GraphInput[];
  readonly outputs: readonly GraphOutput[];
  /** In execution order (topological). */
  readonly nodes: readonly Node[];
  /** Type of every value: inputs and node outputs. */
  readonly types: ReadonlyMap<string, TensorType>;
}

export function elements(shape: Shape): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

export function byteLength(type: TensorType): number {
  return elements(type.shape) * DTYPE_BYTES[type.dtype];
}

export function sameType(a: TensorType, b: TensorType): boolean {
  return a.dtype === b.dtype && a.shape.length === b.shape.length && a.shape.every((dim, i) => dim === b.shape[i]);
}

export function formatType(type: TensorType): string {
  return `${type.dtype}[${type.shape.join(", ")}]`;
}

export function typeOf(graph: Pick<Graph, "types" | "name">, value: string): TensorType {
  const type = graph.types.get(value);
  if (!type) throw new Error(`graph ${graph.name}: no value named ${JSON.stringify(value)}`);
  return type;
}
