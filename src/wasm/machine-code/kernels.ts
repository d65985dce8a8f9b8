/**
 * Machine code for products of matrices in bf16 with sums in f32, by AVX512-BF16's `vdpbf16ps`: in each of 16 lanes it adds the
 * products of two pairs of bf16 to a sum. So both operands are packed by pairs of k: [pairs][columns] of 32 bits, the even k in the low half.
 *
 * Each routine takes (rdi) the address of its arguments, 32-bit words at the offsets of layout.ts, and (rsi) the address that all offsets in
 * them count from. Nothing is read behind an operand's end: what is missing of a row of 32 is masked.
 */
import {
  type Assembler,
  at,
  createAssembler,
  type Label,
  type Mask,
  R10,
  R11,
  R8,
  R9,
  RAX,
  RCX,
  RDI,
  RDX,
  RSI,
  writeRoutine,
} from "./assembler.ts";
import { ADDEND, ARGUMENT_BYTES, LANES, MULTIPLY, PACK, TILE_COLUMNS, TILE_ROWS } from "./layout.ts";

/** Where in the code the routines begin, in bytes. */
export interface Bf16Code {
  readonly code: Uint8Array<ArrayBuffer>;
  /** Rows of which the pairs lie side by side, as [row][k]: 16 rows become [pairs][16]. Of f32 and of bf16. */
  readonly packAlong: { readonly f32: number; readonly bf16: number };
  /** Pairs that lie in two rows, as [k][column]: 16 columns become [pairs][16]. */
  readonly packAcross: { readonly f32: number; readonly bf16: number };
  /** By the number of rows less 1: a tile of so many rows along a whole block of B. */
  readonly multiply: readonly number[];
}

/** Makes the code. */
export function bf16Code(): Bf16Code {
  const a = createAssembler();
  const begin = (write: () => void) => writeRoutine(a, write);
  return {
    packAlong: { f32: begin(() => packAlong(a, "f32")), bf16: begin(() => packAlong(a, "bf16")) },
    packAcross: { f32: begin(() => packAcross(a, "f32")), bf16: begin(() => packAcross(a, "bf16")) },
    multiply: Array.from({ length: TILE_ROWS }, (_, i) => begin(() => multiply(a, i + 1))),
    code: a.finish(),
  };
}

/** Loads an argument that counts from the base, which is added. */
export function loadAddress(a: Assembler, to: number, from: number, base: number): void {
  a.load32(to, at(RDI, from));
  a.add(to, base);
}

function packAlong(a: Assembler, type: "f32" | "bf16"): void {
  const [low, high, factor] = [16, 17, 18];
  const [first, second] = [1, 2] as const;
  if (type === "bf16") return turnRows(a, 64, [first, second], (i, row) => a.load("vmovdqu16", i, at(row), first));
  const load = (i: number, row: number) => {
    a.load("vmovups", low, at(row), first);
    a.load("vmovups", high, at(row, 64), second);
    a.vector("vmulps", low, low, factor);
    a.vector("vmulps", high, high, factor);
    a.vector("vcvtne2ps2bf16", i, high, low);
  };
  turnRows(a, 128, [first, second], load, () => a.load("vbroadcastss", factor, at(RDI, PACK.factor)));
}

/**
 * Reads up to 16 rows step by step and writes each step turned, as `PACK` says. The masks of a step's vectors are those of a whole step, until the last one.
 * @param bytes of a row in a step
 * @param load loads a row's step, with the masks, into a register
 * @param before what is done before each step
 */
export function turnRows(
  a: Assembler,
  bytes: number,
  masks: readonly Mask[],
  load: (register: number, row: number) => void,
  before = () => {},
): void {
  const [source, stride, rows, steps, to, toStride, row, next] = [R8, RDX, RCX, R9, R10, R11, RAX, RSI] as const;
  const lastOf = (mask: Mask) => (mask + masks.length) as Mask;
  loadAddress(a, source, PACK.from, RSI);
  loadAddress(a, to, PACK.to, RSI);
  a.load32(stride, at(RDI, PACK.stride));
  a.load32(rows, at(RDI, PACK.rows));
  a.load32(steps, at(RDI, PACK.steps));
  a.load32(toStride, at(RDI, PACK.toStride));
  masks.forEach((mask, i) => {
    // 16 bits for each vector.
    a.load32(RAX, at(RDI, PACK.mask + 2 * i));
    a.maskFrom(lastOf(mask), RAX);
  });
  a.set(RAX, -1);
  for (const mask of masks) a.maskFrom(mask, RAX);
  const [loop, whole] = [a.label(), a.label()];
  a.place(loop);
  a.compare(steps, 1);
  a.jumpIf("notEqual", whole);
  for (const mask of masks) a.copyMask(mask, lastOf(mask));
  a.place(whole);
  before();
  eachRow(a, { source, stride, rows, row, next }, (i) => load(i, row));
  a.addConstant(source, bytes);
  for (const register of transpose(a)) {
    a.store(at(to), register);
    a.add(to, toStride);
  }
  a.addConstant(steps, -1);
  a.jumpIf("notEqual", loop);
  a.vzeroupper();
  a.return();
}

