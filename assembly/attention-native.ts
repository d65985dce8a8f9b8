/**
 * Attention whose products and exponentials a native library computes. A *tile* is a few tokens (attention-tiles.ts) with all query heads
 * that share a key head: rows [token][head of the group], so Q, K, V are plain matrices once the heads are apart. Where a tile sees more than a block of keys, each
 * block has a softmax of its own, and their results are added up with the shares that their exponentials have of the sum.
 *
 * A task is a tile of one key head. Tasks are handed out by a counter, the longest first; who computes a task does not
 * matter to its result.
 */
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { endKey, fillUnseen, firstKey, greatestEnd, leastKey, makeTiles, tileCount, TILES_AT, tileStart } from "./attention-tiles";
import { NO_ADDEND, product, sessionOf, unary } from "./native";
import { softCap, softCapOf } from "./soft-cap";

/** A probability below may have lost bits, or be 0. */
const LEAST_PROBABILITY: f32 = 1e-30;

/**
 * `NativeAttention`: pointers q [tokens, heads * dim], k and v [tokens, kvHeads * dim], starts i32[tokens], out like q, lse
 * [tokens, heads], scratch (a table of tiles, then f32[2][kvHeads][tokens][dim]), ends i32[tokens]; out, lse and ends may be null; scalars phase, tokens, heads, kvHeads, dim,
 * scale, most tokens of a tile, the sessions (two words each) of A B^T, softmax and A B, the soft cap of the scores (0: none), fewest tokens of a tile, bytes of the
 * table, and keys of a block. Phase 0 makes the tiles and takes the heads of K and V apart, phase 1 computes.
 */
export function nativeAttention(): void {
  const tokens = int(1), heads = int(2), kvHeads = int(3), dim = int(4);
  const table = pointer(6);
  const keys = table + int(15);
  const values = keys + (<usize>(kvHeads * tokens * dim) << 2);
  if (int(0) == 0) {
    if (threadIndex == 0) makeTiles(table, pointer(3), tokens, int(6), int(14));
    splitHeads(pointer(1), tokens, kvHeads, dim, keys);
    splitHeads(pointer(2), tokens, kvHeads, dim, values);
    return;
  }
  const tiles = tileCount(table);
  while (true) {
    const task = atomic.add<i32>(table, 1);
    if (task >= tiles * kvHeads) return;
    const tile = tiles - 1 - task / kvHeads;
    const token = tileStart(table, tile);
    const skipped = <usize>(task % kvHeads * tokens * dim) << 2;
    attendTile(task % kvHeads, token, tileStart(table, tile + 1) - token, heads / kvHeads, keys + skipped, values + skipped);
  }
}

/** out[heads][tokens][dim] = x[tokens][heads * dim], this thread's part. */
export function splitHeads(x: usize, tokens: i32, heads: i32, dim: i32, out: usize): void {
  const bytes = <usize>dim << 2;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    for (let head = 0; head < heads; head++) memory.copy(out + <usize>(head * tokens + t) * bytes, x + <usize>(t * heads + head) * bytes, bytes);
  }
}

/** x[tokens][heads * dim] = from[heads][tokens][dim], this thread's part. */
export function joinHeads(from: usize, tokens: i32, heads: i32, dim: i32, x: usize): void {
  const bytes = <usize>dim << 2;
  const end = partEnd(tokens, 1);
  for (let t = partStart(tokens, 1); t < end; t++) {
    for (let head = 0; head < heads; head++) memory.copy(x + <usize>(t * heads + head) * bytes, from + <usize>(head * tokens + t) * bytes, bytes);
  }
}

/** out[count][width] = factor * x[count][width], x with rows of `stride` bytes; width a multiple of 2. */
export function gatherRows(x: usize, stride: usize, count: i32, width: i32, factor: f32, out: usize): void {
  const scale = f32x4.splat(factor);
  for (let row = 0; row < count; row++) {
    let i = 0;
    for (; i + 4 <= width; i += 4) v128.store(out + (<usize>i << 2), f32x4.mul(scale, v128.load(x + (<usize>i << 2))));
    if (i < width) v128.store64_lane(out + (<usize>i << 2), f32x4.mul(scale, v128.load64_zero(x + (<usize>i << 2))), 0);
    x += stride;
    out += <usize>width << 2;
  }
}

