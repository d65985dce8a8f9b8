/** How the arguments of the routines (kernels.ts, amx.ts, thin.ts, quantised/) lie in memory, and the sizes of what they work on. */

/** Columns of a vector, of a packed panel of A or of half a panel of B. */
export const LANES = 16;
/** Most rows of a tile: with 2 vectors of columns each 28 sums, which leaves 2 registers for B, and 2. */
export const TILE_ROWS = 14;
/** Columns of a tile. */
export const TILE_COLUMNS = 32;

/** Offsets of the arguments of the routines that pack, in bytes. */
export const PACK = {
  /** The first row, and the bytes from one to the next. */
  from: 0,
  stride: 4,
  /** `packAlong`: rows, 1 to 16. */
  rows: 8,
  /** `packAlong`: steps of 32 elements, the last included. `packAcross`: pairs of rows, whole ones. */
  steps: 12,
  /** `packAlong`: a bit for each element of the last step. `packAcross`: a bit for each of the 16 columns. */
  mask: 16,
  to: 20,
  /** Bytes from one pair of k to the next. */
  toStride: 24,
  /** f32: what f32 elements are multiplied by. */
  factor: 28,
  /** `packAcross`: 1 where a row without a second one follows. */
  odd: 32,
} as const;

/** Offsets of the arguments of `multiply`. */
export const MULTIPLY = {
  /** A packed, [pairs][16], of which the rows of the tile are used. */
  a: 0,
  /** B packed, panels of [pairs][32]. */
  b: 4,
  /** Bytes from one panel to the next. */
  panelBytes: 8,
  panels: 12,
  pairs: 16,
  /** The first values of the sums, by `kind`: nothing, [rows, columns] with a stride (0: one row for all), or a value for each row. */
  addend: 20,
  addendStride: 24,
  kind: 28,
  out: 32,
  outStride: 36,
  /** A bit for each of the 32 columns of the last panel. */
  mask: 40,
} as const;

/** Rows and columns of the sums that the tile routine computes at a time: two by two tiles. */
export const AMX_SIDE = 32;

/** Offsets of the arguments of `narrow`, which makes rows of bf16 of rows of f32; as those of `PACK`, with the bytes from one row to the next. */
export const NARROW = { from: 0, stride: 4, rows: 8, steps: 12, mask: 16, to: 20, toStride: 24, factor: 28 } as const;

/** Offsets of the arguments of `multiplyTiles`: as those of `MULTIPLY`, and its own. */
export const TILES = {
  /** A as rows of bf16, and the bytes from one row to the next. */
  a: 0,
  aStride: 44,
  b: 4,
  panelBytes: 8,
  panels: 12,
  /** Steps of 32 terms. */
  steps: 16,
  addend: 20,
  addendStride: 24,
  kind: 28,
  out: 32,
  outStride: 36,
  mask: 40,
  /** Rows that are written, 1 to 32. */
  rows: 48,
  /** Room for sums, f32[32][32]. */
  sums: 52,
} as const;

/** The shapes of the tile registers, 64 bytes behind the arguments and the order that zips halves: eight of 16 rows of 64 bytes. */
export const SHAPES_AT = 128;

export const ADDEND = { none: 0, matrix: 1, column: 2 } as const;

/** Bytes that the arguments of one call take. */
export const ARGUMENT_BYTES = 64;

/** Most rows of a product of few rows. */
export const MOST_FEW = 4;

/** Offsets of the arguments of products of few rows: x [rows][...] as few-rows.ts says, a matrix of codes [columns][...] with scales. */
export const FEW = {
  x: 0,
  xStride: 4,
  codes: 8,
  /** Bytes from one column's codes, and scales, to the next's. */
  codeLine: 12,
  scales: 16,
  scaleLine: 20,
  /** The addend, bytes from one row to the next and from one column to the next: 0 and 0 of a number that is 0 where there is none. */
  addend: 24,
  addendStride: 28,
  addendStep: 32,
  out: 36,
  outStride: 40,
  columns: 44,
  /** Whole chunks, and 1 where half of one follows. */
  chunks: 48,
  tail: 52,
  /** f32 */
  alpha: 56,
  /** f32 0, an addend for those who have none. */
  zero: 60,
} as const;

