/**
 * Machine code for products of some rows with a large matrix, in f32, by AVX-512: experts. With so few rows it costs about as much to pack B, as libraries
 * do, as to multiply it. So here A is turned instead, once, and B is read as it is stored, f32 or bf16: a piece is lined up in the first-level cache, while
 * what follows is asked for from memory.
 *
 * An element is the sum of its products in ascending order of k, one fused multiply-add for each, so it depends neither on the other rows and columns nor
 * on how they are cut.
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
  R14,
  R15,
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
import { loadAddress, transpose, turnRows } from "./kernels.ts";
import { ACROSS_COLUMNS, ACROSS_ROWS, ALONG_COLUMNS, LANES, LINE_BYTES, PIECE, THIN } from "./layout.ts";

/** Where in the code the routines begin, in bytes. */
export interface ThinCode {
  readonly code: Uint8Array<ArrayBuffer>;
  /** Up to 16 rows become [terms][16], missing terms of the last 16 zero. */
  readonly turn: number;
  /** B [columns][k]; by vectors of rows less 1: up to 16 rows, up to 32. */
  readonly along: { readonly f32: readonly number[]; readonly bf16: readonly number[] };
  /** B [k][columns], PIECE terms at most. */
  readonly across: { readonly f32: number; readonly bf16: number };
}

type Type = "f32" | "bf16";

const KEPT = [RBX, RBP, R12, R13, R14, R15];
const BYTES = { f32: 4, bf16: 2 } as const;
/** Steps of a piece. */
const STEPS = PIECE / LANES;

/** Makes the code. */
export function thinCode(): ThinCode {
  const a = createAssembler();
  const begin = (write: () => void) => writeRoutine(a, write);
  const along = (type: Type) => [1, 2].map((vectors) => begin(() => multiplyAlong(a, type, vectors)));
  return {
    turn: begin(() => turnRows(a, 4 * LANES, [1], (register, row) => a.load("vmovups", register, at(row), 1))),
    along: { f32: along("f32"), bf16: along("bf16") },
    across: { f32: begin(() => multiplyAcross(a, "f32")), bf16: begin(() => multiplyAcross(a, "bf16")) },
    code: a.finish(),
  };
}

/** Loads 16 elements as f32. */
function loadAs(a: Assembler, type: Type, to: number, from: ReturnType<typeof at>, mask?: Mask): void {
  a.load(type === "f32" ? "vmovups" : "vpmovzxwd", to, from, mask);
  if (type === "bf16") a.shiftLeft(to, to, 16);
}

/**
 * Tiles of 16 or 32 rows by 14 columns of B. The vectors are of rows, of A turned; an element of B is multiplied with all of them, so B is read once. The
 * sums are turned when they are written.
 */
