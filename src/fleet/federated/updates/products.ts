import { LOW_RANK_NAMES } from "../../../models/adapters/low-rank.ts";
import { type Layout, type Part, valuesOf } from "./layout.ts";
import { type Columns, dot, extend, jacobi, svdOfProduct } from "./svd.ts";

/**
 * The mean of the products B_i A_i, which is not the product of the means. The mean of n nodes has up to n times the rank; the best matrix of the
 * adapters' own rank is kept (Eckart, Young 1936), and the share of the mean that is lost is reported.
 */

/** The factors of one module: A [rank, inputs] and B [outputs, rank]. */
export interface Pair {
  readonly a: Part;
  readonly b: Part;
}

/** The pairs among parameters, and the parameters that are in none. */
export function pairsOf({ parts }: Layout): { readonly pairs: readonly Pair[]; readonly others: readonly Part[] } {
  const byName = new Map(parts.map((part) => [part.name, part]));
  const pairs: Pair[] = [];
  for (const [a, b] of [LOW_RANK_NAMES.linear, LOW_RANK_NAMES.embedding])
    for (const part of parts) {
      if (!part.name.endsWith(`.${a.suffix}`)) continue;
      const partner = byName.get(part.name.slice(0, -a.suffix.length) + b.suffix);
      if (partner) pairs.push({ a: part, b: partner });
    }
  const paired = new Set(pairs.flatMap(({ a, b }) => [a, b]));
  return { pairs, others: parts.filter((part) => !paired.has(part)) };
}

/** Parameters with a factor: of the sum of their products. */
export interface Term {
  readonly weight: number;
  readonly parameters: Float32Array<ArrayBuffer>;
}

/** Squares of what was summed, and of what its best approximation lacks. */
export interface Truncation {
  readonly total: number;
  readonly lost: number;
}

/**
 * Writes factors of the best approximation of the weighted sum of products into `target`.
 *
 * Factors of a product are many; those are taken whose A is the nearest to the one that training began with, A_0 projected onto the rows of
 * the sum. So nodes go on with factors, and with an optimizer's state of them, that mean what they meant.
 */
export function sumProducts(
  { a, b }: Pair,
  terms: readonly Term[],
  start: Float32Array<ArrayBuffer>,
  target: Float32Array<ArrayBuffer>,
): Truncation {
  const [rank = 0, inputs = 0] = a.shape;
  const [outputs = 0] = b.shape;
  const rowsOf = (parameters: Float32Array<ArrayBuffer>) => {
    const values = valuesOf(parameters, a);
    return Array.from({ length: rank }, (_, k) => Float64Array.from(values.subarray(k * inputs, (k + 1) * inputs)));
  };
  const left = terms.flatMap(({ weight, parameters }) => {
    const values = valuesOf(parameters, b);
    return Array.from({ length: rank }, (_, k) =>
      Float64Array.from({ length: outputs }, (_, row) => weight * values[row * rank + k]!),
    );
  });
  const sum = svdOfProduct(
    left,
    terms.flatMap(({ parameters }) => rowsOf(parameters)),
  );
  const kept = Math.min(rank, sum.values.length);
  const first = rowsOf(start);
  const basis = sum.right.slice(0, kept).map((column) => column.slice());
  for (const row of first) if (basis.length < rank) extend(basis, row);
  const { forth, back } = change(first, basis);
  const [intoA, intoB] = [valuesOf(target, a), valuesOf(target, b)];
  for (let k = 0; k < rank; k++)
    for (let column = 0; column < inputs; column++) {
      let value = 0;
      for (const [j, direction] of basis.entries()) value += forth[j]![k]! * direction[column]!;
      intoA[k * inputs + column] = value;
    }
  for (let row = 0; row < outputs; row++)
    for (let k = 0; k < rank; k++) {
      let value = 0;
      for (let j = 0; j < kept; j++) value += sum.values[j]! * sum.left[j]![row]! * back[k]![j]!;
      intoB[row * rank + k] = value;
    }
  const squares = (values: readonly number[]) => values.reduce((total, value) => total + value * value, 0);
  return { total: squares(sum.values), lost: squares(sum.values.slice(kept)) };
}

/** Least over greatest singular value of a change of basis that can be turned back without losing digits that matter. */
const WELL_CONDITIONED = 1e-3;

/**
 * The matrix P [rank, directions] with which A is P times the directions, as columns, and its inverse [directions, rank] as columns: P = A_0 V. Where A_0 has
 * hardly a part in some direction, P is a multiple of the identity, of A_0's mean size.
 */
function change(first: Columns, basis: Columns): { readonly forth: Columns; readonly back: Columns } {
  const rank = first.length;
  const forth = basis.map((direction) => Float64Array.from(first, (row) => dot(row, direction)));
  const { values, left, right } = jacobi(forth);
  if (values.length === rank && values.at(-1)! > WELL_CONDITIONED * values[0]!) {
    // P^-1 = V S^-1 U^T, whose column k has the parts right_j / value_j times left_j[k].
    const back = Array.from({ length: rank }, (_, k) => {
      const column = new Float64Array(rank);
      for (let j = 0; j < rank; j++) for (let i = 0; i < rank; i++) column[i]! += (right[j]![i]! / values[j]!) * left[j]![k]!;
      return column;
    });
    return { forth, back };
  }
  const size = Math.sqrt(first.reduce((sum, row) => sum + dot(row, row), 0) / rank) || 1;
  const diagonal = (length: number, count: number, value: number) =>
    Array.from({ length: count }, (_, j) => Float64Array.from({ length }, (_, i) => (i === j ? value : 0)));
  return { forth: diagonal(rank, basis.length, size), back: diagonal(basis.length, rank, 1 / size) };
}
