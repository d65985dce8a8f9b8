/**
 * Rényi differential privacy (RDP) of DP-SGD: each step takes each example with probability q, clips its gradient to C, and adds noise of
 * deviation sigma C to the sum. Privacy is that of one example which is in the data or not.
 *
 * Mironov, Talwar, Zhang 2019, https://arxiv.org/abs/1908.10530: with mu_0 = N(0, sigma^2), mu_1 = N(1, sigma^2) and their ratio
 * L(z) = exp((2 z - 1) / (2 sigma^2)), a step has at order alpha
 *
 *     RDP(alpha) = log A_alpha / (alpha - 1),    A_alpha = E_{z ~ mu_0} [(1 - q + q L(z))^alpha],
 *
 * and steps add up (Mironov 2017, https://arxiv.org/abs/1702.07476).
 */

/** A number of steps with the same noise and the same sampling. */
export interface PrivateSteps {
  /** The probability with which a step takes an example, q. */
  readonly rate: number;
  /** Deviation of the noise over the largest norm of an example's gradient, sigma. */
  readonly noise: number;
  readonly steps: number;
}

/** Orders at which the bound is tried: between 1 and 11 in tenths, then whole ones. */
export const ORDERS: readonly number[] = [
  ...Array.from({ length: 99 }, (_, i) => (11 + i) / 10),
  ...Array.from({ length: 53 }, (_, i) => 11 + i),
  72,
  80,
  96,
  128,
  192,
  256,
  512,
  1024,
];

/** log(exp(a) + exp(b)). */
function logAdd(a: number, b: number): number {
  const [low, high] = a < b ? [a, b] : [b, a];
  return low === -Infinity ? high : high + Math.log1p(Math.exp(low - high));
}

/**
 * log(A - 1) of a whole order: the binomial sum of A (section 3.3) less that of (1 - q + q)^alpha = 1, so that small values keep their digits.
 * All terms are positive.
 */
function logExcessOfWhole(q: number, sigma: number, alpha: number): number {
  let sum = -Infinity;
  let logBinomial = 0;
  for (let i = 0; i <= alpha; i++) {
    if (i > 0) logBinomial += Math.log((alpha - i + 1) / i);
    if (i < 2) continue;
    const exponent = (i * i - i) / (2 * sigma * sigma);
    // log(exp(e) - 1)
    const grown = exponent > 30 ? exponent + Math.log1p(-Math.exp(-exponent)) : Math.log(Math.expm1(exponent));
    sum = logAdd(sum, logBinomial + i * Math.log(q) + (alpha - i) * Math.log1p(-q) + grown);
  }
  return sum;
}

/** Points of the quadrature for each deviation of the noise. */
const POINTS = 24;

/** Deviations behind which a normal density is less than 1e-31 of its peak. */
const TAIL = 12;

/**
 * log(A - 1) of any order above 1, by the trapezoidal rule, which converges faster than any power for such integrands. With u = q (L - 1), of which
 * the mean is 0, A - 1 is the mean of (1 + u)^alpha - 1 - alpha u, which is nowhere negative. The integrand's peaks are at 0 and at alpha.
 */
export function logExcess(q: number, sigma: number, alpha: number): number {
  const step = sigma / POINTS;
  const begin = -TAIL * sigma;
  const count = Math.ceil((alpha + 2 * TAIL * sigma) / step);
  let sum = -Infinity;
  for (let i = 0; i <= count; i++) {
    const z = begin + i * step;
    const logRatio = (2 * z - 1) / (2 * sigma * sigma);
    const density = -(z * z) / (2 * sigma * sigma) - Math.log(sigma * Math.sqrt(2 * Math.PI));
    sum = logAdd(sum, density + Math.log(step) + logConvex(q, logRatio, alpha));
  }
  return sum;
}

/** log((1 + u)^alpha - 1 - alpha u) with u = q (exp(logRatio) - 1), which is above -1. */
function logConvex(q: number, logRatio: number, alpha: number): number {
  const u = logRatio > 700 ? Infinity : q * Math.expm1(logRatio);
  const log1u = u === Infinity ? Math.log(q) + logRatio : Math.log1p(u);
  if (Math.abs(u) < 1e-3) {
    // The series, whose first terms are the rest of what cancels above.
    const second = (alpha * (alpha - 1)) / 2;
    const third = ((alpha - 2) / 3) * u;
    const fourth = (((alpha - 2) * (alpha - 3)) / 12) * u * u;
    const fifth = (((alpha - 2) * (alpha - 3) * (alpha - 4)) / 60) * u ** 3;
    return Math.log(second) + 2 * Math.log(Math.abs(u)) + Math.log1p(third + fourth + fifth);
  }
  const power = alpha * log1u;
  if (power < 30) return Math.log(Math.expm1(power) - alpha * u);
  // (1 + alpha u) is at most some alpha (1 + u), nothing beside the power.
  return power + Math.log1p(-Math.exp(Math.log(alpha) + log1u - power));
}

/** The RDP of one step at an order above 1. */
export function rdpOfStep({ rate, noise }: Pick<PrivateSteps, "rate" | "noise">, alpha: number): number {
  if (rate === 0) return 0;
  if (noise === 0) return Infinity;
  // Without sampling it is that of the Gaussian mechanism.
  if (rate >= 1) return alpha / (2 * noise * noise);
  const excess = Number.isInteger(alpha) ? logExcessOfWhole(rate, noise, alpha) : logExcess(rate, noise, alpha);
  return logAdd(0, excess) / (alpha - 1);
}

/**
 * The least epsilon at a delta over all orders, with the order. From RDP epsilon follows by Balle et al. 2020 (https://arxiv.org/abs/1905.09982,
 * theorem 21) and Canonne, Kamath, Steinke 2020 (https://arxiv.org/abs/2004.00010, proposition 12):
 *
 *     epsilon = RDP(alpha) + log((alpha - 1) / alpha) - (log delta + log alpha) / (alpha - 1).
 */
export function privacySpent(
  spent: readonly PrivateSteps[],
  delta: number,
  orders: readonly number[] = ORDERS,
): { readonly epsilon: number; readonly order: number } {
  let best = { epsilon: Infinity, order: NaN };
  for (const order of orders) {
    const rdp = spent.reduce((sum, part) => sum + part.steps * rdpOfStep(part, order), 0);
    const epsilon = rdp + Math.log1p(-1 / order) - (Math.log(delta) + Math.log(order)) / (order - 1);
    if (epsilon < best.epsilon) best = { epsilon, order };
  }
  return spent.every(({ steps }) => steps === 0) ? { epsilon: 0, order: NaN } : { ...best, epsilon: Math.max(0, best.epsilon) };
}
