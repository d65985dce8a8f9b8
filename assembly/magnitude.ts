/**
 * Weight-decomposed adaptation (DoRA, Liu et al. 2024, https://arxiv.org/abs/2402.09353): the norms of the rows of an adapted matrix,
 * a factor for each column of a result, and the gradient of that factor. All is f32 but the matrix, which may be half or quantised.
 */
import { float, int, partEnd, partStart, pointer, threadScratch } from "./command";
import { F32, floatBytes, loadFloats, widen } from "./half";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { Opcode } from "./opcodes";
import { BLOCK, codeBytes, dequantise, NF4, Q8 } from "./quantised";

/** Columns of a matrix that are worked on at a time: whole blocks of a quantised one, and with A's part within the first caches. */
const PIECE: i32 = 256;
const PIECE_BYTES: usize = <usize>PIECE << 2;
/** Rows that share a load of A. */
const ROWS: i32 = 4;
/** Splat factors of these rows for one row of A. */
const FACTOR_BYTES: usize = <usize>ROWS << 4;
/** Columns whose factors are made at a time, and columns that are handed out as one. */
const FACTORS: i32 = 4096;
const UNIT: i32 = 16;
/** Rows that are summed in registers before they are added to the total: keeps the error of long columns low. */
const SUMMED: i32 = 32;

/** `columns` elements of the matrix from element `at` on, which lie in one row, as f32, and zeros up to a whole piece. */
function widenPiece(type: i32, w: usize, scales: usize, at: usize, columns: i32, to: usize): void {
  const end = to + (<usize>columns << 2);
  if (type == Q8 || type == NF4) {
    dequantise(type, w + codeBytes(type, at), scales + (at / BLOCK << 2), to, columns / BLOCK);
  } else {
    let from = w + floatBytes(type, at);
    const step = floatBytes(type, 4);
    for (const last = to + (<usize>(columns & ~3) << 2); to < last; to += 16, from += step) v128.store(to, loadFloats(from, type));
    for (; to < end; to += 4, from += floatBytes(type, 1)) {
      v128.store32_lane(to, type == F32 ? v128.load32_zero(from) : widen(v128.load16_splat(from), type), 0);
    }
  }
  if (columns < PIECE) memory.fill(end, 0, <usize>(PIECE - columns) << 2);
}

/**
 * Adds to four sums of squares what a piece gives: v = w + sum over k of factors[k] A[k], squared. `factors` holds four splat vectors
 * for each k; what lies behind the columns is zero in w and A.
 */
function addSquares(w: usize, a: usize, factors: usize, rank: i32, columns: i32, squares: usize): void {
  let s0 = f32x4.splat(0);
  let s1 = s0;
  let s2 = s0;
  let s3 = s0;
  const behind = factors + <usize>rank * FACTOR_BYTES;
  for (const end = w + (<usize>((columns + 7) & ~7) << 2); w < end; w += 32, a += 32) {
    let v0 = v128.load(w), u0 = v128.load(w, 16);
    let v1 = v128.load(w, 1024), u1 = v128.load(w, 1040);
    let v2 = v128.load(w, 2048), u2 = v128.load(w, 2064);
    let v3 = v128.load(w, 3072), u3 = v128.load(w, 3088);
    for (let f = factors, row = a; f != behind; f += FACTOR_BYTES, row += PIECE_BYTES) {
      const x = v128.load(row), y = v128.load(row, 16);
      v0 = f32x4.add(v0, f32x4.mul(v128.load(f), x)), u0 = f32x4.add(u0, f32x4.mul(v128.load(f), y));
      v1 = f32x4.add(v1, f32x4.mul(v128.load(f, 16), x)), u1 = f32x4.add(u1, f32x4.mul(v128.load(f, 16), y));
      v2 = f32x4.add(v2, f32x4.mul(v128.load(f, 32), x)), u2 = f32x4.add(u2, f32x4.mul(v128.load(f, 32), y));
      v3 = f32x4.add(v3, f32x4.mul(v128.load(f, 48), x)), u3 = f32x4.add(u3, f32x4.mul(v128.load(f, 48), y));
    }
    s0 = f32x4.add(s0, f32x4.add(f32x4.mul(v0, v0), f32x4.mul(u0, u0)));
    s1 = f32x4.add(s1, f32x4.add(f32x4.mul(v1, v1), f32x4.mul(u1, u1)));
    s2 = f32x4.add(s2, f32x4.add(f32x4.mul(v2, v2), f32x4.mul(u2, u2)));
    s3 = f32x4.add(s3, f32x4.add(f32x4.mul(v3, v3), f32x4.mul(u3, u3)));
  }
  store<f32>(squares, load<f32>(squares) + sum4(s0));
  store<f32>(squares, load<f32>(squares, 4) + sum4(s1), 4);
  store<f32>(squares, load<f32>(squares, 8) + sum4(s2), 8);
  store<f32>(squares, load<f32>(squares, 12) + sum4(s3), 12);
}

