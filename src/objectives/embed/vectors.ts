/** Embeddings at length 1, or of their first numbers at length 1. */
export interface Units {
  readonly count: number;
  /** Numbers of each. */
  readonly width: number;
  /** One behind the other. */
  readonly values: Float64Array;
  /** The length that each had before. */
  readonly lengths: Float64Array;
}

/** The least length that an embedding is divided by, as in PyTorch's `normalize`. */
const LEAST_LENGTH = 1e-12;

/** @param full numbers of an embedding; @param width those that are kept, the first ones */
export function unitsOf(embeddings: Float32Array, full: number, width = full): Units {
  const count = embeddings.length / full;
  const values = new Float64Array(count * width);
  const lengths = new Float64Array(count);
  for (let text = 0; text < count; text++) {
    let sum = 0;
    for (let k = 0; k < width; k++) sum += embeddings[text * full + k]! ** 2;
    const length = Math.max(LEAST_LENGTH, Math.sqrt(sum));
    lengths[text] = length;
    for (let k = 0; k < width; k++) values[text * width + k] = embeddings[text * full + k]! / length;
  }
  return { count, width, values, lengths };
}

/** u_a . u_b, which is the cosine of both embeddings. */
export function cosine({ values, width }: Units, a: number, b: number): number {
  let sum = 0;
  for (let k = 0, i = a * width, j = b * width; k < width; k++) sum += values[i + k]! * values[j + k]!;
  return sum;
}

/** Adds the derivatives by u_a and u_b of a number whose derivative by the cosine of both is `slope`. */
export function addSlope({ values, width }: Units, slopes: Float64Array, a: number, b: number, slope: number): void {
  if (slope === 0) return;
  for (let k = 0, i = a * width, j = b * width; k < width; k++) {
    slopes[i + k]! += slope * values[j + k]!;
    slopes[j + k]! += slope * values[i + k]!;
  }
}

/**
 * Adds derivatives by the embeddings e to `target`, given those by u = e / |e|: (g - u (u . g)) / |e|.
 * @param full numbers of an embedding in `target`
 */
export function addThroughNorm(
  { count, width, values, lengths }: Units,
  slopes: Float64Array,
  target: Float64Array,
  full: number,
): void {
  for (let text = 0; text < count; text++) {
    const from = text * width;
    let along = 0;
    for (let k = 0; k < width; k++) along += values[from + k]! * slopes[from + k]!;
    for (let k = 0; k < width; k++) target[text * full + k]! += (slopes[from + k]! - values[from + k]! * along) / lengths[text]!;
  }
}
