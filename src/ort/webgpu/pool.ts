import type { Address } from "../../runtime/executor.ts";

/** A buffer of a device: a handle, into which no address points. */
export type BufferHandle = number;

interface Allocator {
  allocate(bytes: number): BufferHandle;
  free(buffer: BufferHandle): void;
}

export interface BufferDevice extends Allocator {
  /** Fills a buffer from its beginning. */
  upload(from: Address | Uint8Array, to: BufferHandle, bytes: number): void;
  download(from: BufferHandle, to: Address, bytes: number): void;
  /** An address of as many zeros. */
  clear(address: Address, bytes: number): void;
  /** The memory behind addresses is not needed until it is written again. */
  giveBack(address: Address, bytes: number): void;
  /** Copies memory of this process. */
  move(from: Address, to: Address, bytes: number): void;
}

export type Pool = ReturnType<typeof createPool>;

/** Buffers have multiples of so many bytes. */
const UNIT = 16;

/** Buffers by their size; those that nothing needs are given back where all together would be more than was reserved. */
/** @param reserved bytes of addresses that were given out so far */
export function createPool(device: Allocator, reserved: () => number) {
  const free = new Map<number, BufferHandle[]>();
  let [held, peak, idle] = [0, 0, 0];
  const sizeOf = (bytes: number) => Math.max(UNIT, Math.ceil(bytes / UNIT) * UNIT);
  const shrinkTo = (limit: number) => {
    for (const [size, buffers] of [...free].sort(([one], [other]) => other - one)) {
      while (held > limit && buffers.length > 0) {
        device.free(buffers.pop()!);
        held -= size;
        idle -= size;
      }
    }
  };
  return {
    held: () => held,
    peak: () => peak,
    get(bytes: number): BufferHandle {
      const size = sizeOf(bytes);
      const buffer = free.get(size)?.pop();
      if (buffer !== undefined) {
        idle -= size;
        return buffer;
      }
      if (idle > 0) shrinkTo(reserved() - size);
      const made = device.allocate(size);
      held += size;
      peak = Math.max(peak, held);
      return made;
    },
    put(buffer: BufferHandle, bytes: number): void {
      const size = sizeOf(bytes);
      const buffers = free.get(size);
      if (buffers) buffers.push(buffer);
      else free.set(size, [buffer]);
      idle += size;
    },
    close: () => shrinkTo(-1),
  };
}
