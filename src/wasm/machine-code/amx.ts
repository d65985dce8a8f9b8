/**
 * Machine code for products of matrices in bf16 with AMX: a tile register holds 16 rows of 64 bytes, and one instruction adds the product of 16 rows of 32 bf16 of A with
 * 16 pairs of rows of 16 columns of B. B is packed as in kernels.ts, A lies as rows.
 */
import {
  type Assembler,
  at,
  createAssembler,
  type Mask,
  R10,
  R11,
  R12,
  R13,
  R8,
  R9,
  RAX,
  RBP,
  RBX,
  RCX,
  RDI,
  RDX,
  RSI,
  writeRoutine,
} from "./assembler.ts";
import { loadAddress } from "./kernels.ts";
import { ADDEND, LANES, NARROW, SHAPES_AT, TILE_COLUMNS, TILES } from "./layout.ts";

/** Where in the code the routines begin, in bytes. */
export interface AmxCode {
  readonly code: Uint8Array<ArrayBuffer>;
  /** Rows of f32 become rows of bf16, a multiple of 32 in length. */
  readonly narrow: number;
  /** Up to 32 rows along a whole block of B. */
  readonly multiply: number;
}

/** Makes the code. */
export function amxCode(): AmxCode {
  const a = createAssembler();
  return {
    narrow: writeRoutine(a, () => narrow(a)),
    multiply: writeRoutine(a, () => multiplyTiles(a)),
    code: a.finish(),
  };
}

function narrow(a: Assembler): void {
  const [source, stride, rows, steps, to, toStride, from, into] = [R8, RDX, RCX, R9, R10, R11, RAX, RSI] as const;
  const [now, last] = [
    [1, 2],
    [3, 4],
  ] as const satisfies readonly (readonly [Mask, Mask])[];
  const [low, high, factor] = [16, 17, 18];
  loadAddress(a, source, NARROW.from, RSI);
  loadAddress(a, to, NARROW.to, RSI);
  a.load32(stride, at(RDI, NARROW.stride));
  a.load32(rows, at(RDI, NARROW.rows));
  a.load32(toStride, at(RDI, NARROW.toStride));
  a.load("vbroadcastss", factor, at(RDI, NARROW.factor));
  a.load32(RAX, at(RDI, NARROW.mask));
  a.maskFrom(last[0], RAX);
  a.load32(RAX, at(RDI, NARROW.mask + 2));
  a.maskFrom(last[1], RAX);
  const [row, loop, whole] = [a.label(), a.label(), a.label()];
  a.place(row);
  a.set(RAX, -1);
  for (const mask of now) a.maskFrom(mask, RAX);
  a.load32(steps, at(RDI, NARROW.steps));
  a.move(from, source);
  a.move(into, to);
  a.place(loop);
  a.compare(steps, 1);
  a.jumpIf("notEqual", whole);
  now.forEach((mask, i) => a.copyMask(mask, last[i]!));
  a.place(whole);
  a.load("vmovups", low, at(from), now[0]);
  a.load("vmovups", high, at(from, 64), now[1]);
  a.vector("vmulps", low, low, factor);
  a.vector("vmulps", high, high, factor);
  a.vector("vcvtne2ps2bf16", low, high, low);
  a.store(at(into), low);
  a.addConstant(from, 128);
  a.addConstant(into, 64);
  a.addConstant(steps, -1);
  a.jumpIf("notEqual", loop);
  a.add(source, stride);
  a.add(to, toStride);
  a.addConstant(rows, -1);
  a.jumpIf("notEqual", row);
  a.vzeroupper();
  a.return();
}