function multiplyAlong(a: Assembler, type: Type, vectors: number): void {
  const [column, out, columns, stride, piece] = [R8, R9, R10, R11, R14] as const;
  // Within the loop over pieces: the place in A, in B, steps that are left, the places in the tile and in the piece that follow.
  const [terms, place, steps, ahead, soon] = [RBX, RBP, R12, R13, R15] as const;
  const [last, written]: [Mask, Mask] = [2, 3];
  const size = BYTES[type];
  const [rows16, one, copied] = [28, 30, 29] as const;
  const sum = (i: number, vector: number) => i + ALONG_COLUMNS * vector;
  for (const register of KEPT) a.push(register);
  loadAddress(a, column, THIN.b, RSI);
  loadAddress(a, out, THIN.out, RSI);
  loadAddress(a, piece, THIN.piece, RSI);
  a.load32(columns, at(RDI, THIN.columns));
  a.load32(stride, at(RDI, THIN.bStride));
  a.load32(RAX, at(RDI, THIN.last));
  a.maskFrom(last, RAX);
  const eachSum = (write: (register: number) => void) => {
    for (let i = 0; i < ALONG_COLUMNS * vectors; i++) write(i);
  };
  const [tile, nextPiece, inner, done] = [a.label(), a.label(), a.label(), a.label()];
  a.place(tile);
  eachSum((register) => a.vector("vpxord", register, register, register));
  loadAddress(a, terms, THIN.a, RSI);
  a.move(place, column);
  a.move(ahead, column);
  for (let i = 0; i < ALONG_COLUMNS; i++) a.add(ahead, stride);
  a.move(soon, column);
  a.addConstant(soon, size * PIECE);
  a.load32(steps, at(RDI, THIN.terms));

  a.place(nextPiece);
  lineUp(a, type, { columns, stride, piece, place, steps, copied, last });
  a.move(RDX, piece);
  a.set(RCX, STEPS);
  a.place(inner);
  for (let p = 0; p < LANES; p++) {
    if (p === 0) a.move(RAX, ahead);
    if (p === LANES / 2) a.move(RAX, soon);
    for (let vector = 0; vector < vectors; vector++) {
      a.load("vmovups", rows16 + vector, at(terms, 4 * LANES * (vectors * p + vector)));
    }
    for (let i = 0; i < ALONG_COLUMNS; i++) {
      const element = one + (i % 2);
      a.load("vbroadcastss", element, at(RDX, LINE_BYTES * i + 4 * p));
      for (let vector = 0; vector < vectors; vector++) a.vector("vfmadd231ps", sum(i, vector), element, rows16 + vector);
    }
    // Two lines at each of the first 7 terms of 8.
    for (let i = 0; i < 2 && p % 8 < ALONG_COLUMNS / 2; i++) {
      a.prefetch(at(RAX), p < LANES / 2 ? 2 : 1);
      a.add(RAX, stride);
    }
  }
  a.addConstant(ahead, size * LANES);
  a.addConstant(soon, size * LANES);
  a.addConstant(terms, 4 * LANES * LANES * vectors);
  a.addConstant(RDX, 4 * LANES);
  a.addConstant(steps, -1);
  a.jumpIf("equal", done);
  a.addConstant(RCX, -1);
  a.jumpIf("notEqual", inner);
  a.addConstant(place, size * PIECE);
  a.jump(nextPiece);

  a.place(done);
  writeTurned(a, { vectors, out, columns, piece, written, sum });
  a.addConstant(out, 4 * ALONG_COLUMNS);
  for (let i = 0; i < ALONG_COLUMNS; i++) a.add(column, stride);
  a.addConstant(columns, -ALONG_COLUMNS);
  a.jumpIf("greater", tile);
  for (const register of KEPT.toReversed()) a.pop(register);
  a.vzeroupper();
  a.return();
}

/** Copies a piece of a tile of B, by columns, to where it stands in the way of nothing: as stored, columns are often a power of two apart. Mask 1 is free. */
function lineUp(
  a: Assembler,
  type: Type,
  {
    columns,
    stride,
    piece,
    place,
    steps,
    copied,
    last,
  }: Readonly<Record<"columns" | "stride" | "piece" | "place" | "steps" | "copied", number>> & { readonly last: Mask },
): void {
  const now: Mask = 1;
  const [whole, end] = [a.label(), a.label()];
  /** Passes over the columns of the tile, from RAX to RDX. */
  const eachColumn = (write: () => void) => {
    const [column, counted] = [a.label(), a.label()];
    a.set(RCX, ALONG_COLUMNS);
    a.compare(columns, ALONG_COLUMNS);
    a.jumpIf("greater", counted);
    a.move(RCX, columns);
    a.place(counted);
    a.move(RAX, place);
    a.move(RDX, piece);
    a.place(column);
    write();
    a.add(RAX, stride);
    a.addConstant(RDX, LINE_BYTES);
    a.addConstant(RCX, -1);
    a.jumpIf("notEqual", column);
  };
  const copy = (step: number, mask?: Mask) => {
    loadAs(a, type, copied, at(RAX, BYTES[type] * LANES * step), mask);
    a.store(at(RDX, 4 * LANES * step), copied);
  };
  a.compare(steps, STEPS);
  a.jumpIf("greater", whole);
  // The last piece, step by step.
  a.set(RAX, -1);
  a.maskFrom(now, RAX);
  for (let step = 0; step < STEPS; step++) {
    const isWhole = a.label();
    a.compare(steps, step);
    a.jumpIf("equal", end);
    a.compare(steps, step + 1);
    a.jumpIf("notEqual", isWhole);
    a.copyMask(now, last);
    a.place(isWhole);
    eachColumn(() => copy(step, now));
  }
  a.jump(end);
  a.place(whole);
  eachColumn(() => {
    for (let step = 0; step < STEPS; step++) copy(step);
  });
  a.place(end);
}