/** Has something done with each of 16 rows, which the register `row` points to: the last of them stands for those that are missing. `next` is overwritten. */
export function eachRow(
  a: Assembler,
  { source, stride, rows, row, next }: Readonly<Record<"source" | "stride" | "rows" | "row" | "next", number>>,
  read: (i: number) => void,
): void {
  a.move(row, source);
  for (let i = 0; i < LANES; i++) {
    read(i);
    if (i + 1 === LANES) break;
    a.move(next, row);
    a.add(next, stride);
    a.compare(rows, i + 1);
    a.moveIf("greater", row, next);
  }
}

/** Transposes 16 x 16 elements of 32 bits in registers 0 to 15. Returns the registers of the columns, in order. */
export function transpose(a: Assembler): number[] {
  const [first, second] = [0, 16];
  // Within blocks of 128 bits: rows 2 i and 2 i + 1, then 4 i to 4 i + 3.
  for (let i = 0; i < LANES; i += 2) {
    a.vector("vpunpckldq", second + i, first + i, first + i + 1);
    a.vector("vpunpckhdq", second + i + 1, first + i, first + i + 1);
  }
  for (let i = 0; i < LANES; i += 4) {
    a.vector("vpunpcklqdq", first + i, second + i, second + i + 2);
    a.vector("vpunpckhqdq", first + i + 1, second + i, second + i + 2);
    a.vector("vpunpcklqdq", first + i + 2, second + i + 1, second + i + 3);
    a.vector("vpunpckhqdq", first + i + 3, second + i + 1, second + i + 3);
  }
  // Now register 4 i + j has in its block b the elements of column 4 b + j of rows 4 i to 4 i + 3.
  const [even, odd] = [0x88, 0xdd];
  for (let j = 0; j < 4; j++) {
    const [r0, r1, r2, r3] = [0, 4, 8, 12].map((i) => first + i + j) as [number, number, number, number];
    a.shuffleBlocks(second + j, r0, r1, even);
    a.shuffleBlocks(second + 4 + j, r0, r1, odd);
    a.shuffleBlocks(second + 8 + j, r2, r3, even);
    a.shuffleBlocks(second + 12 + j, r2, r3, odd);
  }
  for (let j = 0; j < 4; j++) {
    a.shuffleBlocks(first + j, second + j, second + 8 + j, even);
    a.shuffleBlocks(first + 4 + j, second + 4 + j, second + 12 + j, even);
    a.shuffleBlocks(first + 8 + j, second + j, second + 8 + j, odd);
    a.shuffleBlocks(first + 12 + j, second + 4 + j, second + 12 + j, odd);
  }
  return Array.from({ length: LANES }, (_, i) => first + i);
}

function packAcross(a: Assembler, type: "f32" | "bf16"): void {
  const [source, stride, pairs, to, toStride, order] = [R8, RDX, R9, R10, R11, RCX] as const;
  const [even, odd, packed, factor, zipped] = [0, 1, 2, 3, 4];
  const columns: Mask = 1;
  loadAddress(a, source, PACK.from, RSI);
  loadAddress(a, to, PACK.to, RSI);
  a.load32(stride, at(RDI, PACK.stride));
  a.load32(pairs, at(RDI, PACK.steps));
  a.load32(toStride, at(RDI, PACK.toStride));
  a.load32(RAX, at(RDI, PACK.mask));
  a.maskFrom(columns, RAX);
  if (type === "f32") a.load("vbroadcastss", factor, at(RDI, PACK.factor));
  if (type === "f32") {
    // Words 0, 16, 1, 17, ...: the order in which the halves of a vector are zipped, at the end of the arguments.
    a.move(order, RDI);
    a.load("vmovups", zipped, at(order, ARGUMENT_BYTES));
  }
  const load = (register: number) => {
    a.load(type === "f32" ? "vmovups" : "vpmovzxwd", register, at(source), columns);
    if (type === "f32") a.vector("vmulps", register, register, factor);
  };
  const write = () => {
    if (type === "f32") {
      a.vector("vcvtne2ps2bf16", packed, odd, even);
      a.vector("vpermw", packed, zipped, packed);
    } else {
      a.shiftLeft(odd, odd, 16);
      a.vector("vpord", packed, odd, even);
    }
    a.store(at(to), packed);
  };
  const [loop, behind, end] = [a.label(), a.label(), a.label()];
  a.compare(pairs, 0);
  a.jumpIf("equal", behind);
  a.place(loop);
  load(even);
  a.add(source, stride);
  load(odd);
  a.add(source, stride);
  write();
  a.add(to, toStride);
  a.addConstant(pairs, -1);
  a.jumpIf("notEqual", loop);
  a.place(behind);
  a.load32(RAX, at(RDI, PACK.odd));
  a.compare(RAX, 0);
  a.jumpIf("equal", end);
  load(even);
  a.vector("vpxord", odd, odd, odd);
  write();
  a.place(end);
  a.vzeroupper();
  a.return();
}