/**
 * norms[row] = |W[row] + alpha B[row] A| for rows [first, end), `first` a multiple of 4. A thread's scratch holds four rows of a piece
 * of W, four sums, the factors of these rows, and a piece of A.
 */
function rowNorms(w: usize, scales: usize, type: i32, a: usize, b: usize, norms: usize, first: i32, end: i32, columns: i32, rank: i32, alpha: f32): void {
  const sums = threadScratch + <usize>ROWS * PIECE_BYTES;
  const factors = sums + 64;
  const pieceOfA = factors + <usize>rank * FACTOR_BYTES;
  const stride = <usize>columns << 2;
  memory.fill(norms + (<usize>first << 2), 0, <usize>(end - first) << 2);
  for (let column = 0; column < columns; column += PIECE) {
    const count = min(PIECE, columns - column);
    for (let k = 0; k < rank; k++) {
      const to = pieceOfA + <usize>k * PIECE_BYTES;
      memory.copy(to, a + <usize>k * stride + (<usize>column << 2), <usize>count << 2);
      if (count < PIECE) memory.fill(to + (<usize>count << 2), 0, <usize>(PIECE - count) << 2);
    }
    for (let row = first; row < end; row += ROWS) {
      const rows = min(ROWS, end - row);
      if (rows < ROWS) memory.fill(threadScratch, 0, <usize>ROWS * PIECE_BYTES);
      for (let i = 0; i < rows; i++) {
        const at = <usize>(row + i) * <usize>columns + <usize>column;
        widenPiece(type, w, scales, at, count, threadScratch + <usize>i * PIECE_BYTES);
        const from = b + (<usize>(row + i) * <usize>rank << 2);
        for (let k = 0; k < rank; k++) {
          v128.store(factors + <usize>k * FACTOR_BYTES + (<usize>i << 4), f32x4.splat(alpha * load<f32>(from + (<usize>k << 2))));
        }
      }
      const total = norms + (<usize>row << 2);
      memory.copy(sums, total, <usize>rows << 2);
      addSquares(threadScratch, pieceOfA, factors, rank, count, sums);
      memory.copy(total, sums, <usize>rows << 2);
    }
  }
  for (let row = first; row < end; row++) {
    const at = norms + (<usize>row << 2);
    store<f32>(at, sqrt<f32>(load<f32>(at)));
  }
}

/** One row of at most FACTORS columns: y = x factor, plus c where there is one; y may be x or c. */
function scaleRow(x: usize, factors: usize, c: usize, y: usize, columns: i32): void {
  const end = y + (<usize>(columns & ~3) << 2);
  const rest = columns & 3;
  if (c) {
    for (; y < end; x += 16, factors += 16, c += 16, y += 16) {
      v128.store(y, f32x4.add(f32x4.mul(v128.load(x), v128.load(factors)), v128.load(c)));
    }
    if (rest) storeSome(y, f32x4.add(f32x4.mul(loadSome(x, rest), loadSome(factors, rest)), loadSome(c, rest)), rest);
  } else {
    for (; y < end; x += 16, factors += 16, y += 16) v128.store(y, f32x4.mul(v128.load(x), v128.load(factors)));
    if (rest) storeSome(y, f32x4.mul(loadSome(x, rest), loadSome(factors, rest)), rest);
  }
}