/** Writes sums of [columns][rows] as rows. */
function writeTurned(
  a: Assembler,
  {
    vectors,
    out,
    columns,
    piece,
    written,
    sum,
  }: Readonly<Record<"vectors" | "out" | "columns" | "piece", number>> & {
    readonly written: Mask;
    readonly sum: (i: number, vector: number) => number;
  },
): void {
  const [to, stride, rows, isSum] = [RAX, RDX, RCX, RBX] as const;
  const [known, end] = [a.label(), a.label()];
  a.compare(columns, ALONG_COLUMNS);
  a.set(RAX, 2 ** ALONG_COLUMNS - 1);
  a.jumpIf("greater", known);
  a.load32(RAX, at(RDI, THIN.mask));
  a.place(known);
  a.maskFrom(written, RAX);
  for (let i = 0; i < ALONG_COLUMNS && vectors === 2; i++) a.store(at(piece, 4 * LANES * i), sum(i, 1));
  a.move(to, out);
  a.load32(stride, at(RDI, THIN.outStride));
  a.load32(rows, at(RDI, THIN.rows));
  a.load32(isSum, at(RDI, THIN.isSum));
  for (let vector = 0; vector < vectors; vector++) {
    for (let i = 0; i < ALONG_COLUMNS && vector === 1; i++) a.load("vmovups", i, at(piece, 4 * LANES * i));
    const registers = transpose(a);
    const [plain, behind] = [a.label(), a.label()];
    const write = (adds: boolean) => {
      for (const register of registers) {
        if (adds) a.vectorMasked("vaddps", register, register, at(to), written);
        a.store(at(to), register, written);
        a.add(to, stride);
        a.addConstant(rows, -1);
        a.jumpIf("equal", end);
      }
    };
    a.compare(isSum, 0);
    a.jumpIf("equal", plain);
    write(true);
    a.jump(behind);
    a.place(plain);
    write(false);
    a.place(behind);
  }
  a.place(end);
}

/**
 * Tiles of 8 rows by 48 columns of B, of which the vectors are. A piece of B is lined up once for all rows; sums of earlier pieces are in the output.
 */