/** The numbers that NF4's codes stand for, f32[16], behind the arguments. */
export const NUMBERS_AT = ARGUMENT_BYTES;
/** Bytes of scratch of a thread for these products. */
export const FEW_SCRATCH = 2 * ARGUMENT_BYTES;

/** Terms of A and B that a tile of a thin product takes at a time. */
export const PIECE = 128;
/** Columns of a tile of B where the terms of each lie side by side, and bytes from one to the next where they are lined up. */
export const ALONG_COLUMNS = 14;
export const LINE_BYTES = 4 * PIECE + 64;
/** Rows and columns of a tile where B has the terms of a column apart. */
export const ACROSS_ROWS = 8;
export const ACROSS_COLUMNS = 48;
/** Bytes of a piece of B, lined up. */
export const PIECE_BYTES = Math.max(ALONG_COLUMNS * LINE_BYTES, 4 * PIECE * ACROSS_COLUMNS);

/** Offsets of the arguments of thin products. */
export const THIN = {
  /** A turned, [k][rows], and the bytes from one term to the next. */
  a: 0,
  aStride: 4,
  b: 8,
  /** Bytes from one line of B to the next, as it is stored. */
  bStride: 12,
  /** Along: steps of 16 terms. Across: terms, PIECE at most. */
  terms: 16,
  columns: 20,
  rows: 24,
  out: 28,
  outStride: 32,
  /** 1: the sums are added to what is there. */
  isSum: 36,
  /** Room for a piece of B. */
  piece: 40,
  /** A bit for each column of the last tile, 48 at most. */
  mask: 44,
  /** Along: a bit for each term of the last step. */
  last: 52,
  /** Across: what is read behind this, to be asked for early, its lines of 64 bytes for each term, and bytes from the end of these to the next. */
  next: 56,
  nextLines: 52,
  nextSkip: 60,
} as const;

/** Offsets of the arguments of activations and their gradients: addresses of [steps][16] f32. */
export const ACTIVATION = {
  /** gate, or x */
  x: 0,
  up: 4,
  /** y, or dgate, or dx */
  y: 8,
  dy: 12,
  dup: 16,
  /** Steps of 16 elements, and a bit for each element of the last one. */
  steps: 20,
  mask: 24,
} as const;

/** Offsets of the arguments of `exponentials`: x f32 [rows][columns] with a stride in bytes. */
export const EXPONENTIALS = {
  x: 0,
  stride: 4,
  rows: 8,
  columns: 12,
  /** A bit for each of the last 16 columns. */
  mask: 16,
  /** f32 [columns]: maxima, and sums. */
  most: 20,
  sum: 24,
  /** bf16: where exponentials go. */
  kept: 28,
  keptStride: 32,
} as const;

/** Rows of which `exponentials` sums each column's in a register, before the sum is added to that of the rows before. */
export const SUM_RUN = 32;

/** Offsets of the arguments of `scaled`: rows without gaps. */
export const SCALED = {
  from: 0,
  x: 4,
  /** f32 [columns] */
  scales: 8,
  rows: 12,
  /** Steps of 16 columns, and a bit for each column of the last one. */
  steps: 16,
  mask: 20,
  /** Bytes of f32, and of bf16, by which the last step of a row is too long. */
  excess: 24,
  excessHalves: 28,
  /** f32: a factor, and the least product that counts. */
  factor: 32,
  least: 36,
  /** All bits but the sign. */
  absolute: 40,
} as const;

/** Numbers that all formulas share, of exp(x) = 2^n (1 + r + r^2 q(r)), x = n ln 2 + r (assembly/math.ts). */
const SHARED = {
  perLn2: Math.LOG2E,
  /** Rounds n to an integer, and makes n + 127 of it in the low bits. */
  shift: 12582912 + 127,
  ln2High: 0.693359375,
  ln2Low: -2.1219444e-4,
  q4: 0.0013814539415761828,
  q3: 0.00836874544620514,
  q2: 0.04166838899254799,
  q1: 0.1666652113199234,
  q0: 0.4999999403953552,
  one: 1,
  sign: -0,
  /** Where exp(x) is not finite any more, and where it would be subnormal. */
  most: 88.8,
  least: -87.33,
  leastOfSigmoid: -87.3,
} as const;