/** to = magnitude / norm, `columns` of them. */
function makeFactors(magnitude: usize, norm: usize, to: usize, columns: i32): void {
  const end = to + (<usize>(columns & ~3) << 2);
  for (; to < end; magnitude += 16, norm += 16, to += 16) v128.store(to, f32x4.div(v128.load(magnitude), v128.load(norm)));
  const rest = columns & 3;
  if (rest) storeSome(to, f32x4.div(loadSome(magnitude, rest), loadSome(norm, rest)), rest);
}

/** Up to 16 columns: y = start + (sum over rows of dy x) / norm; what is null of start and norm is left out. */
function dotColumns(dy: usize, x: usize, norm: usize, start: usize, y: usize, rows: i32, stride: usize, columns: i32): void {
  for (; columns > 0; columns -= 4, dy += 16, x += 16, y += 16) {
    const count = min(4, columns);
    let total = f32x4.splat(0);
    let d = dy, v = x;
    for (let first = 0; first < rows; first += SUMMED) {
      let sum = f32x4.splat(0);
      for (let i = min(SUMMED, rows - first); i > 0; i--, d += stride, v += stride) {
        sum = f32x4.add(sum, count == 4 ? f32x4.mul(v128.load(d), v128.load(v)) : f32x4.mul(loadSome(d, count), loadSome(v, count)));
      }
      total = f32x4.add(total, sum);
    }
    let result = total;
    if (norm) {
      result = f32x4.div(result, count == 4 ? v128.load(norm) : loadSome(norm, count));
      norm += 16;
    }
    if (start) {
      result = f32x4.add(count == 4 ? v128.load(start) : loadSome(start, count), result);
      start += 16;
    }
    if (count == 4) v128.store(y, result);
    else storeSome(y, result, count);
  }
}

/**
 * Commands:
 * - RowNorm: W [rows, columns], scales of codes or null, A f32[rank, columns], B f32[rows, rank], norms f32[rows]; rows, columns, rank,
 *   type of W, alpha. norms = |W + alpha B A| by rows. A's part is kept in the scratch of a thread: rank is at most 1024.
 * - ScaleColumns: x [rows, columns], magnitude [columns], norm [columns] or null, c or null, y [rows, columns]; rows, columns, stride of c
 *   in elements (0: one row for all). y = x magnitude / norm + c, or x magnitude + c.
 * - ColumnDot: dy, x [rows, columns], norm, start [columns] or null, y [columns]; rows, columns. y = start + sum(dy x) / norm.
 */
export function magnitudeCommand(opcode: u32): void {
  const rows = int(0);
  const columns = int(1);
  const stride = <usize>columns << 2;
  switch (opcode) {
    case Opcode.RowNorm: {
      const first = partStart(rows, ROWS);
      const end = partEnd(rows, ROWS);
      if (first >= end) return;
      rowNorms(pointer(0), pointer(1), int(3), pointer(2), pointer(3), pointer(4), first, end, columns, int(2), float(4));
      break;
    }
    case Opcode.ScaleColumns: {
      const first = partStart(rows, 1);
      const end = partEnd(rows, 1);
      const step = <usize>int(2) << 2;
      const norm = pointer(2);
      const c = pointer(3);
      for (let column = 0; column < columns; column += FACTORS) {
        const at = <usize>column << 2;
        const count = min(FACTORS, columns - column);
        const factors = norm ? threadScratch : pointer(1) + at;
        if (norm) makeFactors(pointer(1) + at, norm + at, factors, count);
        for (let row = first; row < end; row++) {
          const from = <usize>row * stride + at;
          scaleRow(pointer(0) + from, factors, c ? c + <usize>row * step + at : 0, pointer(4) + from, count);
        }
      }
      break;
    }
    case Opcode.ColumnDot: {
      const first = partStart(columns, UNIT);
      const end = partEnd(columns, UNIT);
      const norm = pointer(2);
      const start = pointer(3);
      for (let column = first; column < end; column += UNIT) {
        const at = <usize>column << 2;
        dotColumns(pointer(0) + at, pointer(1) + at, norm ? norm + at : 0, start ? start + at : 0, pointer(4) + at, rows, stride, min(UNIT, end - column));
      }
      break;
    }
    default:
      unreachable();
  }
}
