/** How many bytes a memory slot of a planning table has. */
import { type Chain, variantsOf } from "../chain.ts";

/** Slots of the finest table of rounded sizes. */
export const MOST_SLOTS = 20000;

/** Greatest common divisor of all sizes of a chain; 0 when they are not all whole numbers whose sums are exact (or all 0). */
export function sizeDivisor(chain: Chain): number {
  let divisor = 0;
  const sizes = [chain.a, chain.g, chain.w, chain.of].flat();
  for (let i = 1; i <= chain.n; i++) {
    sizes.push(chain.replay[i - 1]?.ob ?? 0);
    for (const { r, of, ob } of variantsOf(chain, i)) sizes.push(r, of, ob);
  }
  if (!sizes.every(Number.isInteger) || sizes.reduce((sum, size) => sum + size, 0) > Number.MAX_SAFE_INTEGER) return 0;
  for (let size of sizes) while (size > 0) [divisor, size] = [size, divisor % size];
  return divisor;
}

/** Sizes that are tried as multiples of a slot: those of a language model's blocks are among them. */
const COMMON_SIZES = 16;
/** How far a fitting slot size may be from the wanted one. */
const LATITUDE = 1.4;

/**
 * A slot size near `wanted` bytes into which the sizes that add up along a chain, those of boundaries and of tapes with
 * their boundary, divide with the least total remainder. In a deep model a boundary may be about as large as a slot;
 * without this a thousand of them would each be rounded the same way.
 */
export function fittingUnit(chain: Chain, wanted: number): number {
  const counts = new Map<number, number>();
  const count = (size: number) => size > 0 && counts.set(size, (counts.get(size) ?? 0) + 1);
  for (let i = 1; i <= chain.n; i++) {
    count(chain.a[i]!);
    for (const { r } of variantsOf(chain, i)) count(r + chain.a[i]!);
  }
  const common = [...counts].toSorted(([, x], [, y]) => y - x).slice(0, COMMON_SIZES);
  const error = (unit: number) =>
    common.reduce((sum, [size, times]) => sum + times * Math.abs(size - unit * Math.round(size / unit)), 0);

  let unit = wanted;
  let least = error(unit);
  for (const [size] of common) {
    // Larger than all of a table.
    if (size > MOST_SLOTS * wanted) continue;
    for (let parts = Math.max(1, Math.ceil(size / wanted / LATITUDE)); parts <= (size / wanted) * LATITUDE; parts++) {
      const candidate = error(size / parts);
      if (candidate < least) [unit, least] = [size / parts, candidate];
    }
  }
  return unit;
}
