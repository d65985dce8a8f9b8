/** Orders in which other programs have the rows or the columns of a family's matrices: which one of the model's is theirs, one after the other. */

/** The rows or columns, among so many, that another program has, in its order. */
export type Order = (count: number) => readonly number[];

/** The numbers from `first` on, `count` of them, `step` apart. */
export const run = (count: number, first = 0, step = 1): number[] => Array.from({ length: count }, (_, i) => first + i * step);

/** The first (0) or the second (1) half. */
export const half =
  (part: 0 | 1): Order =>
  (count) =>
    run(count / 2, (part * count) / 2);

/** Every second one, from the first (0) or the second (1) on. */
export const byTurns =
  (part: 0 | 1): Order =>
  (count) =>
    run(count / 2, part, 2);

/** The `count` from `first` on in each group of `group`. */
export const ofGroups =
  (group: number, first: number, count: number): Order =>
  (all) =>
    run(all / group).flatMap((at) => run(count, at * group + first));

/**
 * The same rows where neighbouring features are rotated with each other, not feature i with feature i + dim / 2: new row 2 i + j of a head is old row
 * j dim / 2 + i.
 */
export function neighbours(rows: readonly number[], heads: number): number[] {
  const dim = rows.length / heads;
  return rows.map((_, at) => {
    const [head, row] = [Math.floor(at / dim), at % dim];
    return rows[head * dim + (row % 2) * (dim / 2) + Math.floor(row / 2)]!;
  });
}
