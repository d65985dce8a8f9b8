/** log(1 / (1 + e^-x)). */
export const logSigmoid = (x: number): number => (x < 0 ? x - Math.log1p(Math.exp(x)) : -Math.log1p(Math.exp(-x)));

/** log softmax in float64. */
export function logSoftmax(logits: ArrayLike<number>): Float64Array {
  const z = Float64Array.from(logits);
  const most = z.reduce((max, value) => Math.max(max, value), -Infinity);
  const norm = most + Math.log(z.reduce((sum, value) => sum + Math.exp(value - most), 0));
  return z.map((value) => value - norm);
}
