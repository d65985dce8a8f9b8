/** Elementwise sums, products and affine maps, fills, copies of vectors and of blocks of columns, conversions between f32, bf16 and f16. */
import { int, float, partEnd, partStart, pointer } from "./command";
import { F32, floatBytes, loadFloats, narrow, widen } from "./half";
import { loadSome, storeSome } from "./lanes";
import { Opcode } from "./opcodes";

/** Elements of work that are handed out as one: a cache line, so that threads never write to the same one. */
const UNIT: i32 = 16;
const COPY_BYTES: i32 = 64;

/** y[n] = a[n] + b[n]; y may be a or b. */
function add(a: usize, b: usize, y: usize, n: i32): void {
  const end = y + ((<usize>n & ~7) << 2);
  while (y < end) {
    const first = f32x4.add(v128.load(a), v128.load(b));
    const second = f32x4.add(v128.load(a, 16), v128.load(b, 16));
    v128.store(y, first);
    v128.store(y, second, 16);
    a += 32;
    b += 32;
    y += 32;
  }
  if (n & 4) {
    v128.store(y, f32x4.add(v128.load(a), v128.load(b)));
    a += 16;
    b += 16;
    y += 16;
  }
  const rest = n & 3;
  if (rest) storeSome(y, f32x4.add(loadSome(a, rest), loadSome(b, rest)), rest);
}

/** y[n] = a[n] * b[n]; y may be a or b. */
function mul(a: usize, b: usize, y: usize, n: i32): void {
  const end = y + ((<usize>n & ~7) << 2);
  while (y < end) {
    const first = f32x4.mul(v128.load(a), v128.load(b));
    const second = f32x4.mul(v128.load(a, 16), v128.load(b, 16));
    v128.store(y, first);
    v128.store(y, second, 16);
    a += 32;
    b += 32;
    y += 32;
  }
  if (n & 4) {
    v128.store(y, f32x4.mul(v128.load(a), v128.load(b)));
    a += 16;
    b += 16;
    y += 16;
  }
  const rest = n & 3;
  if (rest) storeSome(y, f32x4.mul(loadSome(a, rest), loadSome(b, rest)), rest);
}

/** y[n] = alpha x[n] + beta; y may be x. */
function affine(x: usize, y: usize, n: i32, alpha: f32, beta: f32): void {
  const factor = f32x4.splat(alpha), offset = f32x4.splat(beta);
  const end = y + ((<usize>n & ~3) << 2);
  for (; y < end; x += 16, y += 16) v128.store(y, f32x4.add(f32x4.mul(v128.load(x), factor), offset));
  if (n & 3) storeSome(y, f32x4.add(f32x4.mul(loadSome(x, n & 3), factor), offset), n & 3);
}

/** y[n] = value */
function fill(y: usize, n: i32, value: f32): void {
  if (reinterpret<u32>(value) == 0) {
    memory.fill(y, 0, (<usize>n) << 2);
    return;
  }
  const lanes = f32x4.splat(value);
  const end = y + ((<usize>n & ~3) << 2);
  for (; y < end; y += 16) v128.store(y, lanes);
  if (n & 3) storeSome(y, lanes, n & 3);
}

/** Writes the four lanes of `x` as `type`. */
// @ts-ignore: decorator
@inline
function storeFloats(y: usize, x: v128, type: i32): void {
  if (type == F32) v128.store(y, x);
  else v128.store64_lane(y, narrow(x, type), 0);
}

/** y[n] = x[n], from one float type to another, through f32: narrowing rounds to nearest even. */
function cast(x: usize, y: usize, n: i32, from: i32, to: i32): void {
  const step = floatBytes(from, 4);
  const stride = floatBytes(to, 4);
  const end = y + floatBytes(to, <usize>n & ~3);
  for (; y < end; x += step, y += stride) storeFloats(y, loadFloats(x, from), to);
  // The last elements one at a time, in the first lane.
  for (let i = n & 3; i > 0; i--, x += floatBytes(from, 1), y += floatBytes(to, 1)) {
    const lane = from == F32 ? v128.load32_zero(x) : widen(v128.load16_splat(x), from);
    if (to == F32) v128.store32_lane(y, lane, 0);
    else v128.store16_lane(y, narrow(lane, to), 0);
  }
}

/** y[row][i] = x[row][i] for i < width, rows at their own distances in x and y; zeros where there is no x. */
function copyBlock(x: usize, y: usize, rows: i32, width: i32, xStride: i32, yStride: i32): void {
  const bytes = (<usize>width) << 2;
  const end = partEnd(rows, 1);
  for (let row = partStart(rows, 1); row < end; row++) {
    const to = y + ((<usize>row * yStride) << 2);
    if (x) memory.copy(to, x + ((<usize>row * xStride) << 2), bytes);
    else memory.fill(to, 0, bytes);
  }
}

/**
 * Commands:
 * - Add, Mul: a, b, y; n
 * - Affine: x, y; n, alpha (f32), beta (f32)
 * - Fill: y; n, value (f32)
 * - Copy: x, y; bytes (u32). Nothing happens where x is y.
 * - CastHalf: x, y; n, type of x, type of y (half.ts)
 * - CopyBlock: x (absent: zeros), y; rows, width, floats from a row of x to the next, the same of y
 */
export function elementwiseCommand(opcode: u32): void {
  if (opcode == Opcode.Copy) {
    const x = pointer(0);
    const y = pointer(1);
    if (x == y) return;
    const bytes = <u32>int(0);
    const lines = <i32>(bytes / COPY_BYTES) + <i32>(bytes % COPY_BYTES != 0);
    const start = <u32>partStart(lines, 1) * COPY_BYTES;
    const end = min<u64>(bytes, <u64>partEnd(lines, 1) * COPY_BYTES);
    if (start < end) memory.copy(y + start, x + start, <usize>(end - start));
    return;
  }
  if (opcode == Opcode.CopyBlock) {
    copyBlock(pointer(0), pointer(1), int(0), int(1), int(2), int(3));
    return;
  }
  const count = int(0);
  const start = partStart(count, UNIT);
  const n = partEnd(count, UNIT) - start;
  if (n <= 0) return;
  const at = (<usize>start) << 2;
  switch (opcode) {
    case Opcode.Add:
      add(pointer(0) + at, pointer(1) + at, pointer(2) + at, n);
      break;
    case Opcode.Mul:
      mul(pointer(0) + at, pointer(1) + at, pointer(2) + at, n);
      break;
    case Opcode.Affine:
      affine(pointer(0) + at, pointer(1) + at, n, float(1), float(2));
      break;
    case Opcode.Fill:
      fill(pointer(0) + at, n, float(1));
      break;
    case Opcode.CastHalf: {
      const from = int(1);
      const to = int(2);
      cast(pointer(0) + floatBytes(from, start), pointer(1) + floatBytes(to, start), n, from, to);
      break;
    }
    default:
      unreachable();
  }
}
