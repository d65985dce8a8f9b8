/** What one node has learned in a round: the difference to where all began, and how much it counts. */
export interface Contribution {
  readonly weight: number;
  readonly update: Float32Array<ArrayBuffer>;
}

/** The mean of the updates by their weights, summed in f64 in the order of the list: federated averaging (McMahan et al. 2017, https://arxiv.org/abs/1602.05629). */
export function meanOf(contributions: readonly Contribution[]): Float64Array<ArrayBuffer> {
  const mean = new Float64Array(contributions[0]!.update.length);
  const total = contributions.reduce((sum, { weight }) => sum + weight, 0);
  for (const { weight, update } of contributions) {
    const share = weight / total;
    for (let i = 0; i < mean.length; i++) mean[i]! += share * update[i]!;
  }
  return mean;
}

/** The optimizer between rounds, whose gradient is the mean update with its sign turned. */
export interface OuterSettings {
  readonly learningRate: number;
  /** Nesterov's momentum; 0 with a learning rate of 1 is plain averaging. */
  readonly momentum: number;
}

/**
 * One outer step, in place: v = momentum v + mean, parameters += learning rate (mean + momentum v), which is PyTorch's SGD with `nesterov` on the
 * gradient -mean (DiLoCo, Douillard et al. 2023, https://arxiv.org/abs/2311.08105, has 0.7 and 0.9).
 */
export function outerStep(
  parameters: Float32Array,
  velocity: Float32Array | null,
  mean: Float64Array,
  { learningRate, momentum }: OuterSettings,
): void {
  for (let i = 0; i < mean.length; i++) {
    const wanted = mean[i]!;
    let direction = wanted;
    if (velocity !== null) {
      const v = momentum * velocity[i]! + wanted;
      velocity[i] = v;
      direction = wanted + momentum * v;
    }
    parameters[i] = parameters[i]! + learningRate * direction;
  }
}
