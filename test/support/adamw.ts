/** Hyperparameters of AdamW at step t as its kernels take them. */
export const hyper = (t: number, scale = 1, lr = 1e-2): number[] => [
  lr,
  0.9,
  0.999,
  1e-8,
  0.1,
  1 - 0.9 ** t,
  1 - 0.999 ** t,
  scale,
];

type Numbers = Float64Array;
type Hyper = readonly [number, number, number, number, number, number, number, number];

/** AdamW's update in float64: parameters and both moments. */
export function adamW(param: Numbers, grad: Numbers, m: Numbers, v: Numbers, constants: Numbers): [Numbers, Numbers, Numbers] {
  const [lr, beta1, beta2, epsilon, decay, correction1, correction2, scale] = [...constants] as unknown as Hyper;
  const g = grad.map((value) => value * scale);
  const newM = m.map((value, i) => beta1 * value + (1 - beta1) * g[i]!);
  const newV = v.map((value, i) => beta2 * value + (1 - beta2) * g[i]! ** 2);
  const next = param.map(
    (value, i) =>
      value * (1 - lr * decay) - ((lr / correction1) * newM[i]!) / (Math.sqrt(newV[i]!) / Math.sqrt(correction2) + epsilon),
  );
  return [next, newM, newV];
}
