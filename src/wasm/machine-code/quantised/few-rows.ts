/**
 * Machine code for products of a few rows with a quantised matrix (assembly/quantised.ts), in f32, by AVX-512: decoding. The sixteen numbers that NF4's
 * codes stand for are one register, in which one instruction looks up sixteen codes at a time.
 *
 * A chunk is 64 bytes of codes of a column. Of NF4 these are 128, read as 16 words of 8 codes: the codes at place i of each word are looked up together, so
 * the rows have their elements in that order, [8][16] for each chunk, the last one filled up with zeros. A column's products are summed
 * chunk by chunk, in 16 lanes, and a lane's products are those of one block before its scale is applied.
 */
import {
  type Assembler,
  at,
  createAssembler,
  R10,
  R11,
  R12,
  R13,
  R14,
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
} from "../assembler.ts";
import { loadAddress } from "../kernels.ts";
import { FEW, MOST_FEW, NUMBERS_AT } from "../layout.ts";

/** Where in the code the routines begin, in bytes: by the number of rows less 1. */
export interface FewRowsCode {
  readonly code: Uint8Array<ArrayBuffer>;
  readonly nf4: readonly number[];
  readonly q8: readonly number[];
}

/** Makes the code. */
export function fewRowsCode(): FewRowsCode {
  const a = createAssembler();
  const routines = (type: "nf4" | "q8") =>
    Array.from({ length: MOST_FEW }, (_, i) => writeRoutine(a, () => fewRows(a, type, i + 1)));
  return { nf4: routines("nf4"), q8: routines("q8"), code: a.finish() };
}

// Registers: by row sums of a column and of a chunk; then what all rows share.
const [SUMS, CHUNK] = [0, MOST_FEW];
const [NUMBERS, SCALE, CODES, PLACES, VALUES, SWAPPED, ALPHA] = [16, 17, 18, 19, 20, 21, 22] as const;
/** Masks: the upper half, the lower half, one lane. */
const [UPPER, LOWER, ONE] = [1, 2, 3] as const;

function fewRows(a: Assembler, type: "nf4" | "q8", rows: number): void {
  const [column, scales, out, addend] = [R8, R9, R10, R11] as const;
  // Within the loop over chunks; the rows of x have a register each.
  const [codes, scale, chunks, columns] = [RAX, RDX, RBX, RBP] as const;
  const x = [RCX, R12, R13, R14].slice(0, rows);
  const kept = [RBX, RBP, R12, R13, R14];
  for (const register of kept) a.push(register);
  loadAddress(a, column, FEW.codes, RSI);
  loadAddress(a, scales, FEW.scales, RSI);
  loadAddress(a, out, FEW.out, RSI);
  loadAddress(a, addend, FEW.addend, RSI);
  a.load32(columns, at(RDI, FEW.columns));
  a.load("vbroadcastss", ALPHA, at(RDI, FEW.alpha));
  if (type === "nf4") a.load("vmovups", NUMBERS, at(RDI, NUMBERS_AT));
  for (const [mask, value] of [
    [UPPER, 0xff00],
    [LOWER, 0x00ff],
    [ONE, 1],
  ] as const) {
    a.set(RAX, value);
    a.maskFrom(mask, RAX);
  }
  const eachRow = (write: (row: number) => void) => {
    for (let row = 0; row < rows; row++) write(row);
  };
  /** Adds what 16 values, at place `i` of a chunk, give. */
  const addProducts = (i: number) =>
    eachRow((row) => a.vector(i === 0 ? "vmulps" : "vfmadd231ps", CHUNK + row, VALUES, at(x[row]!, 64 * i)));
  const addChunk = () => eachRow((row) => a.vector("vfmadd231ps", SUMS + row, CHUNK + row, SCALE));
  const lookUp = () => {
    for (let i = 0; i < 8; i++) {
      if (i > 0) a.shiftRight(PLACES, CODES, 4 * i);
      a.vector("vpermps", VALUES, i === 0 ? CODES : PLACES, NUMBERS);
      addProducts(i);
    }
    addChunk();
  };

  const [loop, inner, tail, end] = [a.label(), a.label(), a.label(), a.label()];
  a.place(loop);
  eachRow((row) => {
    a.vector("vpxord", SUMS + row, SUMS + row, SUMS + row);
    if (row === 0) {
      loadAddress(a, x[0]!, FEW.x, RSI);
      return;
    }
    a.load32(x[row]!, at(RDI, FEW.xStride));
    a.add(x[row]!, x[row - 1]!);
  });
  a.move(codes, column);
  a.move(scale, scales);
  a.load32(chunks, at(RDI, FEW.chunks));
  a.compare(chunks, 0);
  a.jumpIf("equal", tail);
  a.place(inner);
  a.load("vbroadcastss", SCALE, at(scale));
  if (type === "nf4") {
    a.loadInto("vbroadcastss", SCALE, at(scale, 4), UPPER);
    a.load("vmovups", CODES, at(codes));
    lookUp();
  } else {
    for (let i = 0; i < 4; i++) {
      a.load("vpmovsxbd", CODES, at(codes, 16 * i));
      a.toFloats(VALUES, CODES);
      addProducts(i);
    }
    addChunk();
  }
  a.addConstant(codes, 64);
  a.addConstant(scale, type === "nf4" ? 8 : 4);
  for (const register of x) a.addConstant(register, type === "nf4" ? 512 : 256);
  a.addConstant(chunks, -1);
  a.jumpIf("notEqual", inner);
  a.place(tail);
  if (type === "nf4") {
    a.load32(chunks, at(RDI, FEW.tail));
    a.compare(chunks, 0);
    a.jumpIf("equal", end);
    a.load("vbroadcastss", SCALE, at(scale));
    a.load("vmovups", CODES, at(codes), LOWER);
    lookUp();
  }
  a.place(end);
  a.move(codes, out);
  a.move(scale, addend);
  eachRow((row) => {
    const sum = SUMS + row;
    a.shuffleBlocks(SWAPPED, sum, sum, 0x4e);
    a.vector("vaddps", sum, sum, SWAPPED);
    a.shuffleBlocks(SWAPPED, sum, sum, 0xb1);
    a.vector("vaddps", sum, sum, SWAPPED);
    for (const choice of [0x4e, 0xb1]) {
      a.shuffleLanes(SWAPPED, sum, choice);
      a.vector("vaddps", sum, sum, SWAPPED);
    }
    a.vector("vmulps", sum, sum, ALPHA);
    a.vectorMasked("vaddps", sum, sum, at(scale), ONE);
    a.store(at(codes), sum, ONE);
    if (row + 1 === rows) return;
    a.load32(chunks, at(RDI, FEW.outStride));
    a.add(codes, chunks);
    a.load32(chunks, at(RDI, FEW.addendStride));
    a.add(scale, chunks);
  });
  a.addConstant(out, 4);
  for (const [register, offset] of [
    [addend, FEW.addendStep],
    [column, FEW.codeLine],
    [scales, FEW.scaleLine],
  ] as const) {
    a.load32(chunks, at(RDI, offset));
    a.add(register, chunks);
  }
  a.addConstant(columns, -1);
  a.jumpIf("notEqual", loop);
  for (const register of kept.toReversed()) a.pop(register);
  a.vzeroupper();
  a.return();
}
