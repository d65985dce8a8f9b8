/**
 * Products of matrices by the routines of kernels.ts, on the calling thread: blocked as those of assembly/matrix.ts are. A block of B,
 * K_BLOCK x N_BLOCK, is packed into the second-level cache, then panels of rows of A one after the other into the first-level
 * cache, and each is multiplied with all of it.
 *
 * An element of the result is its addend, to which the products of pairs of k are added in ascending order, in blocks of K_BLOCK. That
 * does not depend on the other elements, so rows may be shared by threads in any way.
 */
import { CFunction, type Pointer } from "bun:ffi";
import type { Address } from "../../runtime/executor.ts";
import type { Bf16Addresses } from "./executable.ts";
import { ADDEND, ARGUMENT_BYTES, LANES, MULTIPLY, PACK, TILE_COLUMNS, TILE_ROWS } from "./layout.ts";

/** Most k of a block, and its unit: what is packed at a time. */
const K_BLOCK = 512;
const K_UNIT = 32;
/** Most columns of a block, a multiple of those of a tile. */
const N_BLOCK = 512;

// Layout of the scratch: arguments, the order that zips halves, a panel of A, a block of B.
const PANEL_AT = 192;
const BLOCK_AT = PANEL_AT + 2 * LANES * K_BLOCK;

/** Bytes of scratch that a thread needs, 64-byte aligned. */
export const BF16_SCRATCH = BLOCK_AT + 2 * K_BLOCK * N_BLOCK;

/** Types of operands, as assembly/half.ts has them. */
export const F32 = 0;
export const BF16 = 1;

/** Kinds of addends, as assembly/native.ts has them. */
const KINDS = [
  { kind: ADDEND.none, rows: 0 },
  { kind: ADDEND.matrix, rows: 1 },
  { kind: ADDEND.matrix, rows: 0 },
  { kind: ADDEND.column, rows: 0 },
] as const;

/** A matrix that is read, row-major: its element type, and the elements from one row to the next. */
export interface Bf16Operand {
  address: Address;
  type: number;
  stride: number;
  /** Stored transposed. */
  transposed: boolean;
}

/**
 * out[m, n] = factor op(A) op(B) + C, all in the shared memory; `factorBits` are those of an f32, `addend` is a kind of assembly/native.ts.
 * The factor is for an A of f32.
 */
export type Bf16Product = (
  a: Readonly<Bf16Operand>,
  b: Readonly<Bf16Operand>,
  c: Address,
  addend: number,
  out: Address,
  m: number,
  n: number,
  k: number,
  factorBits: number,
) => void;

/** A routine: the addresses of its arguments, and of what offsets in them count from. */
type Routine = (args: number, base: number) => void;

/** Makes a routine callable on this thread. */
function routineAt(address: number): Routine {
  return CFunction({ ptr: address as Pointer, args: ["ptr", "ptr"], returns: "void" }) as unknown as Routine;
}

const ONE_BITS = 0x3f800000;
const ALL_BITS = 0xffffffff;
/** A bit for each of `count` items, 32 at most. */
const bits = (count: number): number => (count >= 32 ? ALL_BITS : 2 ** count - 1);

/** Makes the products of one thread, with scratch of its own. `base` is the address of the shared memory in the process. */
export function createBf16Product(
  memory: WebAssembly.Memory,
  base: number,
  scratch: Address,
  addresses: Bf16Addresses,
): Bf16Product {
  const along = [routineAt(addresses.packAlong.f32), routineAt(addresses.packAlong.bf16)] as const;
  const across = [routineAt(addresses.packAcross.f32), routineAt(addresses.packAcross.bf16)] as const;
  const multiply = addresses.multiply.map(routineAt);
  const words = new Uint32Array(memory.buffer, scratch, 2 * (ARGUMENT_BYTES / 4));
  const order = new Uint16Array(memory.buffer, scratch + ARGUMENT_BYTES, 2 * LANES);
  for (let i = 0; i < order.length; i++) order[i] = (i >> 1) + LANES * (i & 1);
  const args = base + scratch;
  const [panel, block] = [scratch + PANEL_AT, scratch + BLOCK_AT];

  /** Packs up to 16 rows of op(A), or columns of op(B), from `first` on, and k from `from` to `from + depth`. */
  const pack = (
    operand: Readonly<Bf16Operand>,
    isAlong: boolean,
    first: number,
    count: number,
    from: number,
    depth: number,
    to: Address,
    toStride: number,
    factorBits: number,
  ): void => {
    const { address, type, stride } = operand;
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
  };

  return (a, b, c, addend, out, m, n, k, factorBits) => {
    const { kind, rows: addendRows } = KINDS[addend]!;
    const steps = Math.ceil(k / K_BLOCK);
    const step = Math.ceil(k / steps / K_UNIT) * K_UNIT;
    const blocks = Math.ceil(n / N_BLOCK);
    const width = Math.ceil(n / blocks / TILE_COLUMNS) * TILE_COLUMNS;
    const panels = Math.ceil(m / TILE_ROWS);
    for (let from = 0; from < k; from += step) {
      const depth = Math.min(step, k - from);
      const pairs = (depth + 1) >> 1;
      const panelBytes = 4 * TILE_COLUMNS * ((K_UNIT / 2) * Math.ceil(depth / K_UNIT));
      for (let column = 0; column < n; column += width) {
        const columns = Math.min(width, n - column);
        for (let i = 0; i < columns; i += LANES) {
          const to = block + Math.floor(i / TILE_COLUMNS) * panelBytes + 4 * (i % TILE_COLUMNS);
          const count = Math.min(LANES, columns - i);
          pack(b, b.transposed, column + i, count, from, depth, to, 4 * TILE_COLUMNS, ONE_BITS);
        }
        for (let i = 0; i < panels; i++) {
          // Panels of nearly equal height.
          const row = Math.floor((i * m) / panels);
          const rows = Math.floor(((i + 1) * m) / panels) - row;
          pack(a, !a.transposed, row, rows, from, depth, panel, 4 * LANES, factorBits);
          const target = (out >>> 0) + 4 * (row * n + column);
          words[MULTIPLY.a / 4] = panel;
          words[MULTIPLY.b / 4] = block;
          words[MULTIPLY.panelBytes / 4] = panelBytes;
          words[MULTIPLY.panels / 4] = Math.ceil(columns / TILE_COLUMNS);
          words[MULTIPLY.pairs / 4] = pairs;
          words[MULTIPLY.out / 4] = target;
          words[MULTIPLY.outStride / 4] = 4 * n;
          words[MULTIPLY.mask / 4] = bits(((columns - 1) % TILE_COLUMNS) + 1);
          if (from > 0) {
            words[MULTIPLY.addend / 4] = target;
            words[MULTIPLY.addendStride / 4] = 4 * n;
            words[MULTIPLY.kind / 4] = ADDEND.matrix;
          } else {
            words[MULTIPLY.addend / 4] = (c >>> 0) + (kind === ADDEND.column ? 4 * row : 4 * (addendRows * row * n + column));
            words[MULTIPLY.addendStride / 4] = 4 * n * addendRows;
            words[MULTIPLY.kind / 4] = kind;
          }
          multiply[rows - 1]!(args, base);
        }
      }
    }
  };
}
