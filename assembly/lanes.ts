/**
 * Vectors at the end of an array: 1 to 3 lanes. Kernels run the same vector code on them as on whole vectors, so that
 * the result of an element does not depend on where it lies.
 */

/** The first `count` (1..3) f32 at `at`, the other lanes 0. */
// @ts-ignore: decorator
@inline
export function loadSome(at: usize, count: i32): v128 {
  let x = v128.load32_zero(at);
  if (count > 1) x = v128.load32_lane(at, x, 1, 4);
  if (count > 2) x = v128.load32_lane(at, x, 2, 8);
  return x;
}

/** Writes the first `count` (1..3) lanes. */
// @ts-ignore: decorator
@inline
export function storeSome(at: usize, x: v128, count: i32): void {
  v128.store32_lane(at, x, 0);
  if (count > 1) v128.store32_lane(at, x, 1, 4);
  if (count > 2) v128.store32_lane(at, x, 2, 8);
}
