import type { Address } from "./executor.ts";

/** Describes what has been moved so far: bytes, and seconds. */
export interface TransferCounts {
  readonly out: number;
  readonly in: number;
  /** Time that the computation has waited for transfers. */
  readonly waited: number;
  /** Time that each direction has been busy. */
  readonly busyOut: number;
  readonly busyIn: number;
}

/** Where boundaries and tapes go while they are not needed; see src/store. A ticket stands for a move that was begun. */
export interface OffloadMemory {
  /** A place of at least `bytes`; the same one for the same name. @throws {UserError} when there is no room */
  reserve(name: string, bytes: number): number;
  /** Begins to copy memory to a place, once less than `inFlight` bytes are under way with it (or nothing is). */
  copy(address: Address, bytes: number, place: number, inFlight: number): number;
  /** Begins to fill memory from a place, as soon as the copy with ticket `after` is done. */
  fetch(address: Address, bytes: number, place: number, after: number): number;
  /** Blocks until a move is done. @throws {UserError} when it has failed */
  wait(direction: "out" | "in", ticket: number): void;
  /** Blocks until all moves are done. */
  finish(): void;
  counts(): TransferCounts;
}
