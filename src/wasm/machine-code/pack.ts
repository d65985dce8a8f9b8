/** Packing of operands for products in bf16, on the calling thread, in scratch of its own. */
import { CFunction, type Pointer } from "bun:ffi";
import type { Address } from "../../runtime/executor.ts";
import type { Bf16Addresses } from "./executable.ts";
import { AMX_SIDE, ARGUMENT_BYTES, LANES, PACK, SHAPES_AT } from "./layout.ts";

/** Most k of a block, and its unit: what is packed at a time. */
export const K_BLOCK = 512;
export const K_UNIT = 32;
/** Most columns of a block, a multiple of those of a tile. */
export const N_BLOCK = 512;

/** Bytes of panels of A that are packed at a time: 20 of AMX's, or 40. */
export const PANELS_BYTES = 20 * 2 * AMX_SIDE * K_BLOCK;

// Layout of the scratch: arguments, the order that zips halves, shapes of tiles, panels of A, sums of tiles, pairs of 16 columns of A, a block of B.
export const PANELS_AT = SHAPES_AT + 64;
export const SUMS_AT = PANELS_AT + PANELS_BYTES;
export const ZIPPED_AT = SUMS_AT + 4 * AMX_SIDE * AMX_SIDE;
export const BLOCK_AT = ZIPPED_AT + 2 * LANES * K_BLOCK;

/** Bytes of scratch that a thread needs, 64-byte aligned. */
export const BF16_SCRATCH = BLOCK_AT + 2 * K_BLOCK * N_BLOCK;

/** Types of operands, as assembly/half.ts has them. */
export const F32 = 0;
export const BF16 = 1;

/** A matrix that is read, row-major: its element type, and the elements from one row to the next. */
export interface Bf16Operand {
  address: Address;
  type: number;
  stride: number;
  /** Stored transposed. */
  transposed: boolean;
}

/** A routine: the addresses of its arguments, and of what offsets in them count from. */
export type Routine = (args: number, base: number) => void;

/** Makes a routine callable on this thread. */
export function routineAt(address: number): Routine {
  return CFunction({ ptr: address as Pointer, args: ["ptr", "ptr"], returns: "void" }) as unknown as Routine;
}

export const ONE_BITS = 0x3f800000;
const ALL_BITS = 0xffffffff;

/** A bit for each of `count` items, 32 at most. */
export const bits = (count: number): number => (count >= 32 ? ALL_BITS : 2 ** count - 1);

export interface Packer {
  readonly memory: WebAssembly.Memory;
  /** The shared memory's address in the process, and that of the arguments. */
  readonly base: number;
  readonly args: number;
  /** The scratch, by words: the arguments of the next call come first. */
  readonly words: Uint32Array;
  readonly scratch: Address;
  /**
   * Packs up to 16 rows of op(A), or columns of op(B), from `first` on, and terms from `from` to `from + depth`, as pairs. `isAlong`: the terms lie
   * side by side; what is missing of the last 32 becomes zero then.
   */
  pack(
    operand: Readonly<Bf16Operand>,
    isAlong: boolean,
    first: number,
    count: number,
    from: number,
    depth: number,
    to: Address,
    toStride: number,
    factorBits: number,
  ): void;
}

export function createPacker(memory: WebAssembly.Memory, base: number, scratch: Address, addresses: Bf16Addresses): Packer {
  const along = [routineAt(addresses.packAlong.f32), routineAt(addresses.packAlong.bf16)] as const;
  const across = [routineAt(addresses.packAcross.f32), routineAt(addresses.packAcross.bf16)] as const;
  const words = new Uint32Array(memory.buffer, scratch, BF16_SCRATCH / 4);
  const order = new Uint16Array(memory.buffer, scratch + ARGUMENT_BYTES, 2 * LANES);
  for (let i = 0; i < order.length; i++) order[i] = (i >> 1) + LANES * (i & 1);
  const args = base + scratch;
  return {
    memory,
    base,
    args,
    words,
    scratch,
    pack({ address, type, stride }, isAlong, first, count, from, depth, to, toStride, factorBits) {
      const width = type === BF16 ? 2 : 4;
      words[PACK.stride / 4] = stride * width;
      words[PACK.to / 4] = to;
      words[PACK.toStride / 4] = toStride;
      words[PACK.factor / 4] = factorBits;
      if (isAlong) {
        words[PACK.from / 4] = (address >>> 0) + width * (first * stride + from);
        words[PACK.rows / 4] = count;
        words[PACK.steps / 4] = Math.ceil(depth / K_UNIT);
        words[PACK.mask / 4] = bits(((depth - 1) % K_UNIT) + 1);
        along[type === BF16 ? 1 : 0](args, base);
        return;
      }
      words[PACK.from / 4] = (address >>> 0) + width * (from * stride + first);
      words[PACK.steps / 4] = depth >> 1;
      words[PACK.odd / 4] = depth & 1;
      words[PACK.mask / 4] = bits(count);
      across[type === BF16 ? 1 : 0](args, base);
    },
  };
}
