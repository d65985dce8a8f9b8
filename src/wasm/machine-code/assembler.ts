/**
 * An assembler for the few instructions of x86-64 that our machine code is made of. Encodings are those of Intel's
 * Software Developer's Manual, volume 2: EVEX for vectors of 512 bits, VEX for mask registers and tiles, and plain ones with a REX prefix.
 */

/** General registers, by number. In the calling convention of System V, RBX, RBP and R12 to R15 are to be kept for the caller. */
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;
export const RBP = 5;
export const RSI = 6;
export const RDI = 7;
export const R8 = 8;
export const R9 = 9;
export const R10 = 10;
export const R11 = 11;
export const R12 = 12;
export const R13 = 13;
export const R14 = 14;
export const R15 = 15;

/** Memory at `base + offset`. */
export interface Memory {
  readonly base: number;
  readonly offset: number;
}

export const at = (base: number, offset = 0): Memory => ({ base, offset });

/** A place in the code, known by its number. */
export type Label = number;

/** Writes to lanes that the mask register has set, or reads them; the others are zero where they are read. */
export type Mask = 1 | 2 | 3 | 4 | 5 | 6 | 7;

/** Conditions of jumps and moves. */
const CONDITIONS = { equal: 4, notEqual: 5, greater: 15 } as const;
export type Condition = keyof typeof CONDITIONS;

/** How an instruction on vectors is told apart: prefix (none, 66, F3, F2), map (0F, 0F38, 0F3A), width bit, opcode. */
interface VectorCode {
  readonly prefix: 0 | 1 | 2 | 3;
  readonly map: 1 | 2 | 3;
  readonly wide: 0 | 1;
  readonly opcode: number;
  /** Bytes of a memory operand, by which its offset is divided where that leaves nothing. */
  readonly bytes?: 4 | 16 | 32 | 64;
}

const code = (prefix: 0 | 1 | 2 | 3, map: 1 | 2 | 3, wide: 0 | 1, opcode: number, bytes?: 4 | 16 | 32 | 64): VectorCode => ({
  prefix,
  map,
  wide,
  opcode,
  ...(bytes !== undefined && { bytes }),
});

/** Instructions on vectors: `to = f(left, right)`, where `right` may be memory. */
export const VECTOR = {
  /** Sums in f32 of products of pairs of bf16: to += left[0] right[0] + left[1] right[1]. */
  vdpbf16ps: code(2, 2, 0, 0x52),
  /** Sums of integers of 32 bits of products of four bytes, `left` without signs and `right` with them: to += left[0] right[0] + ... + left[3] right[3]. */
  vpdpbusd: code(1, 2, 0, 0x50),
  /** 32 floats to bf16, rounded to nearest even: the low half from `right`, the high one from `left`. */
  vcvtne2ps2bf16: code(3, 2, 0, 0x72),
  vaddps: code(0, 1, 0, 0x58),
  vsubps: code(0, 1, 0, 0x5c),
  vmulps: code(0, 1, 0, 0x59),
  vdivps: code(0, 1, 0, 0x5e),
  /** The lesser, or greater, of both: `right` where one is NaN. */
  vminps: code(0, 1, 0, 0x5d),
  vmaxps: code(0, 1, 0, 0x5f),
  vpandd: code(1, 1, 0, 0xdb),
  /** to = right without the bits that `left` has */
  vpandnd: code(1, 1, 0, 0xdf),
  vpxord: code(1, 1, 0, 0xef),
  vpord: code(1, 1, 0, 0xeb),
  /** The elements of `right` that the low 4 bits of each of `left` say. */
  vpermps: code(1, 2, 0, 0x16),
  /** to += left right */
  vfmadd231ps: code(1, 2, 0, 0xb8),
  vpsubd: code(1, 1, 0, 0xfa),
  /** The greater of integers without signs. */
  vpmaxud: code(1, 2, 0, 0x3f),
  /** Integers of half as many bits, or the nearest that there are; by blocks of 128 bits those of `left`, then those of `right`. */
  vpackssdw: code(1, 1, 0, 0x6b),
  vpacksswb: code(1, 1, 0, 0x63),
  vpermw: code(1, 2, 1, 0x8d),
  vpunpckldq: code(1, 1, 0, 0x62),
  vpunpckhdq: code(1, 1, 0, 0x6a),
  vpunpcklqdq: code(1, 1, 1, 0x6c),
  vpunpckhqdq: code(1, 1, 1, 0x6d),
} as const;

