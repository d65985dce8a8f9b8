/**
 * Dynamic loss scaling for f16, in which gradients below 6e-8 are zero: all gradients are multiplied by a power of two on their
 * way through the model, as large a one as they bear (Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740). The
 * numbers are those of PyTorch's GradScaler.
 */
export interface LossScale {
  readonly scale: number;
  /** Updates in a row since the scale changed. */
  readonly streak: number;
  /** Steps without an update so far, because a gradient was infinite or not a number. */
  readonly skipped: number;
}

export const FIRST_LOSS_SCALE: LossScale = { scale: 2 ** 16, streak: 0, skipped: 0 };

/** Updates in a row after which a larger scale is tried. */
const GROWTH_INTERVAL = 2000;
const GROWTH = 2;
const BACKOFF = 0.5;
/** Gradients that are infinite at this scale are so without any. */
const LEAST_SCALE = 1;

/** After a step whose gradients were finite, or not: then it is skipped. Null: the scale is not to blame. */
export function nextLossScale({ scale, streak, skipped }: LossScale, isFinite: boolean): LossScale | null {
  if (!isFinite) return scale > LEAST_SCALE ? { scale: scale * BACKOFF, streak: 0, skipped: skipped + 1 } : null;
  const grows = streak + 1 === GROWTH_INTERVAL;
  return { scale: grows ? scale * GROWTH : scale, streak: grows ? 0 : streak + 1, skipped };
}
