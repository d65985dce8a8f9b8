/**
 * A native library that works on the same memory. Everything is f32, row-major, without gaps, and computed on the calling
 * thread (src/wasm/native.ts). A session is an address outside of this memory, or says that the product is one of bf16
 * (src/wasm/machine-code/product.ts), whose operands may be bf16 in memory too, and A have gaps.
 */
import { F32 } from "./half";

/** Addend of a product: none, [m, n] (may be the output), one row [n], one column [m]. */
export const NO_ADDEND: i32 = 0;
export const MATRIX: i32 = 1;
export const ROW: i32 = 2;
export const COLUMN: i32 = 3;

/**
 * `product` of operands of any type of half.ts; `lda` are the elements from one row of A, as it is stored, to the next, and `ldo` those of the output, of a
 * matrix C and of a B that is not transposed: n, but for products of bf16, of which a call may compute some columns.
 */
// @ts-ignore: decorator
@external("native", "product")
export declare function typedProduct(
  session: f64, a: usize, b: usize, c: usize, out: usize, m: i32, n: i32, k: i32, transA: bool, transB: bool, addend: i32,
  aType: i32, bType: i32, lda: i32, ldo: i32,
): void;

/**
 * out[m, n] = alpha op(A) op(B) + C. A is stored [k, m] if `transA`, B [n, k] if `transB`. The session carries alpha, and has been made
 * for the same transA, transB and kind of addend.
 */
// @ts-ignore: decorator
@inline
export function product(
  session: f64, a: usize, b: usize, c: usize, out: usize, m: i32, n: i32, k: i32, transA: bool, transB: bool, addend: i32,
): void {
  typedProduct(session, a, b, c, out, m, n, k, transA, transB, addend, F32, F32, transA ? m : k, n);
}

/** True if a product takes operands as they lie in memory. */
// @ts-ignore: decorator
@inline
export function takesBf16(session: f64): bool {
  return session >= BF16_SESSION;
}

/** Sessions from here on are products of bf16: no address is as large. */
export const BF16_SESSION: f64 = 4503599627370496.0;

/**
 * out[rows][from..to) = alpha x B^T + c, B of codes with scales, x as src/wasm/machine-code/quantised/few-rows.ts has it; strides in bytes. A stride of 0 adds one
 * row of c to all.
 */
// @ts-ignore: decorator
@external("native", "few")
export declare function fewProduct(
  type: i32, x: usize, xStride: i32, codes: usize, scales: usize, c: usize, cStride: i32, out: usize, outStride: i32,
  rows: i32, from: i32, to: i32, k: i32, alpha: f32,
): void;

/** The session of products of few rows with a quantised matrix. */
export const FEW_SESSION: f64 = 4504699138998272.0;

/** The session of products of f32 rows, quantised on the way, with a matrix of Q8. */
export const INT8_SESSION: f64 = 4505798650626048.0;

/** out[m, n] = alpha A B^T + c: `Int8Product` of src/wasm/machine-code/quantised/int8-product.ts. */
// @ts-ignore: decorator
@external("native", "int8")
export declare function int8Product(
  a: usize, codes: usize, scales: usize, c: usize, cStride: i32, out: usize, m: i32, n: i32, k: i32, alpha: f32,
): void;

/** Products of some rows with a large matrix: `ThinProduct` of src/wasm/machine-code/thin-product.ts. */
// @ts-ignore: decorator
@external("native", "turn")
export declare function thinTurn(from: usize, stride: i32, rows: i32, k: i32, to: usize, toStride: i32): void;

// @ts-ignore: decorator
@external("native", "along")
export declare function thinAlong(
  type: i32, a: usize, b: usize, out: usize, outStride: i32, rows: i32, columns: i32, k: i32, isSum: bool, piece: usize,
): void;

// @ts-ignore: decorator
@external("native", "across")
export declare function thinAcross(
  type: i32, a: usize, aStride: i32, b: usize, bStride: i32, next: usize, out: usize, outStride: i32, rows: i32, columns: i32, terms: i32,
  isSum: bool, piece: usize,
): void;

/**
 * What is computed element by element: `PointwiseCalls` of src/wasm/machine-code/pointwise/pointwise-calls.ts. False: there is no machine code, nothing was done. The
 * bits are those of the kernels here.
 */
// @ts-ignore: decorator
@external("native", "swiglu")
export declare function pointwiseSwiglu(gate: usize, up: usize, y: usize, n: i32): bool;

// @ts-ignore: decorator
@external("native", "swigluGrad")
export declare function pointwiseSwigluGrad(gate: usize, up: usize, dy: usize, dgate: usize, dup: usize, n: i32): bool;

// @ts-ignore: decorator
@external("native", "gelu")
export declare function pointwiseGelu(x: usize, y: usize, n: i32, tanh: bool): bool;

// @ts-ignore: decorator
@external("native", "geluGrad")
export declare function pointwiseGeluGrad(x: usize, dy: usize, dx: usize, n: i32, tanh: bool): bool;

// @ts-ignore: decorator
@external("native", "exponentials")
export declare function pointwiseExponentials(x: usize, kept: usize, most: usize, sum: usize, rows: i32, columns: i32): bool;

// @ts-ignore: decorator
@external("native", "scaled")
export declare function pointwiseScaled(from: usize, x: usize, scales: usize, rows: i32, columns: i32, factor: f32, least: f32): bool;

/** y = f(x), both [rows, columns]; y may be x. */
// @ts-ignore: decorator
@external("native", "unary")
export declare function unary(session: f64, x: usize, y: usize, rows: i32, columns: i32): void;

/** A session from its two words in a command. */
// @ts-ignore: decorator
@inline
export function sessionOf(low: i32, high: i32): f64 {
  return <f64><u32>low + 4294967296.0 * <f64><u32>high;
}
