import type { Series } from "./series.ts";

/**
 * The exponential moving mean of a series, by the weight of what was before: m_t = w m_(t-1) + (1 - w) x_t, divided by 1 - w^t, by which the first
 * means are those of what there was, and not drawn towards zero. It goes on where the series has grown.
 */
export function createSmoothed(series: () => Series, weight: number): () => Series {
  let values = new Float64Array(256);
  let length = 0;
  let [mean, share] = [0, 0];
  return () => {
    const { steps, values: given, length: wanted } = series();
    if (wanted > values.length) {
      const grown = new Float64Array(Math.max(wanted, 2 * values.length));
      grown.set(values);
      values = grown;
    }
    for (; length < wanted; length++) {
      mean = weight * mean + (1 - weight) * given[length]!;
      share = weight * share + (1 - weight);
      values[length] = mean / share;
    }
    return { steps, values, length };
  };
}
