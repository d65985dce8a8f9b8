import type { Address } from "../../runtime/executor.ts";
import type { BufferDevice, BufferHandle } from "./pool.ts";
import { contains, isThere, type Range } from "./ranges.ts";

/** A mirror, as far as copies need it. */
interface Ranges {
  within(address: Address, bytes: number): Range[];
  rangeAt(address: Address, bytes: number): Range;
  /** Has memory of the process hold what the device has. */
  bring(range: Range): void;
  take(address: Address, bytes: number): void;
  allocate(bytes: number): BufferHandle;
}

/** A range that the device had when it was copied to a place. */
interface Piece {
  /** From the beginning of the place. */
  readonly offset: number;
  readonly bytes: number;
  /** True if it was of zeros, which are not copied. */
  readonly isZero: boolean;
}

/**
 * Copies between a mirror's ranges and places in memory of this process: buffers come and go at once, without the memory behind addresses. What
 * the device does not have is copied from there.
 */
export function createOutside(device: BufferDevice, { within, rangeAt, bring, take, allocate }: Ranges) {
  /** By the place that they were copied to. */
  const kept = new Map<Address, readonly Piece[]>();
  const sent = { up: 0, down: 0 };
  /** Calls a function with each interval of [0, bytes) that no piece has. */
  const between = (pieces: readonly Piece[], bytes: number, use: (from: number, bytes: number) => void) => {
    let next = 0;
    for (const piece of pieces) {
      if (piece.offset > next) use(next, piece.offset - next);
      next = Math.max(next, piece.offset + piece.bytes);
    }
    if (bytes > next) use(next, bytes - next);
  };
  return {
    sent: sent as Readonly<typeof sent>,
    copyOut(address: Address, bytes: number, place: Address): void {
      const found = within(address, bytes).filter(isThere);
      const pieces: Piece[] = [];
      for (const range of found) {
        if (!contains(address, bytes, range)) {
          bring(range);
          continue;
        }
        const piece = { offset: range.address - address, bytes: range.bytes, isZero: range.buffer === null };
        pieces.push(piece);
        if (range.buffer === null) continue;
        device.download(range.buffer, place + piece.offset, range.bytes);
        sent.down += range.bytes;
      }
      between(pieces, bytes, (from, count) => device.move(address + from, place + from, count));
      kept.set(place, pieces);
    },
    copyIn(address: Address, bytes: number, place: Address): void {
      take(address, bytes);
      const pieces = kept.get(place) ?? [];
      between(pieces, bytes, (from, count) => device.move(place + from, address + from, count));
      for (const { offset, bytes: count, isZero } of pieces) {
        const range = rangeAt(address + offset, count);
        range.isZero = isZero;
        range.isOnHost = false;
        if (isZero) continue;
        range.buffer = allocate(count);
        device.upload(place + offset, range.buffer, count);
        sent.up += count;
      }
    },
  };
}
