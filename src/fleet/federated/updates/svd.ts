/**
 * Singular values of a product of thin matrices, in f64, the same bits everywhere: orthogonal bases of both sides, then Jacobi's rotations of the small
 * matrix between them. Matrices are lists of columns.
 */
export type Columns = readonly Float64Array[];

export interface Svd {
  /** Largest first, without those that are nothing beside the first. */
  readonly values: readonly number[];
  readonly left: Columns;
  readonly right: Columns;
}

/** Singular values below this share of the first are rounding. */
const NEGLIGIBLE = 1e-12;

export function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

function addTo(target: Float64Array, factor: number, column: Float64Array): void {
  for (let i = 0; i < target.length; i++) target[i]! += factor * column[i]!;
}

/** Adds the direction of a column that a basis lacks, by Gram and Schmidt's way, twice for orthogonality. Returns the column's coordinates. */
export function extend(basis: Float64Array[], column: Float64Array): number[] {
  const rest = column.slice();
  const length = Math.sqrt(dot(column, column));
  const coordinates = basis.map(() => 0);
  for (let pass = 0; pass < 2; pass++)
    for (const [i, direction] of basis.entries()) {
      const along = dot(direction, rest);
      coordinates[i]! += along;
      addTo(rest, -along, direction);
    }
  const norm = Math.sqrt(dot(rest, rest));
  if (norm > NEGLIGIBLE * length && norm > 0) {
    basis.push(rest.map((value) => value / norm));
    coordinates.push(norm);
  }
  return coordinates;
}

/** The singular value decomposition of the sum over k of left_k right_k^T. */
export function svdOfProduct(left: Columns, right: Columns): Svd {
  const bases: [Float64Array[], Float64Array[]] = [[], []];
  const [rows, columns] = [left, right].map((side, i) => side.map((column) => extend(bases[i]!, column))) as [
    number[][],
    number[][],
  ];
  const [outer, inner] = bases;
  const core = inner.map(() => new Float64Array(outer.length));
  for (const [k, row] of rows.entries())
    for (const [j, factor] of columns[k]!.entries()) for (const [i, value] of row.entries()) core[j]![i]! += factor * value;
  const { values, left: u, right: v } = jacobi(core);
  return { values, left: u.map((column) => combine(outer, column)), right: v.map((column) => combine(inner, column)) };
}

/** The sum of a basis' columns by coordinates. */
function combine(basis: Columns, coordinates: Float64Array): Float64Array {
  const sum = new Float64Array(basis[0]!.length);
  for (const [i, column] of basis.entries()) addTo(sum, coordinates[i]!, column);
  return sum;
}

/** Sweeps over all pairs of columns, at most: five to ten are enough. */
const MOST_SWEEPS = 40;

/** One-sided Jacobi (Hestenes 1958): columns are rotated in pairs until each stands upright on all others. */
export function jacobi(matrix: Columns): Svd {
  const columns = matrix.map((column) => column.slice());
  const rotations = matrix.map((_, j) => new Float64Array(matrix.length).fill(1, j, j + 1));
  let isDone = false;
  for (let sweep = 0; !isDone && sweep < MOST_SWEEPS; sweep++) {
    isDone = true;
    for (let i = 0; i < columns.length; i++)
      for (let j = i + 1; j < columns.length; j++) {
        const [a, b, c] = [dot(columns[i]!, columns[i]!), dot(columns[j]!, columns[j]!), dot(columns[i]!, columns[j]!)];
        if (Math.abs(c) <= 1e-15 * Math.sqrt(a * b) || c === 0) continue;
        isDone = false;
        const zeta = (b - a) / (2 * c);
        const tangent = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const cosine = 1 / Math.sqrt(1 + tangent * tangent);
        for (const pair of [columns, rotations]) rotate(pair[i]!, pair[j]!, cosine, cosine * tangent);
      }
  }
  const norms = columns.map((column) => Math.sqrt(dot(column, column)));
  const most = Math.max(0, ...norms);
  const order = norms
    .map((_, i) => i)
    .filter((i) => norms[i]! > NEGLIGIBLE * most)
    .sort((i, j) => norms[j]! - norms[i]!);
  return {
    values: order.map((i) => norms[i]!),
    left: order.map((i) => columns[i]!.map((value) => value / norms[i]!)),
    right: order.map((i) => rotations[i]!),
  };
}

function rotate(x: Float64Array, y: Float64Array, cosine: number, sine: number): void {
  for (let i = 0; i < x.length; i++) {
    const [a, b] = [x[i]!, y[i]!];
    x[i] = cosine * a - sine * b;
    y[i] = sine * a + cosine * b;
  }
}
