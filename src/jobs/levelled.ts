/** The bounds of a share. */
export interface Bounds {
  readonly least: number;
  readonly most: number;
}

/**
 * Divides `there` so that each share lies between its bounds, and is as large as every other one as far as they let it: each is a level, or
 * the bound next to it. Shares add up to `there`, rounded down, unless the bounds add up to more or less.
 */
export function levelled(there: number, bounds: readonly Bounds[]): number[] {
  const at = (level: number) => bounds.map(({ least, most }) => Math.max(least, Math.min(most, level)));
  const total = (level: number) => at(level).reduce((sum, share) => sum + share, 0);
  // The sum is linear in the level between two neighbouring bounds.
  const levels = [...new Set(bounds.flatMap(({ least, most }) => [least, most]))].sort((a, b) => a - b);
  const above = levels.findIndex((level) => total(level) > there);
  if (above === 0 || levels.length === 0) return bounds.map(({ least }) => least);
  const low = levels.at(above < 0 ? -1 : above - 1)!;
  if (above < 0) return at(low).map(Math.floor);
  const high = levels[above]!;
  const share = (there - total(low)) / (total(high) - total(low));
  return at(low + share * (high - low)).map(Math.floor);
}