/** x[count][width] = factor * from[count][width], x with rows of `stride` bytes; width a multiple of 2. */
export function scatterRows(from: usize, count: i32, width: i32, factor: f32, x: usize, stride: usize): void {
  const scale = f32x4.splat(factor);
  for (let row = 0; row < count; row++) {
    let i = 0;
    for (; i + 4 <= width; i += 4) v128.store(x + (<usize>i << 2), f32x4.mul(scale, v128.load(from + (<usize>i << 2))));
    if (i < width) v128.store64_lane(x + (<usize>i << 2), f32x4.mul(scale, v128.load64_zero(from + (<usize>i << 2))), 0);
    x += stride;
    from += <usize>width << 2;
  }
}

/** The tokens token..token + count - 1 of one key head, whose keys and values are [tokens][dim]. */
function attendTile(kvHead: i32, token: i32, count: i32, group: i32, keys: usize, values: usize): void {
  const out = pointer(4), lse = pointer(5);
  const heads = int(2), dim = int(4);
  const rows = count * group;
  const first = leastKey(pointer(3), token, count);
  const end = greatestEnd(pointer(7), token, count, int(1));
  const width = group * dim;
  const stride = <usize>(heads * dim) << 2;
  const from = <usize>token * stride + (<usize>(kvHead * width) << 2);

  const queries = threadScratch;
  const results = queries + (<usize>(rows * dim) << 2);
  const sums = results + (<usize>(rows * dim) << 2);
  const scores = (sums + (<usize>rows << 2) + 63) & ~63;

  gatherRows(pointer(0) + from, stride, count, width, float(5), queries);
  if (end - first <= int(16)) attendKeys(token, count, group, first, end, queries, keys, values, results, sums, scores);
  else attendBlocks(token, count, group, first, end, queries, keys, values, results, sums, scores);
  if (out) scatterRows(results, count, width, 1, out + from, stride);
  if (!lse) return;
  for (let row = 0; row < rows; row++) {
    store<f32>(lse + (<usize>((token + row / group) * heads + kvHead * group + row % group) << 2), load<f32>(sums + (<usize>row << 2)));
  }
}

/** scores[rows][end - first] = the capped scores of the keys first..end - 1, -infinity where a token does not see one. */
function score(token: i32, count: i32, group: i32, first: i32, end: i32, queries: usize, keys: usize, scores: usize): void {
  const dim = int(4), rows = count * group, n = end - first;
  product(sessionOf(int(7), int(8)), queries, keys + (<usize>(first * dim) << 2), 0, scores, rows, n, dim, false, true, NO_ADDEND);
  const cap = float(13);
  if (cap != 0) softCap(scores, scores, rows * n, cap);
  fillUnseen(scores, pointer(3), pointer(7), int(1), token, count, group, first, end, -f32.POSITIVE_INFINITY);
}

/** Scores become their softmax, and 0 where a key is not seen: instead of numbers next to 0, with which products are slow. Then results = that times values. */
function weigh(token: i32, count: i32, group: i32, first: i32, end: i32, values: usize, scores: usize, results: usize): void {
  const dim = int(4), rows = count * group, n = end - first;
  unary(sessionOf(int(9), int(10)), scores, scores, rows, n);
  fillUnseen(scores, pointer(3), pointer(7), int(1), token, count, group, first, end, 0);
  if (!pointer(4)) return;
  product(sessionOf(int(11), int(12)), scores, values + (<usize>(first * dim) << 2), 0, results, rows, dim, n, false, false, NO_ADDEND);
}

/** Attention to all keys of the tile at once; sums become log sum exp of each row. */
function attendKeys(
  token: i32, count: i32, group: i32, first: i32, end: i32, queries: usize, keys: usize, values: usize, results: usize, sums: usize, scores: usize,
): void {
  const dim = int(4), rows = count * group, n = end - first;
  const cap = float(13);
  const rowBytes = <usize>n << 2;
  score(token, count, group, first, end, queries, keys, scores);
  // A token's score of itself, before the softmax overwrites it.
  for (let row = 0; row < rows; row++) {
    store<f32>(sums + (<usize>row << 2), load<f32>(scores + <usize>row * rowBytes + (<usize>(token - first + row / group) << 2)));
  }
  weigh(token, count, group, first, end, values, scores, results);
  if (!pointer(5)) return;
  // P = exp(S - lse), so one S with its P gives lse.
  for (let row = 0; row < rows; row++) {
    const at = scores + <usize>row * rowBytes;
    let p = load<f32>(at + (<usize>(token - first + row / group) << 2));
    let s = load<f32>(sums + (<usize>row << 2));
    if (!(p >= LEAST_PROBABILITY)) {
      const best = indexOfGreatest(at, n);
      p = load<f32>(at + (<usize>best << 2));
      s = dot(queries + (<usize>(row * dim) << 2), keys + (<usize>((first + best) * dim) << 2), dim);
      if (cap != 0) s = softCapOf(s, cap);
    }
    store<f32>(sums + (<usize>row << 2), s - Mathf.log(p));
  }
}

