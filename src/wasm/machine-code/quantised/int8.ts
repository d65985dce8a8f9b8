/**
 * Machine code for products of matrices of 8-bit codes with a scale for each block of 64 terms of a row, by AVX512-VNNI's `vpdpbusd`: in each of 16 lanes it
 * adds the products of four pairs of bytes, one of them without a sign, to a sum of integers, exactly. A block's sum is multiplied by both scales and added to a
 * sum in f32. B's codes get 128 more, which makes them positive; A's sums take that out again: sum(a (b + 128)) - 128 sum(a).
 *
 * Arguments are as in ../kernels.ts. An element does not depend on what else is computed with it.
 */
import {
  type Assembler,
  at,
  createAssembler,
  type Mask,
  R10,
  R11,
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
import { eachLine, eachRow, loadAddress, transpose, turnRows } from "../kernels.ts";
import { INT8, INT8_ROWS, LANES, QUANTISE, QUANTISED } from "../layout.ts";

/** Where in the code the routines begin, in bytes. */
export interface Int8Code {
  readonly code: Uint8Array<ArrayBuffer>;
  /** Up to 16 rows of f32 become codes with scales. */
  readonly quantise: number;
  /** Codes of up to 16 columns of B, as [column][k], become a panel. */
  readonly packCodes: number;
  /** Their scales, [column][blocks], 16 blocks at most. */
  readonly packScales: number;
  /** By the number of rows less 1: a tile of so many rows along panels of B. */
  readonly multiply: readonly number[];
}

/** Makes the code. */
export function int8Code(): Int8Code {
  const a = createAssembler();
  const begin = (write: () => void) => writeRoutine(a, write);
  return {
    quantise: begin(() => quantise(a)),
    packCodes: begin(() => packCodes(a)),
    packScales: begin(() => turnRows(a, 64, [1], (i, row) => a.load("vmovups", i, at(row), 1))),
    multiply: Array.from({ length: INT8_ROWS }, (_, i) => begin(() => multiply(a, i + 1))),
    code: a.finish(),
  };
}

function packCodes(a: Assembler): void {
  const excess = 16;
  turnRows(
    a,
    64,
    [],
    (i, row) => a.vector("vpxord", i, excess, at(row)),
    () => a.load("vbroadcastss", excess, at(RDI, QUANTISE.excess)),
  );
}

/**
 * A row's code is the nearest integer to x 127 / max |x| in a block, and its scale max |x| / 127. The greatest magnitude is that of the bits as an integer, of which
 * NaN has the greatest: what is not finite makes the scale so.
 *
 * One value that is much greater than the others takes their precision, as in some channels of language models (Dettmers et al. 2022, LLM.int8(),
 * https://arxiv.org/abs/2208.07339). Where the sum of the codes' magnitudes says so, the rests, of half a step at most, get an entry of their own, with
 * 254 times finer codes. The other rows of that entry have codes 0 and the scale -0, which change no sum.
 */
function quantise(a: Assembler): void {
  const [source, stride, rows, steps, to, row, next, entries] = [R8, RDX, RCX, R9, R10, RAX, RSI, R11] as const;
  const places = { source, stride, rows, row, next };
  const [counted, empty, uneven]: [Mask, Mask, Mask] = [1, 2, 3];
  const parts = [16, 17, 18, 19] as const;
  const constant = (register: number, offset: number) => a.load("vbroadcastss", register, at(RDI, offset));
  const pack = (i: number) => {
    a.vector("vpackssdw", parts[0], parts[0], parts[1]);
    a.vector("vpackssdw", parts[2], parts[2], parts[3]);
    a.vector("vpacksswb", i, parts[0], parts[2]);
  };
  loadAddress(a, source, QUANTISE.from, RSI);
  loadAddress(a, to, QUANTISE.to, RSI);
  a.load32(stride, at(RDI, QUANTISE.stride));
  a.load32(rows, at(RDI, QUANTISE.rows));
  a.load32(steps, at(RDI, QUANTISE.steps));
  a.set(entries, 0);
  const [loop, whole] = [a.label(), a.label()];
  a.place(loop);

  const absolute = 20;
  constant(absolute, QUANTISE.absolute);
  eachRow(a, places, (i) => {
    parts.forEach((part, j) => a.vector("vpandd", part, absolute, at(row, 64 * j)));
    a.vector("vpmaxud", parts[0], parts[0], parts[1]);
    a.vector("vpmaxud", parts[2], parts[2], parts[3]);
    a.vector("vpmaxud", i, parts[0], parts[2]);
  });
  transpose(a);
  const most = 0;
  for (let width = LANES / 2; width >= 1; width /= 2)
    for (let i = 0; i < width; i++) a.vector("vpmaxud", most + i, most + i, most + i + width);

  const [least, number] = [16, 17] as const;
  constant(least, QUANTISE.least);
  a.compareVectors(counted, most, least, "notLess");
  constant(number, QUANTISE.most);
  a.vectorKept("vdivps", number, number, most, counted);
  a.store(at(RDI, QUANTISE.inverses), number);
  constant(number, QUANTISE.perMost);
  a.vectorKept("vmulps", number, number, most, counted);
  a.vectorOfOne("vmulps", number, number, at(RDI, QUANTISE.factor));
  a.store(at(to, QUANTISED.scales), number);

  const [inverse, rest] = [20, 21] as const;
  eachRow(a, places, (i) => {
    constant(inverse, QUANTISE.inverses + 4 * i);
    parts.forEach((part, j) => {
      a.vector("vmulps", part, inverse, at(row, 64 * j));
      a.toIntegers(part, part);
    });
    pack(i);
  });
  const words = storeCodes(a, to);

  // Magnitudes have a sum of 127 at least, where there is anything.
  const [sums, magnitudes, ones, limit, one] = [16, 17, 18, 19, 20] as const;
  constant(ones, QUANTISE.ones);
  a.vector("vpxord", sums, sums, sums);
  for (const register of words) {
    a.absoluteBytes(magnitudes, register);
    a.vector("vpdpbusd", sums, magnitudes, ones);
  }
  a.toFloats(sums, sums);
  constant(limit, QUANTISE.uneven);
  constant(one, QUANTISE.one);
  a.compareVectors(empty, sums, one, "less");
  a.blend(sums, sums, limit, empty);
  a.compareVectors(uneven, sums, limit, "less");
  a.addConstant(entries, 1);
  a.maskTo(row, uneven);
  a.compare(row, 0);
  a.jumpIf("equal", whole);

  const scale = 22;
  a.load("vmovups", scale, at(to, QUANTISED.scales));
  a.vectorOfOne("vmulps", scale, scale, at(RDI, QUANTISE.perFiner));
  constant(number, QUANTISE.nothing);
  a.blend(scale, number, scale, uneven);
  constant(number, QUANTISE.finer);
  a.vectorKept("vpord", number, number, number, uneven);
  a.store(at(RDI, QUANTISE.rests), number);
  goOn(a, to, { back: 64 * LANES, on: 0 }, next);
  a.store(at(to, QUANTISED.scales), scale);
  eachRow(a, places, (i) => {
    constant(inverse, QUANTISE.inverses + 4 * i);
    constant(rest, QUANTISE.rests + 4 * i);
    const code = 22;
    parts.forEach((part, j) => {
      a.vector("vmulps", part, inverse, at(row, 64 * j));
      a.toIntegers(code, part);
      a.toFloats(code, code);
      a.vector("vsubps", part, part, code);
      a.vector("vmulps", part, part, rest);
      a.toIntegers(part, part);
    });
    pack(i);
  });
  storeCodes(a, to);
  a.addConstant(entries, 1);

  a.place(whole);
  goOn(a, to, { back: 0, on: 64 }, next);
  a.addConstant(source, 256);
  a.addConstant(steps, -1);
  a.jumpIf("notEqual", loop);
  a.store32(at(RDI, QUANTISE.entries), entries);
  a.vzeroupper();
  a.return();
}

/** Ends an entry, and goes on to the next one. */
function goOn(a: Assembler, to: number, { back, on }: Readonly<Record<"back" | "on", number>>, free: number): void {
  a.set(free, back);
  a.store32(at(to, QUANTISED.back), free);
  a.set(free, on);
  a.store32(at(to, QUANTISED.on), free);
  a.addConstant(to, QUANTISED.bytes);
}

/**
 * Stores codes of 16 rows, in registers 0 to 15, and their sums. Of four vectors the packed bytes have each first block of 128 bits, then each second one. Returns
 * the registers of the words.
 */
function storeCodes(a: Assembler, to: number): readonly number[] {
  const [sums, excess, zero] = [16, 17, 18] as const;
  const words = transpose(a);
  a.vector("vpxord", sums, sums, sums);
  a.vector("vpxord", zero, zero, zero);
  a.load("vbroadcastss", excess, at(RDI, QUANTISE.excess));
  words.forEach((register, i) => {
    a.vector("vpdpbusd", sums, excess, register);
    a.store(at(to, 64 * (4 * (i % 4) + (i >> 2))), register);
  });
  a.vector("vpsubd", sums, zero, sums);
  a.store(at(to, QUANTISED.sums), sums);
  return words;
}

/** Words of a block that one pass of the innermost loop takes. */
const UNROLLED = 4;

/** Sums of integers of a tile of `rows` in registers 0 to 13, of floats in 14 to 27. */
function multiply(a: Assembler, rows: number): void {
  const [panel, out, addend, panels, entries, pa, pb, words, scales] = [R8, R9, R10, R11, RBX, RAX, RDX, RCX, RBP] as const;
  const line = RDX;
  const mask: Mask = 1;
  const [codes, scale] = [28, 29];
  const kept = [RBX, RBP];
  const each = (write: (count: number, sum: number, row: number) => void) => {
    for (let row = 0; row < rows; row++) write(row, INT8_ROWS + row, row);
  };
  for (const register of kept) a.push(register);
  loadAddress(a, panel, INT8.b, RSI);
  loadAddress(a, out, INT8.out, RSI);
  loadAddress(a, addend, INT8.addend, RSI);
  a.load32(panels, at(RDI, INT8.panels));
  a.set(RCX, -1);
  a.maskFrom(mask, RCX);

  const [loop, whole, matrix, start] = [a.label(), a.label(), a.label(), a.label()];
  a.place(loop);
  a.compare(panels, 1);
  a.jumpIf("notEqual", whole);
  a.load32(RCX, at(RDI, INT8.mask));
  a.maskFrom(mask, RCX);
  a.place(whole);
  a.load32(RCX, at(RDI, INT8.isSum));
  a.compare(RCX, 0);
  a.jumpIf("notEqual", matrix);
  each((_, sum) => a.vector("vpxord", sum, sum, sum));
  a.jump(start);
  a.place(matrix);
  eachLine(a, rows, { line, from: addend, stride: INT8.addendStride }, (row) =>
    a.load("vmovups", INT8_ROWS + row, at(line), mask),
  );
  a.addConstant(addend, 64);

  a.place(start);
  // Where the next tile goes is asked for, as in ../kernels.ts.
  eachLine(a, rows, { line, from: out, stride: INT8.outStride }, () => a.prefetch(at(line, 64), 1));
  loadAddress(a, pa, INT8.a, RSI);
  a.move(pb, panel);
  a.load32(scales, at(RDI, INT8.toScales));
  a.add(scales, panel);
  a.load32(entries, at(RDI, INT8.entries));
  const [entry, inner] = [a.label(), a.label()];
  a.place(entry);
  each((count, _, row) => a.load("vbroadcastss", count, at(pa, QUANTISED.sums + 4 * row)));
  a.set(words, LANES / UNROLLED);
  a.place(inner);
  for (let i = 0; i < UNROLLED; i++) {
    a.load("vmovups", codes, at(pb, 64 * i));
    each((count, _, row) => a.vectorOfOne("vpdpbusd", count, codes, at(pa, 64 * i + 4 * row)));
  }
  a.addConstant(pa, 64 * UNROLLED);
  a.addConstant(pb, 64 * UNROLLED);
  a.addConstant(words, -1);
  a.jumpIf("notEqual", inner);
  a.load("vmovups", scale, at(scales));
  const behind = 64 * LANES;
  each((count, sum, row) => {
    a.toFloats(count, count);
    a.vector("vmulps", count, count, scale);
    a.vectorOfOne("vfmadd231ps", sum, count, at(pa, QUANTISED.scales - behind + 4 * row));
  });
  a.load32(words, at(pa, QUANTISED.back - behind));
  a.subtract(pb, words);
  a.load32(words, at(pa, QUANTISED.on - behind));
  a.add(scales, words);
  a.addConstant(pa, QUANTISED.bytes - behind);
  a.addConstant(entries, -1);
  a.jumpIf("notEqual", entry);

  eachLine(a, rows, { line, from: out, stride: INT8.outStride }, (row) => a.store(at(line), INT8_ROWS + row, mask));
  a.addConstant(out, 64);
  a.load32(RCX, at(RDI, INT8.panelBytes));
  a.add(panel, RCX);
  a.addConstant(panels, -1);
  a.jumpIf("notEqual", loop);
  for (const register of kept.toReversed()) a.pop(register);
  a.vzeroupper();
  a.return();
}