/** Sums of 2 x 2 tiles in tile registers 0 to 3, A in 4 and 5, B in 6 and 7. */
function multiplyTiles(a: Assembler): void {
  const [panel, out, addend, panels] = [R8, R9, R10, R11] as const;
  // Within the loop over k; RSI stays the base.
  const [upper, lower, pb, steps, aStride, bStride] = [RAX, RBX, RDX, RCX, RBP, R12] as const;
  const [left, right] = [1, 2] as const satisfies Mask[];
  const [low, high] = [0, 1];
  const kept = [RBX, RBP, R12, R13];
  for (const register of kept) a.push(register);
  a.configureTiles(at(RDI, SHAPES_AT));
  loadAddress(a, panel, TILES.b, RSI);
  loadAddress(a, out, TILES.out, RSI);
  loadAddress(a, addend, TILES.addend, RSI);
  a.load32(panels, at(RDI, TILES.panels));
  a.load32(aStride, at(RDI, TILES.aStride));
  a.set(bStride, 4 * TILE_COLUMNS);
  a.set(RCX, -1);
  a.maskFrom(left, RCX);
  a.maskFrom(right, RCX);

  const [loop, whole, inner] = [a.label(), a.label(), a.label()];
  a.place(loop);
  a.compare(panels, 1);
  a.jumpIf("notEqual", whole);
  a.load32(RCX, at(RDI, TILES.mask));
  a.maskFrom(left, RCX);
  a.load32(RCX, at(RDI, TILES.mask + 2));
  a.maskFrom(right, RCX);
  a.place(whole);

  for (let tile = 0; tile < 4; tile++) a.zeroTile(tile);
  loadAddress(a, upper, TILES.a, RSI);
  a.move(lower, upper);
  for (let i = 0; i < LANES; i++) a.add(lower, aStride);
  a.move(pb, panel);
  a.load32(steps, at(RDI, TILES.steps));
  a.place(inner);
  a.loadTile(4, at(upper), aStride);
  a.loadTile(6, at(pb), bStride);
  a.multiplyTiles(0, 4, 6);
  a.loadTile(7, at(pb, 64), bStride);
  a.multiplyTiles(1, 4, 7);
  a.loadTile(5, at(lower), aStride);
  a.multiplyTiles(2, 5, 6);
  a.multiplyTiles(3, 5, 7);
  a.addConstant(upper, 64);
  a.addConstant(lower, 64);
  a.addConstant(pb, LANES * 4 * TILE_COLUMNS);
  a.addConstant(steps, -1);
  a.jumpIf("notEqual", inner);

  // The sums are as wide as B's rows in the packed block.
  const sums = RAX;
  loadAddress(a, sums, TILES.sums, RSI);
  for (let tile = 0; tile < 4; tile++) {
    a.storeTile(at(sums, 64 * (tile % 2) + (tile < 2 ? 0 : LANES * 4 * TILE_COLUMNS)), bStride, tile);
  }
  writeSums(a, { sums, out, addend, left, right, low, high });
  a.addConstant(out, 128);
  a.load32(RCX, at(RDI, TILES.panelBytes));
  a.add(panel, RCX);
  a.addConstant(panels, -1);
  a.jumpIf("notEqual", loop);
  a.releaseTiles();
  for (const register of kept.toReversed()) a.pop(register);
  a.vzeroupper();
  a.return();
}

/** Writes rows of sums, with what is added to them. RCX, RDX and RBX are free. */
function writeSums(
  a: Assembler,
  {
    sums,
    out,
    addend,
    left,
    right,
    low,
    high,
  }: Readonly<Record<"sums" | "out" | "addend" | "low" | "high", number>> & {
    readonly left: Mask;
    readonly right: Mask;
  },
): void {
  const [rows, to, more] = [RCX, RDX, RBX] as const;
  const end = a.label();
  /** The loop over rows; `add` adds to the two vectors, and goes on to the next row's addend. */
  const eachRow = (add: () => void): void => {
    const row = a.label();
    a.place(row);
    a.load("vmovups", low, at(sums));
    a.load("vmovups", high, at(sums, 64));
    add();
    a.store(at(to), low, left);
    a.store(at(to, 64), high, right);
    a.addConstant(sums, 4 * TILE_COLUMNS);
    a.load32(R13, at(RDI, TILES.outStride));
    a.add(to, R13);
    a.addConstant(rows, -1);
    a.jumpIf("notEqual", row);
  };
  a.move(to, out);
  a.move(more, addend);
  a.load32(rows, at(RDI, TILES.rows));
  const [matrix, column] = [a.label(), a.label()];
  a.load32(R13, at(RDI, TILES.kind));
  a.compare(R13, ADDEND.matrix);
  a.jumpIf("equal", matrix);
  a.jumpIf("greater", column);
  eachRow(() => {});
  a.jump(end);
  a.place(column);
  const one = 2;
  eachRow(() => {
    a.load("vbroadcastss", one, at(more));
    a.vector("vaddps", low, low, one);
    a.vector("vaddps", high, high, one);
    a.addConstant(more, 4);
  });
  a.jump(end);
  a.place(matrix);
  eachRow(() => {
    a.vectorMasked("vaddps", low, low, at(more), left);
    a.vectorMasked("vaddps", high, high, at(more, 64), right);
    a.load32(R13, at(RDI, TILES.addendStride));
    a.add(more, R13);
  });
  a.addConstant(addend, 128);
  a.place(end);
}