/** sqrt(2 / pi), and the cubic term of GELU's tanh form, in f32. */
const [ROOT, CUBIC] = [Math.fround(0.7978845608028654), Math.fround(0.044715)];

/** All numbers, in the order in which they lie behind the arguments; those that are not shared are GELU's (assembly/math.ts, assembly/activation.ts). */
export const NUMBERS = {
  ...SHARED,
  minusHalf: -0.5,
  /** Phi(-a) = exp(-a^2 / 2) t p(t), t = 1 / (1 + slope a). */
  slope: 0.268700576850888,
  p8: 0.02889416180551052,
  p7: -0.1284978836774826,
  p6: 0.1769371777772903,
  p5: -0.0755584314465523,
  p4: 0.11181753873825073,
  p3: 0.07052477449178696,
  p2: 0.101687453687191,
  p1: 0.106991246342659,
  p0: 0.10720395296812057,
  density: 0.3989422804014327,
  cubic: CUBIC,
  twoRoot: 2 * ROOT,
  sixRootCubic: Math.fround(6 * ROOT) * CUBIC,
} as const;

export const SHARED_NUMBERS = Object.keys(SHARED).length;

/** Terms with one scale, of both operands of a product in int8: 16 words of 4 codes. */
export const INT8_BLOCK = 64;
/** Rows of a tile of a product in int8: 14 sums of integers, 14 of floats, and 4 registers more. */
export const INT8_ROWS = 14;

/** Offsets of the arguments of `quantise`: rows of f32, cut into blocks. What `PACK` has too lies where it has it. */
export const QUANTISE = {
  from: 0,
  stride: 4,
  /** 1 to 16 */
  rows: 8,
  /** Blocks. */
  steps: 12,
  to: 20,
  /** f32: what the scales are multiplied by. */
  factor: 28,
  /** f32: 127, and 1 / 127. */
  most: 32,
  perMost: 36,
  /** f32: blocks without a greater magnitude count as zeros. */
  least: 40,
  /** All bits but the sign. */
  absolute: 44,
  /** 128 in each byte. */
  excess: 48,
  /** f32: the sum of codes' magnitudes below which a block's rests are quantised too. */
  uneven: 52,
  /** f32: 254, and 1 / 254. */
  finer: 56,
  perFiner: 60,
  /** f32 [16]: what the rows of a block, and their rests, are multiplied by, behind the arguments. */
  inverses: ARGUMENT_BYTES,
  rests: 2 * ARGUMENT_BYTES,
  /** 1 in each byte. */
  ones: 3 * ARGUMENT_BYTES,
  /** f32: 1, and -0. */
  one: 3 * ARGUMENT_BYTES + 4,
  nothing: 3 * ARGUMENT_BYTES + 8,
  /** How many entries were written. */
  entries: 3 * ARGUMENT_BYTES + 12,
} as const;

/**
 * Bytes of an entry of quantised rows, which is a block or its rests, and what lies where in it: codes i8 [16 words][16 rows][4], -128 times their sums
 * i32 [16 rows], scales f32 [16 rows], and by how many bytes codes and scales of B go back or on behind it.
 */
export const QUANTISED = { sums: 1024, scales: 1088, back: 1152, on: 1156, bytes: 1216 } as const;

/** Offsets of the arguments of `multiplyInt8`; B is panels of u8 [blocks][16 words][16 columns][4], its codes plus 128, and of f32 [blocks][16 columns]. */
export const INT8 = {
  a: 0,
  b: 4,
  /** Bytes from a panel's begin to its scales, and to the next panel. */
  toScales: 8,
  panelBytes: 12,
  panels: 16,
  /** Entries of A. */
  entries: 20,
  /** The first values of the sums: a matrix with a stride in bytes (0: one row for all), where `isSum`. */
  addend: 24,
  addendStride: 28,
  isSum: 32,
  out: 36,
  outStride: 40,
  /** A bit for each of the 16 columns of the last panel. */
  mask: 44,
} as const;

/** Bytes of scratch of a thread for these routines. */
export const POINTWISE_SCRATCH = ARGUMENT_BYTES + 2 * 64;