/** Instructions that load: `to = f(memory)`. */
export const LOAD = {
  vmovups: code(0, 1, 0, 0x10),
  vmovdqu16: code(3, 1, 1, 0x6f),
  vpmovzxwd: code(1, 2, 0, 0x33, 32),
  /** 16 signed bytes as integers of 32 bits. */
  vpmovsxbd: code(1, 2, 0, 0x21, 16),
  vbroadcastss: code(1, 2, 0, 0x18, 4),
} as const;

const VMOVUPS_STORE = code(0, 1, 0, 0x11);
const VMOVDQU16_STORE = code(3, 1, 1, 0x7f);
const VCMPPS = code(0, 1, 0, 0xc2);
/** Comparisons of f32, told apart by a number; where one is NaN the first does not hold, the second does. */
const COMPARISONS = { less: 0x11, notLess: 0x15 } as const;
const VBLENDMPS = code(1, 2, 0, 0x65);
const VCVTNEPS2BF16 = code(2, 2, 0, 0x72);
const VSHUFI32X4 = code(1, 3, 0, 0x43);
/** Shifts by a constant, told apart by a number in the place of a register. */
const SHIFT = code(1, 1, 0, 0x72);
const [RIGHT, LEFT] = [2, 6] as const;
const VPSHUFD = code(1, 1, 0, 0x70);
const VCVTDQ2PS = code(0, 1, 0, 0x5b);
const VCVTPS2DQ = code(1, 1, 0, 0x5b);
const VPABSB = code(1, 2, 0, 0x1c);