/**
 * The same block by block. With l the log sum exp of the blocks so far and m that of one more, the results so far count exp(l - log(e^l + e^m))
 * times, and those of the block exp(m - log(e^l + e^m)) times.
 */
function attendBlocks(
  token: i32, count: i32, group: i32, first: i32, end: i32, queries: usize, keys: usize, values: usize, results: usize, sums: usize, scores: usize,
): void {
  const starts = pointer(3), ends = pointer(7);
  const tokens = int(1), dim = int(4), block = int(16), rows = count * group;
  const tops = scores + (<usize>(rows * block) << 2);
  const part = (tops + (<usize>rows << 2) + 63) & ~63;
  memory.fill(results, 0, <usize>(rows * dim) << 2);
  for (let row = 0; row < rows; row++) store<f32>(sums + (<usize>row << 2), -f32.POSITIVE_INFINITY);
  for (let low = first; low < end; low += block) {
    const high = min(low + block, end), n = high - low;
    score(token, count, group, low, high, queries, keys, scores);
    for (let row = 0; row < rows; row++) store<f32>(tops + (<usize>row << 2), greatest(scores + (<usize>(row * n) << 2), n));
    weigh(token, count, group, low, high, values, scores, part);
    for (let row = 0; row < rows; row++) {
      const t = token + row / group;
      if (firstKey(starts, t) >= high || endKey(ends, t, tokens) <= low) continue;
      const more = load<f32>(tops + (<usize>row << 2)) - Mathf.log(greatest(scores + (<usize>(row * n) << 2), n));
      const at = sums + (<usize>row << 2);
      const skipped = <usize>(row * dim) << 2;
      store<f32>(at, merge(results + skipped, load<f32>(at), part + skipped, more, dim));
    }
  }
}

/** Returns log(e^l + e^m); x[n] becomes the mean of x and y that counts them e^l and e^m times. */
function merge(x: usize, l: f32, y: usize, m: f32, n: i32): f32 {
  if (l == -f32.POSITIVE_INFINITY) {
    memory.copy(x, y, <usize>n << 2);
    return m;
  }
  const top = max(l, m);
  const a = Mathf.exp(l - top), b = Mathf.exp(m - top);
  const p = f32x4.splat(a / (a + b)), q = f32x4.splat(b / (a + b));
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    const at = <usize>i << 2;
    v128.store(x + at, f32x4.add(f32x4.mul(p, v128.load(x + at)), f32x4.mul(q, v128.load(y + at))));
  }
  if (i < n) {
    const at = <usize>i << 2;
    v128.store64_lane(x + at, f32x4.add(f32x4.mul(p, v128.load64_zero(x + at)), f32x4.mul(q, v128.load64_zero(y + at))), 0);
  }
  return top + Mathf.log(a + b);
}

/** The greatest of x[n]; NaN is passed over. */
function greatest(x: usize, n: i32): f32 {
  let a = f32x4.splat(-f32.POSITIVE_INFINITY), b = a;
  let i = 0;
  // pmax(a, b) is a < b ? b : a.
  for (; i + 8 <= n; i += 8) {
    a = f32x4.pmax(a, v128.load(x + (<usize>i << 2)));
    b = f32x4.pmax(b, v128.load(x + (<usize>i << 2), 16));
  }
  a = f32x4.pmax(a, b);
  let most = max(max(f32x4.extract_lane(a, 0), f32x4.extract_lane(a, 1)), max(f32x4.extract_lane(a, 2), f32x4.extract_lane(a, 3)));
  for (; i < n; i++) {
    const value = load<f32>(x + (<usize>i << 2));
    if (value > most) most = value;
  }
  return most;
}

function indexOfGreatest(x: usize, n: i32): i32 {
  let best = 0;
  for (let i = 1; i < n; i++) {
    if (load<f32>(x + (<usize>i << 2)) > load<f32>(x + (<usize>best << 2))) best = i;
  }
  return best;
}

/** Sum of x[i] y[i]; n even. */
export function dot(x: usize, y: usize, n: i32): f32 {
  let sum = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4) sum = f32x4.add(sum, f32x4.mul(v128.load(x + (<usize>i << 2)), v128.load(y + (<usize>i << 2))));
  if (i < n) sum = f32x4.add(sum, f32x4.mul(v128.load64_zero(x + (<usize>i << 2)), v128.load64_zero(y + (<usize>i << 2))));
  return f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1) + (f32x4.extract_lane(sum, 2) + f32x4.extract_lane(sum, 3));
}
