/**
 * A native library that works on the same memory. Everything is f32, row-major, without gaps, and computed on the calling
 * thread (src/wasm/native.ts). A session is an address outside of this memory.
 */

/** Addend of a product: none, [m, n] (may be the output), one row [n], one column [m]. */
export const NO_ADDEND: i32 = 0;
export const MATRIX: i32 = 1;
export const ROW: i32 = 2;
export const COLUMN: i32 = 3;

/**
 * out[m, n] = alpha op(A) op(B) + C. A is stored [k, m] if `transA`, B [n, k] if `transB`. The session carries alpha, and has been made
 * for the same transA, transB and kind of addend.
 */
// @ts-ignore: decorator
@external("native", "product")
export declare function product(
  session: f64, a: usize, b: usize, c: usize, out: usize, m: i32, n: i32, k: i32, transA: bool, transB: bool, addend: i32,
): void;

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