export interface Assembler {
  /** `to = f(left, right)`. */
  vector(name: keyof typeof VECTOR, to: number, left: number, right: number | Memory): void;
  /** The same with one element of 32 bits in memory as all of `right`. */
  vectorOfOne(name: keyof typeof VECTOR, to: number, left: number, right: Memory): void;
  /** The same with lanes of memory that the mask has set, and zero for the others. */
  vectorMasked(name: keyof typeof VECTOR, to: number, left: number, right: Memory, mask: Mask): void;
  /** The same from registers, but that lanes that the mask has not set become zero. */
  vectorKept(name: keyof typeof VECTOR, to: number, left: number, right: number, mask: Mask): void;
  /** The mask has the lanes of which the comparison of f32 holds; less than NaN nothing is, and nothing is less than it. */
  compareVectors(to: Mask, left: number, right: number, comparison: keyof typeof COMPARISONS): void;
  /** `right` in lanes that the mask has set, `left` in the others. */
  blend(to: number, left: number, right: number, mask: Mask): void;
  /** 16 floats as bf16 in the low half, rounded to nearest even; subnormal ones count as zero. */
  narrow(to: number, from: number): void;
  load(name: keyof typeof LOAD, to: number, from: Memory, mask?: Mask): void;
  /** The same, but that the lanes that the mask has not set stay what they are. */
  loadInto(name: keyof typeof LOAD, to: number, from: Memory, mask: Mask): void;
  store(to: Memory, from: number, mask?: Mask): void;
  /** Elements of 16 bits. */
  storeHalves(to: Memory, from: number, mask: Mask): void;
  /** Asks for a line of memory in the first-level or the second-level cache; nothing happens where there is no such memory. */
  prefetch(from: Memory, level: 1 | 2): void;
  /** Four blocks of 128 bits: two of `left`, then two of `right`, each by two bits of `choice`. */
  shuffleBlocks(to: number, left: number, right: number, choice: number): void;
  /** `to = from << bits`, by 32 bits each. */
  shiftLeft(to: number, from: number, bits: number): void;
  shiftRight(to: number, from: number, bits: number): void;
  /** Four elements of 32 bits within each block of 128 bits, each by two bits of `choice`. */
  shuffleLanes(to: number, from: number, choice: number): void;
  /** Integers of 32 bits as f32. */
  toFloats(to: number, from: number): void;
  /** f32 as integers of 32 bits, rounded to nearest even; the least one where there is none. */
  toIntegers(to: number, from: number): void;
  /** The magnitudes of signed bytes; that of -128 is 128, without a sign. */
  absoluteBytes(to: number, from: number): void;
  /** The low 32 bits of a general register become a mask. */
  maskFrom(to: Mask, from: number): void;
  /** 32 bits of a mask; the high half becomes zero. */
  maskTo(to: number, from: Mask): void;
  copyMask(to: Mask, from: Mask): void;
  /** Shapes of the tile registers, from 64 bytes of memory. */
  configureTiles(from: Memory): void;
  zeroTile(tile: number): void;
  /** Rows of 64 bytes from `memory` on, with `stride` (a register) bytes between them. */
  loadTile(tile: number, from: Memory, stride: number): void;
  storeTile(to: Memory, stride: number, tile: number): void;
  /** Sums of f32 += A B, A of [rows][pairs], B of [pairs][columns] of two bf16 each. */
  multiplyTiles(sums: number, a: number, b: number): void;
  releaseTiles(): void;
  /** The high half of vectors is cleared, so that code with other encodings runs at full speed. */
  vzeroupper(): void;
  move(to: number, from: number): void;
  /** 32 bits from memory; the high half becomes zero. */
  load32(to: number, from: Memory): void;
  store32(to: Memory, from: number): void;
  /** A constant of 32 bits; the high half becomes zero. */
  set(to: number, value: number): void;
  add(to: number, from: number): void;
  subtract(to: number, from: number): void;
  addConstant(to: number, value: number): void;
  push(register: number): void;
  pop(register: number): void;
  /** Sets the condition of `a` compared with a constant. */
  compare(a: number, value: number): void;
  moveIf(condition: Condition, to: number, from: number): void;
  label(): Label;
  place(label: Label): void;
  jumpIf(condition: Condition, to: Label): void;
  jump(to: Label): void;
  return(): void;
  /** Bytes so far. */
  readonly length: number;
  /** The code, with all jumps. */
  finish(): Uint8Array<ArrayBuffer>;
}

/** Writes a routine at the begin of a line of the cache, and returns where that is. */
export function writeRoutine(a: Assembler, write: () => void): number {
  while (a.length % 64 !== 0) a.return();
  const start = a.length;
  write();
  return start;
}

