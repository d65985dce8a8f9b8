import type { GraphBuilder, OpSignature } from "../graph/builder.ts";
import type { Attrs, AttrValue, Domain, Node, TensorType } from "../graph/types.ts";
import type { DType } from "../base/dtype.ts";
import type { Opcode } from "../../assembly/opcodes.ts";

/**
 * Describes what a gradient rule sees. It adds nodes to `builder`, which already holds the forward nodes: a forward value used
 * here becomes a residual (or is recomputed, as the policy says). Contract: a rule returns one gradient per input,
 * `null` where `needs(i)` is false or the gradient is zero; the caller sums gradients of values used more than once.
 */
export interface GradientContext<A extends Attrs = Attrs> {
  readonly builder: GraphBuilder;
  readonly node: Node;
  readonly attrs: A;
  /** Name of input `i` (`""` if absent). */
  input(i: number): string;
  output(i: number): string;
  /** Gradient of output `i`, or null when nothing depends on it. */
  grad(i: number): string | null;
  /** Tells whether the gradient of input `i` is wanted. */
  needs(i: number): boolean;
}

export type GradientRule<A extends Attrs = Attrs> = (ctx: GradientContext<A>) => (string | null)[];

/** A gradient rule that is absent on purpose. */
export interface NotDifferentiable {
  readonly notDifferentiable: string;
}

export const notDifferentiable = (why: string): NotDifferentiable => ({ notDifferentiable: why });

/** Constant tensor in a function body. `data` holds numbers (bigint for 64-bit types), row-major. */
export interface BodyConstant {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: readonly (number | bigint)[];
}

/** Builds the body of a model-local function out of standard ONNX (opset 23) operators. */
export interface BodyBuilder {
  /** The arithmetic on integers that who runs the body has. */
  readonly integers: "bits" | "wide" | "narrow";
  /** Adds a node with `outputs` outputs (default 1) and returns their names. */
  op(name: string, inputs: readonly string[], attrs?: Readonly<Record<string, AttrValue>>, outputs?: 1): string;
  ops(name: string, inputs: readonly string[], attrs: Readonly<Record<string, AttrValue>>, outputs: number): string[];
  constant(constant: BodyConstant): string;
  scalar(value: number, dtype?: DType): string;
  /** A 1-D i64 tensor: shapes, axes. */
  ints(values: readonly number[]): string;
}

/** Returns the output names. Types and attributes are static: the body is specialised to them. */
export type Body<A extends Attrs = Attrs> = (
  body: BodyBuilder,
  inputs: readonly string[],
  types: readonly (TensorType | null)[],
  attrs: A,
) => string[];

/** An operator that ONNX cannot say, on purpose: only the kernels run it. */
export interface NoBody {
  readonly noBody: string;
}

/** An operand of a kernel command: a value of the graph, scratch, either at a byte offset, or `null` (pointer 0). */
export type Operand = string | Scratch | OffsetOperand | null;

export interface Scratch {
  readonly scratch: number;
}

export interface OffsetOperand {
  readonly base: string | Scratch;
  /** In bytes. */
  readonly offset: number;
  /** Bytes that the command reads from there; absent: up to the end of `base`. */
  readonly bytes?: number;
}

/** A kernel argument that is not a pointer: integer (i32) or `{ f32 }`. */
export type Scalar = number | { readonly f32: number };

/** Describes what a lowering emits into. Commands run in order, all threads inside each, a barrier between two. */
export interface KernelEmitter<A extends Attrs = Attrs> {
  readonly node: Node;
  readonly attrs: A;
  /** Input `i`, or null when absent. */
  input(i: number): string | null;
  /** Scales of input `i` where that is a quantised matrix's codes, read in place; else null. */
  scales(i: number): string | null;
  output(i: number): string;
  /** Tells whether output `i` is used by anyone; an unused output may be left unwritten and its operand is null. */
  used(i: number): boolean;
  type(value: string): TensorType;
  /** Workspace bytes that live during this node only. */
  scratch(bytes: number): Scratch;
  emit(opcode: Opcode, operands: readonly Operand[], scalars: readonly Scalar[]): void;
  /** True for a weight, which may lie in its file until a command reads it. */
  isWeight(value: string): boolean;
  /** True for what is computed from gradients. */
  isGradient(value: string): boolean;
  /** A native library that commands may use; null: none here. */
  readonly native: NativeLibrary | null;
  /** Products of few rows with quantised weights go by FEW_SESSION. */
  readonly few: boolean;
}