function multiplyAcross(a: Assembler, type: Type): void {
  const [panel, skipped, lines, stride, ahead, piece, termStride] = [R8, R9, R10, R11, R13, R14, R15] as const;
  // Within the loop over rows: the place in A and in the output, rows that are left.
  const [terms, target, rows] = [RBX, RBP, R12] as const;
  const masks = [1, 2, 3] as const satisfies Mask[];
  const size = BYTES[type];
  const [b, one] = [24, 27] as const;
  const lineBytes = 4 * ACROSS_COLUMNS;
  const eachSum = (row: number, write: (register: number, vector: number) => void) => {
    for (let vector = 0; vector < 3; vector++) write(3 * row + vector, vector);
  };
  for (const register of KEPT) a.push(register);
  loadAddress(a, panel, THIN.b, RSI);
  loadAddress(a, ahead, THIN.next, RSI);
  loadAddress(a, piece, THIN.piece, RSI);
  a.load32(stride, at(RDI, THIN.bStride));
  a.load32(termStride, at(RDI, THIN.aStride));
  a.load32(skipped, at(RDI, THIN.nextSkip));
  a.load32(lines, at(RDI, THIN.nextLines));
  // The place in the output, and columns that are left, are on the stack.
  a.load32(RAX, at(RDI, THIN.columns));
  a.push(RAX);
  loadAddress(a, RAX, THIN.out, RSI);
  a.push(RAX);
  a.set(RAX, -1);
  for (const mask of masks) a.maskFrom(mask, RAX);

  /**
   * Multiplies up to 8 rows. The first ones line the piece up, while they are computed; those that ask for what is next do so line by line, as it lies
   * in memory: that is the order in which processors read ahead by themselves.
   */
  const multiplyRows = (areFirst: boolean, asks: boolean) => {
    const [start, inner] = [a.label(), a.label()];
    for (let row = 0; row < ACROSS_ROWS; row++) eachSum(row, (register) => a.vector("vpxord", register, register, register));
    a.load32(RAX, at(RDI, THIN.isSum));
    a.compare(RAX, 0);
    a.jumpIf("equal", start);
    a.move(RAX, target);
    a.load32(RDX, at(RDI, THIN.outStride));
    for (let row = 0; row < ACROSS_ROWS; row++) {
      a.compare(rows, row);
      a.jumpIf("equal", start);
      eachSum(row, (register, vector) => a.load("vmovups", register, at(RAX, 4 * LANES * vector), masks[vector]!));
      a.add(RAX, RDX);
    }
    a.place(start);
    a.move(RAX, terms);
    a.move(RDX, piece);
    a.load32(RCX, at(RDI, THIN.terms));
    if (areFirst) {
      a.push(RSI);
      a.move(RSI, panel);
    }
    a.place(inner);
    masks.forEach((mask, i) => {
      if (!areFirst) return a.load("vmovups", b + i, at(RDX, 4 * LANES * i));
      loadAs(a, type, b + i, at(RSI, size * LANES * i), mask);
      return a.store(at(RDX, 4 * LANES * i), b + i);
    });
    for (let row = 0; row < ACROSS_ROWS; row++) {
      const element = one + (row % 4);
      a.load("vbroadcastss", element, at(RAX, 4 * row));
      eachSum(row, (register, vector) => a.vector("vfmadd231ps", register, element, b + vector));
    }
    if (asks) askAhead(a, { ahead, lines, skipped });
    if (areFirst) a.add(RSI, stride);
    a.add(RAX, termStride);
    a.addConstant(RDX, lineBytes);
    a.addConstant(RCX, -1);
    a.jumpIf("notEqual", inner);
    if (areFirst) a.pop(RSI);
    a.load32(RDX, at(RDI, THIN.outStride));
    for (let row = 0; row < ACROSS_ROWS; row++) {
      eachSum(row, (register, vector) => a.store(at(target, 4 * LANES * vector), register, masks[vector]!));
      a.add(target, RDX);
      a.addConstant(rows, -1);
      a.jumpIf("equal", done);
    }
    a.addConstant(terms, 4 * ACROSS_ROWS);
  };

  const [tile, whole, group, done] = [a.label(), a.label(), a.label(), a.label()];
  a.place(tile);
  a.pop(target);
  a.pop(RAX);
  a.push(RAX);
  a.push(target);
  a.compare(RAX, ACROSS_COLUMNS);
  a.jumpIf("greater", whole);
  masks.forEach((mask, i) => {
    a.load32(RAX, at(RDI, THIN.mask + 2 * i));
    a.maskFrom(mask, RAX);
  });
  a.place(whole);
  loadAddress(a, terms, THIN.a, RSI);
  a.load32(rows, at(RDI, THIN.rows));
  multiplyRows(true, true);
  // As many lines as a tile has: 3 for each term, or half of that.
  for (let i = 1; i < 3; i++) multiplyRows(false, type === "f32" || i === 1);
  a.place(group);
  multiplyRows(false, false);
  a.jump(group);

  a.place(done);
  a.pop(RAX);
  a.pop(RCX);
  a.addConstant(RAX, lineBytes);
  a.addConstant(panel, size * ACROSS_COLUMNS);
  a.addConstant(RCX, -ACROSS_COLUMNS);
  a.push(RCX);
  a.push(RAX);
  a.jumpIf("greater", tile);
  a.pop(RAX);
  a.pop(RCX);
  for (const register of KEPT.toReversed()) a.pop(register);
  a.vzeroupper();
  a.return();
}

/** Asks for a line of what is next, and goes on to the line behind it. */
function askAhead(a: Assembler, { ahead, lines, skipped }: Readonly<Record<"ahead" | "lines" | "skipped", number>>): void {
  const within = a.label();
  a.prefetch(at(ahead), 2);
  a.addConstant(ahead, 64);
  a.addConstant(lines, -1);
  a.jumpIf("notEqual", within);
  a.add(ahead, skipped);
  a.load32(lines, at(RDI, THIN.nextLines));
  a.place(within);
}
