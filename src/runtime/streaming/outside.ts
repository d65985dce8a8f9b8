import type { Address, Executor } from "../executor.ts";
import type { TransferCounts } from "../offload-memory.ts";

/**
 * Trained state outside of an executor's memory: parameters, gradients and the optimizer's state lie in a file, in the same flat layout as in
 * memory. Addresses from `OUTSIDE` on are places in it. They can be read and written like others; programs get at them through windows.
 */
export const OUTSIDE = 2 ** 50;

export const isOutside = (address: Address): boolean => address >= OUTSIDE;

/** The file, or what stands for it. Offsets are in bytes. */
export interface OutsideMemory {
  /** At once, behind all moves that were begun. */
  read(offset: number, target: Uint8Array): void;
  write(offset: number, data: Uint8Array): void;
  zero(offset: number, bytes: number): void;
  /** Begins to copy memory of the executor to a place. Returns a ticket. */
  store(address: Address, bytes: number, offset: number): number;
  /** Begins to fill memory of the executor from a place, behind all copies that were begun. */
  fetch(offset: number, bytes: number, address: Address): number;
  waitStored(ticket: number): void;
  waitFetched(ticket: number): void;
  /** Blocks until all moves are done. */
  finish(): void;
  readonly counts: TransferCounts;
  close(): void;
}

/** An executor whose addresses reach into `outside` too. */
export function withOutside(executor: Executor, outside: OutsideMemory): Executor {
  const own = {
    fill(address: Address, bytes: number, write: (target: Uint8Array) => void) {
      if (!isOutside(address)) return executor.fill(address, bytes, write);
      const data = new Uint8Array(bytes);
      write(data);
      outside.write(address - OUTSIDE, data);
    },
    write(address: Address, data: Uint8Array) {
      if (isOutside(address)) outside.write(address - OUTSIDE, data);
      else executor.write(address, data);
    },
    read(address: Address, bytes: number, target?: Uint8Array): Uint8Array {
      if (!isOutside(address)) return executor.read(address, bytes, target);
      const data = target ?? new Uint8Array(bytes);
      outside.read(address - OUTSIDE, data.subarray(0, bytes));
      return data;
    },
    zero(address: Address, bytes: number) {
      if (isOutside(address)) outside.zero(address - OUTSIDE, bytes);
      else executor.zero(address, bytes);
    },
  };
  // Everything else, what changes with time among it, is the executor's.
  return Object.assign(Object.create(executor) as Executor, own);
}
