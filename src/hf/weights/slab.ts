/** Where bytes lie in a file: plain data, for any thread. */
export interface Slab {
  readonly path: string;
  /** From the begin of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** Fills memory with the bytes of a slab from one of its bytes on. */
export type SlabReader = (slab: Slab, memory: Uint8Array, from: number) => void;