/** Makes an assembler. In one piece: its instructions share the code that they are written to, and each is a few lines. */
export function createAssembler(): Assembler {
  let bytes = new Uint8Array(2 ** 14);
  let length = 0;
  const places: number[] = [];
  const jumps: { readonly at: number; readonly to: Label }[] = [];
  const emit = (...more: number[]): void => {
    if (length + more.length > bytes.length) {
      const grown = new Uint8Array(2 * bytes.length);
      grown.set(bytes);
      bytes = grown;
    }
    for (const byte of more) bytes[length++] = byte;
  };
  const emit32 = (value: number) => emit(value, value >> 8, value >> 16, value >> 24);

  /** ModRM (and SIB) with an offset; `scale`: an offset in a byte counts in so many bytes. */
  const operand = (reg: number, { base, offset }: Memory, scale = 1): void => {
    const small = offset % scale === 0 && offset / scale >= -128 && offset / scale < 128;
    const mode = offset === 0 && (base & 7) !== 5 ? 0 : small ? 1 : 2;
    emit((mode << 6) | ((reg & 7) << 3) | (base & 7));
    // The numbers of RSP and R12 mean that a second byte follows.
    if ((base & 7) === 4) emit(0x24);
    if (mode === 1) emit(offset / scale);
    if (mode === 2) emit32(offset);
  };

  /** EVEX with vectors of 512 bits. Prefix bits of registers are inverted. */
  const evex = (
    { prefix, map, wide, opcode, bytes: size = 64 }: VectorCode,
    reg: number,
    vvvv: number,
    rm: number | Memory,
    { mask = 0, zeroes = false, one = false }: { readonly mask?: number; readonly zeroes?: boolean; readonly one?: boolean } = {},
  ): void => {
    const bit = (value: number, i: number) => (value >> i) & 1;
    const [high, low] = typeof rm === "number" ? [bit(rm, 4), bit(rm, 3)] : [0, bit(rm.base, 3)];
    emit(0x62);
    emit(((1 ^ bit(reg, 3)) << 7) | ((1 ^ high) << 6) | ((1 ^ low) << 5) | ((1 ^ bit(reg, 4)) << 4) | map);
    emit((wide << 7) | ((~vvvv & 15) << 3) | 4 | prefix);
    emit((Number(zeroes) << 7) | (2 << 5) | (Number(one) << 4) | ((1 ^ bit(vvvv, 4)) << 3) | mask);
    emit(opcode);
    if (typeof rm === "number") emit(0xc0 | ((reg & 7) << 3) | (rm & 7));
    else operand(reg, rm, one ? 4 : size);
  };

  /** VEX with the map 0F38; `vvvv` as it is encoded, base and index by their fourth bits, inverted. */
  const tileCode = (prefix: 0 | 2 | 3, opcode: number, vvvv: number, base: number, index = 0): void =>
    emit(0xc4, 0x80 | ((1 ^ (index >> 3)) << 6) | ((1 ^ (base >> 3)) << 5) | 2, (vvvv << 3) | prefix, opcode);
  /** A tile and its memory: rows are at base + offset + row * index. */
  const tileMemory = (prefix: 2 | 3, tile: number, { base, offset }: Memory, index: number): void => {
    tileCode(prefix, 0x4b, 15, base, index);
    const isSmall = offset >= -128 && offset < 128;
    emit((isSmall ? 0x44 : 0x84) | (tile << 3), ((index & 7) << 3) | (base & 7));
    if (isSmall) emit(offset);
    else emit32(offset);
  };

  /** REX with 64 bits, an opcode, and two registers. */
  const general = (opcode: readonly number[], reg: number, rm: number): void =>
    emit(0x48 | ((reg >> 3) << 2) | (rm >> 3), ...opcode, 0xc0 | ((reg & 7) << 3) | (rm & 7));
  /** An operation with a constant, `kind` is a part of its opcode. */
  const withConstant = (kind: number, rm: number, value: number): void => {
    const small = value >= -128 && value < 128;
    general([small ? 0x83 : 0x81], kind, rm);
    if (small) emit(value);
    else emit32(value);
  };
  const jumpWith = (opcode: readonly number[], to: Label): void => {
    emit(...opcode);
    jumps.push({ at: length, to });
    emit32(0);
  };

  return {
    vector: (name, to, left, right) => evex(VECTOR[name], to, left, right),
    vectorOfOne: (name, to, left, right) => evex(VECTOR[name], to, left, right, { one: true }),
    vectorMasked: (name, to, left, right, mask) => evex(VECTOR[name], to, left, right, { mask }),
    vectorKept: (name, to, left, right, mask) => evex(VECTOR[name], to, left, right, { mask, zeroes: true }),
    compareVectors(to, left, right, comparison) {
      evex(VCMPPS, to, left, right);
      emit(COMPARISONS[comparison]);
    },
    blend: (to, left, right, mask) => evex(VBLENDMPS, to, left, right, { mask }),
    narrow: (to, from) => evex(VCVTNEPS2BF16, to, 0, from),
    load: (name, to, from, mask) => evex(LOAD[name], to, 0, from, mask === undefined ? {} : { mask, zeroes: true }),
    loadInto: (name, to, from, mask) => evex(LOAD[name], to, 0, from, { mask }),
    store: (to, from, mask) => evex(VMOVUPS_STORE, from, 0, to, mask === undefined ? {} : { mask }),
    storeHalves: (to, from, mask) => evex(VMOVDQU16_STORE, from, 0, to, { mask }),
    prefetch(from, level) {
      if (from.base >= 8) emit(0x41);
      emit(0x0f, 0x18);
      operand(level, from);
    },
    shuffleBlocks(to, left, right, choice) {
      evex(VSHUFI32X4, to, left, right);
      emit(choice);
    },
    shiftLeft(to, from, bits) {
      evex(SHIFT, LEFT, to, from);
      emit(bits);
    },
    shiftRight(to, from, bits) {
      evex(SHIFT, RIGHT, to, from);
      emit(bits);
    },
    shuffleLanes(to, from, choice) {
      evex(VPSHUFD, to, 0, from);
      emit(choice);
    },
    toFloats: (to, from) => evex(VCVTDQ2PS, to, 0, from),
    toIntegers: (to, from) => evex(VCVTPS2DQ, to, 0, from),
    absoluteBytes: (to, from) => evex(VPABSB, to, 0, from),
    maskFrom(to, from) {
      if (from >= 8) emit(0xc4, 0xc1, 0x7b, 0x92, 0xc0 | (to << 3) | (from & 7));
      else emit(0xc5, 0xfb, 0x92, 0xc0 | (to << 3) | from);
    },
    maskTo: (to, from) => emit(0xc5, to >= 8 ? 0x7b : 0xfb, 0x93, 0xc0 | ((to & 7) << 3) | from),
    copyMask: (to, from) => emit(0xc4, 0xe1, 0xf9, 0x90, 0xc0 | (to << 3) | from),
    configureTiles(from) {
      tileCode(0, 0x49, 15, from.base);
      operand(0, from);
    },
    zeroTile(tile) {
      tileCode(3, 0x49, 15, 0);
      emit(0xc0 | (tile << 3));
    },
    loadTile: (tile, from, stride) => tileMemory(3, tile, from, stride),
    storeTile: (to, stride, tile) => tileMemory(2, tile, to, stride),
    multiplyTiles(sums, left, right) {
      tileCode(2, 0x5c, ~right & 15, 0);
      emit(0xc0 | (sums << 3) | left);
    },
    releaseTiles() {
      tileCode(0, 0x49, 15, 0);
      emit(0xc0);
    },
    vzeroupper: () => emit(0xc5, 0xf8, 0x77),
    move: (to, from) => general([0x89], from, to),
    load32(to, from) {
      if (to >= 8 || from.base >= 8) emit(0x40 | ((to >> 3) << 2) | (from.base >> 3));
      emit(0x8b);
      operand(to, from);
    },
    store32(to, from) {
      if (from >= 8 || to.base >= 8) emit(0x40 | ((from >> 3) << 2) | (to.base >> 3));
      emit(0x89);
      operand(from, to);
    },
    set(to, value) {
      if (to >= 8) emit(0x41);
      emit(0xb8 | (to & 7));
      emit32(value);
    },
    add: (to, from) => general([0x01], from, to),
    subtract: (to, from) => general([0x29], from, to),
    addConstant: (to, value) => withConstant(0, to, value),
    push: (register) => emit(...(register >= 8 ? [0x41] : []), 0x50 | (register & 7)),
    pop: (register) => emit(...(register >= 8 ? [0x41] : []), 0x58 | (register & 7)),
    compare: (a, value) => withConstant(7, a, value),
    moveIf: (condition, to, from) => general([0x0f, 0x40 | CONDITIONS[condition]], to, from),
    label: () => places.push(-1) - 1,
    place: (label) => void (places[label] = length),
    jumpIf: (condition, to) => jumpWith([0x0f, 0x80 | CONDITIONS[condition]], to),
    jump: (to) => jumpWith([0xe9], to),
    return: () => emit(0xc3),
    get length() {
      return length;
    },
    finish() {
      const made = bytes.slice(0, length);
      const view = new DataView(made.buffer);
      for (const { at: from, to } of jumps) {
        const place = places[to]!;
        if (place < 0) throw new Error(`a jump to label ${to}, which has no place`);
        view.setInt32(from, place - from - 4, true);
      }
      return made;
    },
  };
}
