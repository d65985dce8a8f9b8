/** Panels of rows of A, and the two ways to multiply them with a packed block of B: `vdpbf16ps`, and tiles of AMX. */
import type { Address } from "../../runtime/executor.ts";
import type { Bf16Addresses } from "./executable.ts";
import { AMX_SIDE, LANES, MULTIPLY, NARROW, SHAPES_AT, TILE_COLUMNS, TILE_ROWS, TILES } from "./layout.ts";
import {
  BF16,
  type Bf16Operand,
  bits,
  K_BLOCK,
  K_UNIT,
  ONE_BITS,
  type Packer,
  PANELS_AT,
  PANELS_BYTES,
  routineAt,
  SUMS_AT,
  ZIPPED_AT,
} from "./pack.ts";

export interface Panels {
  /** Most rows of a panel, and most panels at a time. */
  readonly rows: number;
  readonly count: number;
  /** True if terms of B that are missing of the last 32 have to be zero. */
  readonly isPadded: boolean;
  /** Packs rows of op(A) as panel `i`. */
  take(i: number, a: Readonly<Bf16Operand>, row: number, rows: number, from: number, depth: number, factorBits: number): void;
  /** Multiplies panel `i`; the arguments about B, the addend and the output are set. */
  multiply(i: number, rows: number, depth: number): void;
}

export function createPanels(packer: Packer, addresses: Bf16Addresses): Panels {
  return addresses.amx ? tiles(packer, addresses.amx) : vectors(packer, addresses);
}

function vectors({ words, args, base, scratch, pack }: Packer, addresses: Bf16Addresses): Panels {
  const multiply = addresses.multiply.map(routineAt);
  const panelBytes = 2 * LANES * K_BLOCK;
  const panelAt = (i: number): Address => scratch + PANELS_AT + i * panelBytes;
  return {
    rows: TILE_ROWS,
    count: PANELS_BYTES / panelBytes,
    isPadded: false,
    take: (i, a, row, rows, from, depth, factorBits) =>
      pack(a, !a.transposed, row, rows, from, depth, panelAt(i), 4 * LANES, factorBits),
    multiply(i, rows, depth) {
      words[MULTIPLY.a / 4] = panelAt(i);
      words[MULTIPLY.pairs / 4] = (depth + 1) >> 1;
      multiply[rows - 1]!(args, base);
    },
  };
}

function tiles({ memory, words, args, base, scratch, pack }: Packer, amx: NonNullable<Bf16Addresses["amx"]>): Panels {
  const [narrow, multiply] = [routineAt(amx.narrow), routineAt(amx.multiply)];
  const panelBytes = 2 * AMX_SIDE * K_BLOCK;
  const count = PANELS_BYTES / panelBytes;
  // Palette 1; then by tile the bytes of a row, from byte 16 on, and the rows, from byte 48 on.
  const shapes = new Uint8Array(words.buffer, scratch + SHAPES_AT, 64).fill(0);
  shapes[0] = 1;
  for (let tile = 0; tile < 8; tile++) [shapes[16 + 2 * tile], shapes[48 + tile]] = [64, LANES];
  // Where each panel of A was taken: in place, or in the scratch.
  const places = Array.from({ length: count }, (): Address => 0);
  const strides = Array.from({ length: count }, () => 0);
  const zipped: Bf16Operand = { address: scratch + ZIPPED_AT, type: BF16, stride: 2 * LANES, transposed: false };

  /** Rows of bf16 are taken where they are, if there are as many as a tile has. */
  const takeBf16 = (
    panel: number,
    { address, stride: lda }: Readonly<Bf16Operand>,
    row: number,
    rows: number,
    from: number,
    depth: number,
  ) => {
    const source = (address >>> 0) + 2 * (row * lda + from);
    if (rows === AMX_SIDE && depth % K_UNIT === 0) {
      [places[panel], strides[panel]] = [source, 2 * lda];
      return;
    }
    const [at, stride] = [places[panel]!, strides[panel]!];
    // A view does not grow with the memory.
    const bytes = new Uint8Array(memory.buffer);
    for (let i = 0; i < rows; i++) {
      const to = at + i * stride;
      bytes.copyWithin(to, source + 2 * i * lda, source + 2 * (i * lda + depth));
      bytes.fill(0, to + 2 * depth, to + stride);
    }
  };
  /** Columns become pairs of terms, then, as if they were rows of bf16, are turned. */
  const takeTransposed = (
    panel: number,
    a: Readonly<Bf16Operand>,
    row: number,
    rows: number,
    from: number,
    depth: number,
    factor: number,
  ) => {
    const [at, stride] = [places[panel]!, strides[panel]!];
    const pairs = (depth + 1) >> 1;
    const padded = (K_UNIT / 2) * Math.ceil(depth / K_UNIT);
    for (let i = 0; i < rows; i += LANES) {
      pack(a, false, row + i, Math.min(LANES, rows - i), from, depth, zipped.address, 4 * LANES, factor);
      words.fill(0, ZIPPED_AT / 4 + pairs * LANES, ZIPPED_AT / 4 + padded * LANES);
      for (let pair = 0; pair < padded; pair += LANES)
        pack(zipped, true, pair, LANES, 0, 2 * LANES, at + i * stride + 4 * pair, stride, ONE_BITS);
    }
  };
  return {
    rows: AMX_SIDE,
    count,
    isPadded: true,
    take(panel, a, row, rows, from, depth, factorBits) {
      const steps = Math.ceil(depth / K_UNIT);
      const [at, stride] = [scratch + PANELS_AT + panel * panelBytes, 2 * K_UNIT * steps];
      [places[panel], strides[panel]] = [at, stride];
      if (a.transposed) return takeTransposed(panel, a, row, rows, from, depth, factorBits);
      if (a.type === BF16) return takeBf16(panel, a, row, rows, from, depth);
      words[NARROW.from / 4] = (a.address >>> 0) + 4 * (row * a.stride + from);
      words[NARROW.stride / 4] = 4 * a.stride;
      words[NARROW.rows / 4] = rows;
      words[NARROW.steps / 4] = steps;
      words[NARROW.mask / 4] = bits(((depth - 1) % K_UNIT) + 1);
      words[NARROW.to / 4] = at;
      words[NARROW.toStride / 4] = stride;
      words[NARROW.factor / 4] = factorBits;
      narrow(args, base);
    },
    multiply(panel, rows, depth) {
      words[TILES.a / 4] = places[panel]!;
      words[TILES.aStride / 4] = strides[panel]!;
      words[TILES.steps / 4] = Math.ceil(depth / K_UNIT);
      words[TILES.rows / 4] = rows;
      words[TILES.sums / 4] = scratch + SUMS_AT;
      multiply(args, base);
    },
  };
}

/** Fills the terms of a packed panel of B that are missing of the last 32. `at` is a place in the words. */
export function padPanel(words: Uint32Array, at: Address, depth: number): void {
  const from = (depth + 1) >> 1;
  const to = (K_UNIT / 2) * Math.ceil(depth / K_UNIT);
  if (from < to) words.fill(0, at + from * TILE_COLUMNS, at + to * TILE_COLUMNS);
}
