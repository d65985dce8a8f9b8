/**
 * Fused attention (FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135): tiles of queries by blocks
 * of keys, softmax online, no matrix of scores in memory. Token t sees the keys starts[t]..t of its own example, or, where
 * there are ends, starts[t]..ends[t] - 1; what no query of a panel sees is not computed.
 *
 * Scores are held transposed, [key][8 queries]: the softmax then runs down the rows, lane by lane, and the same array is
 * the packed right-hand operand of the product with V. Scores are in units of ln 2 (the factor is part of the packed Q).
 *
 * A task is a tile of queries of some heads that share keys. Tasks are handed out by a counter, the longest first;
 * who computes a task does not matter to its result. Blocks of keys begin at fixed multiples and panels are independent
 * of one another, so the results do not depend on the tile size either.
 */
import { float, int, pointer, threadIndex, threadScratch } from "./command";
import {
  capScores, describePanel, endKey, exp2, featureGroups, groupBytes, groupStart, KEY_ROWS, KEY_UNIT, leastKey, LOG2_E, LOWEST, mask, packColumns, PANEL, PANEL_BYTES,
  splatFeatures, splatKeys, storeColumns, storeRange, wholeUnits,
} from "./attention-pack";

// @ts-ignore: decorator
@external("matrix", "attentionScores")
declare function attentionScores(
  key: i32, depth: i32, a: usize, b: usize, bStride: usize, c: usize, cStride: usize, ranges: usize, tiles: i32,
): void;

// @ts-ignore: decorator
@external("matrix", "attentionSums")
declare function attentionSums(
  rows: i32, a: usize, b: usize, bStride: usize, c: usize, cStride: usize, ldc: usize, accumulate: bool,
  ranges: usize, rangeStride: usize, tiles: i32,
): void;

/** Keys of a block. */
const KEYS: i32 = 96;
/** Most panels of a task, over all its heads. */
const PANELS: i32 = 24;

/**
 * `Attention`: pointers q [tokens, heads * dim], k and v [tokens, kvHeads * dim], starts i32[tokens], out like q,
 * lse [tokens, heads], scratch (64 bytes), ends i32[tokens]; out, lse and ends may be null; scalars phase, tokens, heads, kvHeads, dim,
 * scale, soft cap of the scores (0: none). Phase 0 prepares scratch, phase 1 computes.
 */
export function selfAttention(): void {
  if (int(0) == 0) {
    if (threadIndex == 0) store<i32>(pointer(6), 0);
  } else {
    const kvHeads = int(3), dim = int(4);
    attention(
      pointer(0), pointer(1), pointer(2), <usize>(kvHeads * dim) << 2, <usize>dim << 2, pointer(3), pointer(7), pointer(4), pointer(5), pointer(6),
      0, int(1), int(2), kvHeads, dim, float(5), float(6),
    );
  }
}

/**
 * Attention of the queries from..tokens - 1; q, starts, ends, out and lse point to where query 0 would be. Rows of k and v are `kvStride`
 * bytes apart, heads `headStride`.
 */
export function attention(
  q: usize, k: usize, v: usize, kvStride: usize, headStride: usize, starts: usize, ends: usize, out: usize, lse: usize, counter: usize,
  from: i32, tokens: i32, heads: i32, kvHeads: i32, dim: i32, scale: f32, cap: f32,
): void {
  const group = heads / kvHeads;
  const taskHeads = min(group, PANELS);
  const chunks = (group + taskHeads - 1) / taskHeads;
  const queries = PANELS / taskHeads * PANEL;
  const tiles = (tokens - from + queries - 1) / queries;
  const units = kvHeads * chunks;
  while (true) {
    const task = atomic.add<i32>(counter, 1);
    if (task >= tiles * units) return;
    const unit = task % units;
    const kvHead = unit / chunks;
    const head = kvHead * group + unit % chunks * taskHeads;
    // Later queries see more, unless there are ends.
    const token = from + (tiles - 1 - task / units) * queries;
    attendTile(
      q, k + <usize>kvHead * headStride, v + <usize>kvHead * headStride, kvStride, starts, ends, out, lse, tokens, heads, dim, scale, cap,
      head, min(taskHeads, (kvHead + 1) * group - head), token, (min(queries, tokens - token) + PANEL - 1) / PANEL,
    );
  }
}

