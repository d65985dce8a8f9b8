import type { Address, Executor } from "../../runtime/executor.ts";

interface Piece {
  readonly address: Address;
  readonly bytes: number;
}

/** A piece is given to nobody who asks for less than this share of it: small things would keep large ones from being used again. */
const LEAST_SHARE = 0.5;
/** Bytes that make no difference. */
const SMALL = 1 << 20;

/** Memory of an executor that is given back: an executor itself only reserves for good. */
export interface Pool {
  /** The content is arbitrary. */
  take(bytes: number): Address;
  give(address: Address): void;
  /** Tells whether `take` would have to reserve more. */
  grows(bytes: number): boolean;
  /** Bytes that are taken. */
  readonly taken: number;
}

export function createPool(executor: Executor): Pool {
  const free: Piece[] = [];
  const taken = new Map<Address, number>();
  const fittingOf = (bytes: number): Piece | undefined => {
    const isNear = (piece: Piece) => piece.bytes <= SMALL || bytes >= LEAST_SHARE * piece.bytes;
    return free.filter((piece) => piece.bytes >= bytes && isNear(piece)).sort((a, b) => a.bytes - b.bytes)[0];
  };
  return {
    grows: (bytes) => fittingOf(bytes) === undefined,
    take(bytes) {
      const fitting = fittingOf(bytes);
      if (fitting) free.splice(free.indexOf(fitting), 1);
      const piece = fitting ?? { address: executor.reserve(bytes), bytes };
      taken.set(piece.address, piece.bytes);
      return piece.address;
    },
    give(address) {
      const bytes = taken.get(address);
      if (bytes === undefined) throw new Error(`memory at ${address} was not taken`);
      taken.delete(address);
      free.push({ address, bytes });
    },
    get taken() {
      return [...taken.values()].reduce((sum, bytes) => sum + bytes, 0);
    },
  };
}
