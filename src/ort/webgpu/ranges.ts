import type { Address } from "../../runtime/executor.ts";
import type { BufferHandle } from "./pool.ts";

/** The bytes of one tensor that calls are bound to. */
export interface Range {
  readonly address: Address;
  readonly bytes: number;
  /** Other ranges that share bytes with it. */
  readonly overlaps: Range[];
  /** Holds its bytes; null where the device does not have them. */
  buffer: BufferHandle | null;
  /** True if its bytes are zeros, of which no buffer of its own is needed. */
  isZero: boolean;
  /** False if the memory behind the addresses is older than what the device has. */
  isOnHost: boolean;
}

/** True if the device has the bytes of a range. */
export const isThere = ({ buffer, isZero }: Range): boolean => buffer !== null || isZero;

/** True if an interval has all bytes of a range. */
export const contains = (address: Address, bytes: number, range: Range): boolean =>
  address <= range.address && range.address + range.bytes <= address + bytes;

/** The ranges that calls are bound to. */
export function createRanges() {
  /** By address. */
  const ranges: Range[] = [];
  const known = new Map<string, Range>();
  let longest = 0;
  /** The ranges that share bytes with an interval. */
  const within = (address: Address, bytes: number): Range[] => {
    const found: Range[] = [];
    for (let i = firstFrom(ranges, address - longest); i < ranges.length && ranges[i]!.address < address + bytes; i++)
      if (ranges[i]!.address + ranges[i]!.bytes > address) found.push(ranges[i]!);
    return found;
  };
  return {
    within,
    all: (): readonly Range[] => ranges,
    rangeAt(address: Address, bytes: number): Range {
      const key = `${address} ${bytes}`;
      let range = known.get(key);
      if (range) return range;
      range = { address, bytes, overlaps: within(address, bytes), buffer: null, isZero: false, isOnHost: true };
      for (const other of range.overlaps) other.overlaps.push(range);
      ranges.splice(firstFrom(ranges, address), 0, range);
      known.set(key, range);
      longest = Math.max(longest, bytes);
      return range;
    },
  };
}

/** The place of the first range at `address` or behind it. */
function firstFrom(ranges: readonly Range[], address: Address): number {
  let [low, high] = [0, ranges.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ranges[middle]!.address < address) low = middle + 1;
    else high = middle;
  }
  return low;
}