/** Attention of `count` heads from `head` on, of `panels` panels of queries from `token` on. `k` and `v` are their head's. */
function attendTile(
  q: usize, k: usize, v: usize, kStride: usize, starts: usize, ends: usize, out: usize, lse: usize,
  tokens: i32, heads: i32, dim: i32, scale: f32, cap: f32, head: i32, count: i32, token: i32, panels: i32,
): void {
  const depth = (dim + 3) & ~3;
  const total = count * panels;
  const qStride = <usize>(heads * dim) << 2;
  const columnBytes = <usize>depth << 5; // [depth][8]
  const scoreBytes: usize = KEYS << 5; // [KEYS][8]

  // Per panel: record, range, state [greatest score, sum of exponentials][8], Q and the output [dim][8], scores.
  const records = threadScratch;
  const ranges = records + <usize>panels * PANEL_BYTES;
  const states = ranges + ((<usize>total * 8 + 63) & ~63);
  const columns = states + <usize>total * 64;
  const results = columns + <usize>total * columnBytes;
  const scores = results + <usize>total * columnBytes;
  const operand = scores + <usize>total * scoreBytes; // K or V, as splats
  const tile = operand + <usize>featureGroups(dim) * groupBytes(KEYS);

  let least = tokens, end = 0;
  for (let panel = 0; panel < panels; panel++) {
    const record = records + <usize>panel * PANEL_BYTES;
    describePanel(starts, ends, token + panel * PANEL, tokens, record);
    least = min(least, leastKey(record));
    end = max(end, endKey(record));
  }
  for (let i = 0; i < total; i++) {
    const first = token + i % panels * PANEL;
    const from = q + <usize>first * qStride + (<usize>((head + i / panels) * dim) << 2);
    packColumns(from, qStride, tokens - first, dim, scale * LOG2_E, columns + <usize>i * columnBytes);
    const state = states + ((<usize>i) << 6);
    v128.store(state, f32x4.splat(LOWEST)), v128.store(state, f32x4.splat(LOWEST), 16);
    v128.store(state, f32x4.splat(0), 32), v128.store(state, f32x4.splat(0), 48);
  }
  memory.fill(results, 0, <usize>total * columnBytes);

  for (let key = least / KEYS * KEYS; key < end; key += KEYS) {
    for (let i = 0; i < total; i++) storeRange(records + <usize>(i % panels) * PANEL_BYTES, key, KEYS, ranges + (<usize>i << 3));
    const keys = min(KEYS, end - key);
    const rows = wholeUnits(keys);
    // Nobody sees the keys in front of the least.
    const firstRow = max(least - key, 0) / KEY_UNIT * KEY_UNIT;
    for (let row = firstRow; row < rows; row += KEY_ROWS) {
      splatKeys(k + <usize>(key + row) * kStride, kStride, keys - row, dim, operand);
      attentionScores(row, depth, operand, columns, columnBytes, scores, scoreBytes, ranges, total);
    }
    for (let i = 0; i < total; i++) {
      const range = ranges + (<usize>i << 3);
      if (load<i32>(range, 4) == 0) continue;
      if (cap != 0) capScores(range, scores + <usize>i * scoreBytes, cap * LOG2_E);
      mask(records + <usize>(i % panels) * PANEL_BYTES, key, range, scores + <usize>i * scoreBytes);
      softmax(range, scores + <usize>i * scoreBytes, states + (<usize>i << 6), results + <usize>i * columnBytes, dim);
    }
    const groups = featureGroups(dim);
    splatFeatures(v + <usize>key * kStride, kStride, firstRow, keys, rows, KEYS, dim, operand);
    for (let part = 0; part < groups; part++) {
      const start = groupStart(part, groups, dim);
      attentionSums(
        groupStart(part + 1, groups, dim) - start, operand + <usize>part * groupBytes(KEYS), scores, scoreBytes,
        results + (<usize>start << 5), columnBytes, 32, true, ranges, 8, total,
      );
    }
  }

  for (let i = 0; i < total; i++) {
    const first = token + i % panels * PANEL;
    const rows = min(PANEL, tokens - first);
    const state = states + (<usize>i << 6);
    if (out != 0) {
      const one = f32x4.splat(1);
      const to = out + <usize>first * qStride + (<usize>((head + i / panels) * dim) << 2);
      const sum0 = v128.load(state, 32), sum1 = v128.load(state, 48);
      storeColumns(results + <usize>i * columnBytes, f32x4.div(one, sum0), f32x4.div(one, sum1), to, qStride, rows, dim, false, tile);
    }
    if (lse == 0) continue;
    for (let lane = 0; lane < rows; lane++) {
      const at = state + (<usize>lane << 2);
      const value = load<f32>(at) / LOG2_E + Mathf.log(load<f32>(at, 32));
      store<f32>(lse + (<usize>((first + lane) * heads + head + i / panels) << 2), value);
    }
  }
}

/**
 * Online softmax of one panel over a range of keys: scores become exp(score - greatest so far), the state and the
 * results so far are scaled to the new greatest score.
 */
function softmax(range: usize, scores: usize, state: usize, results: usize, dim: i32): void {
  const begin = scores + (<usize>load<i32>(range) << 5);
  const end = scores + (<usize>load<i32>(range, 4) << 5);
  const old0 = v128.load(state), old1 = v128.load(state, 16);
  // pmax(a, b) is a < b ? b : a. A NaN is not seen here; it spreads by the exponential below.
  let max0 = old0, max1 = old1;
  let at = begin;
  do {
    max0 = f32x4.pmax(max0, v128.load(at));
    max1 = f32x4.pmax(max1, v128.load(at, 16));
    at += 32;
  } while (at != end);
  v128.store(state, max0), v128.store(state, max1, 16);

  let sum0 = f32x4.splat(0), sum1 = f32x4.splat(0);
  at = begin;
  do {
    const p0 = exp2(f32x4.sub(v128.load(at), max0));
    const p1 = exp2(f32x4.sub(v128.load(at, 16), max1));
    v128.store(at, p0), v128.store(at, p1, 16);
    sum0 = f32x4.add(sum0, p0);
    sum1 = f32x4.add(sum1, p1);
    at += 32;
  } while (at != end);

  const scale0 = exp2(f32x4.sub(old0, max0)), scale1 = exp2(f32x4.sub(old1, max1));
  v128.store(state, f32x4.add(f32x4.mul(v128.load(state, 32), scale0), sum0), 32);
  v128.store(state, f32x4.add(f32x4.mul(v128.load(state, 48), scale1), sum1), 48);
  if (v128.any_true(v128.or(f32x4.ne(old0, max0), f32x4.ne(old1, max1)))) {
    const last = results + (<usize>dim << 5);
    for (let to = results; to != last; to += 32) {
      v128.store(to, f32x4.mul(v128.load(to), scale0));
      v128.store(to, f32x4.mul(v128.load(to, 16), scale1), 16);
    }
  }
}