/** op(A) op(B) times alpha, plus an addend: [m, n], one row [n] or one column [m]; all f32, without gaps. */
export interface ProductKind {
  /** The operand is stored transposed. */
  readonly transA: boolean;
  readonly transB: boolean;
  readonly addend: "none" | "matrix" | "row" | "column";
  readonly alpha: number;
}

/** op(A) is [m, k], op(B) [k, n]. */
export interface ProductShape extends ProductKind {
  readonly m: number;
  readonly n: number;
  readonly k: number;
}

/**
 * Describes what commands can have computed natively. A session is an address in the process, or says that a product is one of bf16
 * (`takesBf16`); it is good for any sizes.
 */
export interface NativeLibrary {
  /** Tells whether a whole product is faster there than by the kernel. */
  pays(product: ProductShape): boolean;
  /** The session of a product; of one whose sizes are known the one that is best for these. */
  product(product: ProductKind | ProductShape): number;
  /** Machine code computes products by columns, from weights as they are stored. */
  readonly thin: boolean;
  /** Values are quantised to 8 bits for products with 8-bit codes, which go by INT8_SESSION. */
  readonly int8: boolean;
  /** An operation on each row, or on each element. */
  unary(op: "Softmax" | "Exp"): number;
}

/** Sessions from here on are products of bf16, as assembly/native.ts has it. */
export const BF16_SESSION = 2 ** 52;

/** The session of products of a few rows with a quantised matrix, which stays quantised. */
export const FEW_SESSION = BF16_SESSION + 2 ** 40;

/** The session of products of rows that are quantised on the way with a matrix of 8-bit codes. */
export const INT8_SESSION = BF16_SESSION + 2 ** 41;

/** True if the operands of a session's products may be bf16 in memory. */
export function takesBf16(session: number): boolean {
  return session >= BF16_SESSION;
}

/** A session as scalars of a command. */
export function sessionWords(session: number): [low: number, high: number] {
  return [session % 2 ** 32, Math.floor(session / 2 ** 32)];
}

/** Inputs by number; or all from one on, of an operator that takes any number of them. */
export type InputSet = readonly number[] | { readonly from: number };

export function hasInput(set: InputSet | undefined, i: number): boolean {
  if (set === undefined) return false;
  return "from" in set ? i >= set.from : set.includes(i);
}

export interface OpDef<A extends Attrs = Attrs> extends OpSignature<A> {
  readonly domain: Domain;
  readonly gradient: GradientRule<A> | NotDifferentiable;
  /** `"standard"`: the operator is ONNX's own. */
  readonly body: "standard" | Body<A> | NoBody;
  lower(emitter: KernelEmitter<A>): void;
  /** Pairs [output, input] that may share memory: each element is read before it is written. */
  readonly inPlace?: readonly (readonly [output: number, input: number])[];
  /**
   * Output `output` can start from input `input` (an accumulator of the same type): `output = input + what it computes`.
   * A pass turns `Add(x, op(...))` into `op(..., x)`.
   */
  readonly accumulates?: { readonly output: number; readonly input: number };
  /** The output is the input's memory under another shape; no kernel runs. */
  readonly view?: true;
  /** Inputs that may be bf16 or f16 in memory: a Cast in front of them is not executed. */
  readonly halfInputs?: InputSet;
  /** Inputs that may be quantised matrices: a Dequantize in front of them is not executed. */
  readonly quantisedInputs?: InputSet;
  /**
   * Inputs of one float type, which may be bf16 or f16 where a runtime computes in it (the kernels do not); the others
   * stay what they are. Absent: the operator computes in f32 alone.
   */
  readonly narrow?: readonly number[] | "all";
  /** Compute-bound results are worth keeping; the others are cheap to recompute in a backward pass. */
  readonly cost: "compute" | "memory";
}

/** The attributes of an operator without any. */
export type NoAttrs = Record<never, never>;

export function defineOp<A extends Attrs>(op: OpDef<A>): OpDef<A> {
  return op;
}

/** A shape error names the operator, what it expected and what came. */
export class ShapeError extends Error {
  override name = "ShapeError";
}

export function expectShape(op: string, what: string, condition: boolean, ...types: (TensorType | null | undefined)[]): void {
  if (condition) return;
  const got = types.map((type) => (type ? `${type.dtype}[${type.shape.join(", ")}]` : "absent")).join(", ");
  throw new ShapeError(`${op}: expected ${what}; got ${got}`);
}