/** Has something done with each row of a tile, which the register `line` points to. RCX has the bytes from one to the next, an argument at `stride`. */
export function eachLine(
  a: Assembler,
  rows: number,
  { line, from, stride }: Readonly<Record<"line" | "from" | "stride", number>>,
  write: (row: number) => void,
): void {
  a.load32(RCX, at(RDI, stride));
  a.move(line, from);
  for (let row = 0; row < rows; row++) {
    write(row);
    a.add(line, RCX);
  }
}

/** Sums of a tile of `rows`, in registers 0 to 27; B in 28 and 29. */
function multiply(a: Assembler, rows: number): void {
  const [panel, out, addend, panels, pairs, pa, pb] = [R8, R9, R10, R11, RCX, RAX, RDX] as const;
  // Before and behind the loop over k.
  const line = RDX;
  const [left, right] = [1, 2] as const satisfies Mask[];
  const [b0, b1] = [28, 29];
  const each = (write: (low: number, high: number, row: number) => void) => {
    for (let row = 0; row < rows; row++) write(2 * row, 2 * row + 1, row);
  };
  loadAddress(a, panel, MULTIPLY.b, RSI);
  loadAddress(a, out, MULTIPLY.out, RSI);
  loadAddress(a, addend, MULTIPLY.addend, RSI);
  a.load32(panels, at(RDI, MULTIPLY.panels));
  a.set(RCX, -1);
  a.maskFrom(left, RCX);
  a.maskFrom(right, RCX);

  const [loop, whole, start, column, matrix] = [a.label(), a.label(), a.label(), a.label(), a.label()];
  a.place(loop);
  a.compare(panels, 1);
  a.jumpIf("notEqual", whole);
  a.load32(RCX, at(RDI, MULTIPLY.mask));
  a.maskFrom(left, RCX);
  a.load32(RCX, at(RDI, MULTIPLY.mask + 2));
  a.maskFrom(right, RCX);
  a.place(whole);

  a.load32(RCX, at(RDI, MULTIPLY.kind));
  a.compare(RCX, ADDEND.matrix);
  a.jumpIf("equal", matrix);
  a.jumpIf("greater", column);
  each((low, high) => {
    a.vector("vpxord", low, low, low);
    a.vector("vpxord", high, high, high);
  });
  a.jump(start);
  a.place(column);
  each((low, high, row) => {
    a.load("vbroadcastss", low, at(addend, 4 * row));
    a.load("vbroadcastss", high, at(addend, 4 * row));
  });
  a.jump(start);
  a.place(matrix);
  eachLine(a, rows, { line, from: addend, stride: MULTIPLY.addendStride }, (row) => {
    a.load("vmovups", 2 * row, at(line), left);
    a.load("vmovups", 2 * row + 1, at(line, 64), right);
  });
  a.addConstant(addend, 128);

  a.place(start);
  // Where the next tile goes is asked for: rows of a wide output are in pages of their own, of which no processor reads ahead by itself.
  eachLine(a, rows, { line, from: out, stride: MULTIPLY.outStride }, () => {
    a.prefetch(at(line, 128), 1);
    a.prefetch(at(line, 192), 1);
  });
  loadAddress(a, pa, MULTIPLY.a, RSI);
  a.move(pb, panel);
  a.load32(pairs, at(RDI, MULTIPLY.pairs));
  const inner: Label = a.label();
  a.place(inner);
  a.load("vmovups", b0, at(pb));
  a.load("vmovups", b1, at(pb, 64));
  each((low, high, row) => {
    a.vectorOfOne("vdpbf16ps", low, b0, at(pa, 4 * row));
    a.vectorOfOne("vdpbf16ps", high, b1, at(pa, 4 * row));
  });
  a.addConstant(pa, 4 * LANES);
  a.addConstant(pb, 4 * TILE_COLUMNS);
  a.addConstant(pairs, -1);
  a.jumpIf("notEqual", inner);

  eachLine(a, rows, { line, from: out, stride: MULTIPLY.outStride }, (row) => {
    a.store(at(line), 2 * row, left);
    a.store(at(line, 64), 2 * row + 1, right);
  });
  a.addConstant(out, 128);
  a.load32(RCX, at(RDI, MULTIPLY.panelBytes));
  a.add(panel, RCX);
  a.addConstant(panels, -1);
  a.jumpIf("notEqual", loop);
  a.vzeroupper();
  a.return();
}
