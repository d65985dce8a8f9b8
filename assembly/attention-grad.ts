/**
 * Gradient of fused attention (FlashAttention-2, Dao 2023, https://arxiv.org/abs/2307.08691, algorithm 2). With
 * the scores S = scale Q K^T, P = exp(S - lse) and O = P V:
 *
 *     dV = P^T dO,  dP = dO V^T,  dS = P * (dP - delta),  delta = rowsum(dO * O),  dQ = scale dS K,  dK = scale dS^T Q
 *
 * With a soft cap on the scores, dS has the cap's derivative (soft-cap.ts) as another factor.
 *
 * A task is a block of keys of one key head with all the queries of its group that see it: dK and dV are sums inside
 * the task. dQ is a sum over tasks: each tile of queries has a turn counter, and blocks of keys add to it in ascending
 * order, so the result does not depend on who computes what, or when. Tasks are handed out block by block through all
 * heads: the block that a task waits for is always under way, and as a rule long finished.
 */
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import {
  capScores, describePanel, endKey, exp2, featureGroups, groupBytes, groupStart, KEY_ROWS, leastKey, LOG2_E, mask, packColumns, packRows, PANEL, PANEL_BYTES,
  splatFeatures, splatKeys, storeColumns, storeRange, wholeUnits,
} from "./attention-pack";
import { loadSome, storeSome } from "./lanes";
import { sum4 } from "./math";
import { capSlope4 } from "./soft-cap";

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

/** Panels of a tile of queries. */
const PANELS: i32 = 6;
const QUERIES: i32 = PANELS * PANEL;
/** Rounds that a thread spins for its turn before it sleeps for `NAP` nanoseconds at a time. */
const SPIN_ROUNDS: i32 = 20000;
const NAP: i64 = 50000;

// The operands and sizes of the command in effect.
let q: usize = 0, k: usize = 0, v: usize = 0, starts: usize = 0, ends: usize = 0, dOut: usize = 0;
let dq: usize = 0, dk: usize = 0, dv: usize = 0;
let tokens: i32 = 0, heads: i32 = 0, kvHeads: i32 = 0, dim: i32 = 0;
let scale: f32 = 0;
/** In units of ln 2; 0 is none. */
let cap: f32 = 0;
// Scratch: task counter, turns i32[heads][tiles], then lse (in units of ln 2) and delta, [heads][tokens rounded up to 8].
let counter: usize = 0, turns: usize = 0, logSums: usize = 0, deltas: usize = 0;
let qStride: usize = 0, kStride: usize = 0;

// @ts-ignore: decorator
@inline
function padded(count: i32): i32 {
  return (count + PANEL - 1) & ~(PANEL - 1);
}

// @ts-ignore: decorator
@inline
function tilesOf(count: i32): i32 {
  return (count + QUERIES - 1) / QUERIES;
}

/**
 * `AttentionGrad`: pointers q, k, v, starts, out, lse, dout, dq, dk, dv, scratch, ends or null; scalars phase, tokens, heads,
 * kvHeads, dim, scale, soft cap (0: none). Shapes as in the forward command. Phase 0 fills scratch: i32[16 + heads * tiles] rounded up to 64 bytes,
 * then f32[2][heads][tokens rounded up to 8]. Phase 1 computes. An output that is null is not wanted.
 */
export function attentionGrad(): void {
  q = pointer(0), k = pointer(1), v = pointer(2), starts = pointer(3), ends = pointer(11), dOut = pointer(6);
  dq = pointer(7), dk = pointer(8), dv = pointer(9);
  tokens = int(1), heads = int(2), kvHeads = int(3), dim = int(4);
  scale = float(5);
  cap = float(6) * LOG2_E;
  counter = pointer(10);
  turns = counter + 64;
  logSums = (turns + (<usize>(heads * tilesOf(tokens)) << 2) + 63) & ~63;
  deltas = logSums + (<usize>(heads * padded(tokens)) << 2);
  qStride = <usize>(heads * dim) << 2;
  kStride = <usize>(kvHeads * dim) << 2;
  if (int(0) == 0) {
    prepare(pointer(4), pointer(5));
    return;
  }
  const keys = blockKeys();
  const tasks = (tokens + keys - 1) / keys * kvHeads;
  while (true) {
    const task = atomic.add<i32>(counter, 1);
    if (task >= tasks) return;
    block(task % kvHeads, task / kvHeads * keys, keys);
  }
}

/** Keys of a block: as many as keep its packed operands (48 bytes a feature and key) in the second-level cache. */
// @ts-ignore: decorator
@inline
function blockKeys(): i32 {
  return dim <= 128 ? 96 : dim <= 256 ? 48 : 24;
}

function prepare(out: usize, lse: usize): void {
  if (threadIndex == 0) memory.fill(counter, 0, logSums - counter);
  const length = padded(tokens);
  const begin = partStart(length, PANEL);
  const end = partEnd(length, PANEL);
  for (let token = begin; token < end; token++) {
    for (let head = 0; head < heads; head++) {
      const to = <usize>(head * length + token) << 2;
      if (token >= tokens) {
        // Queries that do not exist: P = exp(-huge) = 0.
        store<f32>(logSums + to, 1e30);
        store<f32>(deltas + to, 0);
        continue;
      }
      store<f32>(logSums + to, load<f32>(lse + (<usize>(token * heads + head) << 2)) * LOG2_E);
      const row = <usize>token * qStride + (<usize>(head * dim) << 2);
      store<f32>(deltas + to, dot(out + row, dOut + row, dim));
    }
  }
}

function dot(a: usize, b: usize, count: i32): f32 {
  let sum = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    sum = f32x4.add(sum, f32x4.mul(v128.load(a + (<usize>i << 2)), v128.load(b + (<usize>i << 2))));
  }
  if (i < count) {
    sum = f32x4.add(sum, f32x4.mul(loadSome(a + (<usize>i << 2), count - i), loadSome(b + (<usize>i << 2), count - i)));
  }
  return sum4(sum);
}

/** dK and dV of a block of keys from `key` on, and its part of dQ. */
function block(kvHead: i32, key: i32, length: i32): void {
  const keys = min(length, tokens - key);
  const rows = wholeUnits(keys);
  const depth = (dim + 3) & ~3;
  const width = padded(dim);
  const group = heads / kvHeads;
  const kvOffset = <usize>(kvHead * dim) << 2;
  const columnBytes = <usize>depth << 5; // [depth][8]
  const scoreBytes = <usize>length << 5; // [length][8]
  const rowBytes: usize = QUERIES << 5; // [QUERIES][8]
  const operandBytes = <usize>depth << 4; // of a key, as splats
  const widthBytes = <usize>width << 2;

  const records = threadScratch;
  const ranges = records + PANELS * PANEL_BYTES;
  const rowRange = ranges + 64;
  const corner = rowRange + 64; // [8][4]
  const keysAsScores = corner + 128; // K for S = K Q^T: [length / 6][depth][6]
  const valuesAsScores = keysAsScores + <usize>length * operandBytes;
  const keysAsSums = valuesAsScores + <usize>length * operandBytes; // K for dQ^T = K^T dS^T: [groups][length][6]
  const dKeys = keysAsSums + <usize>featureGroups(dim) * groupBytes(length); // [length][width]
  const dValues = dKeys + <usize>length * widthBytes;
  const queryColumns = dValues + <usize>length * widthBytes; // per panel [depth][8]
  const outColumns = queryColumns + PANELS * columnBytes;
  const dQueryColumns = outColumns + PANELS * columnBytes;
  const queryRows = dQueryColumns + PANELS * columnBytes; // [width / 8][QUERIES][8]
  const outRows = queryRows + QUERIES * widthBytes;
  const scores = outRows + QUERIES * widthBytes; // per panel [length][8]: S, then P
  const dScores = scores + PANELS * scoreBytes; // dP, then dS
  const transposed = dScores + PANELS * scoreBytes; // [QUERIES][6] splats

  for (let row = 0; row < rows; row += KEY_ROWS) {
    const from = <usize>(key + row) * kStride + kvOffset;
    splatKeys(k + from, kStride, keys - row, dim, keysAsScores + <usize>row * operandBytes);
    splatKeys(v + from, kStride, keys - row, dim, valuesAsScores + <usize>row * operandBytes);
  }
  splatFeatures(k + <usize>key * kStride + kvOffset, kStride, 0, keys, rows, length, dim, keysAsSums);
  memory.fill(dKeys, 0, 2 * <usize>length * widthBytes);
  const groups = featureGroups(dim);

  // Without ends, no query in front of a key sees it.
  for (let token = ends ? 0 : key / QUERIES * QUERIES; token < tokens; token += QUERIES) {
    const panels = (min(QUERIES, tokens - token) + PANEL - 1) / PANEL;
    let least = tokens, end = 0;
    for (let panel = 0; panel < panels; panel++) {
      const record = records + <usize>panel * PANEL_BYTES;
      describePanel(starts, ends, token + panel * PANEL, tokens, record);
      storeRange(record, key, length, ranges + (<usize>panel << 3));
      least = min(least, leastKey(record));
      end = max(end, endKey(record));
    }
    if (least >= key + length || end <= key) continue;
    // Blocks of keys from that of the least key to that of the last one take part in this tile, in order.
    const turn = key / length - least / length;

    for (let head = kvHead * group; head < (kvHead + 1) * group; head++) {
      const at = <usize>token * qStride + (<usize>(head * dim) << 2);
      for (let panel = 0; panel < panels; panel++) {
        const row = at + <usize>(panel * PANEL) * qStride;
        const queries = tokens - token - panel * PANEL;
        packColumns(q + row, qStride, queries, dim, scale * LOG2_E, queryColumns + <usize>panel * columnBytes);
        packColumns(dOut + row, qStride, queries, dim, 1, outColumns + <usize>panel * columnBytes);
      }
      packRows(q + at, qStride, tokens - token, QUERIES, dim, scale, queryRows);
      packRows(dOut + at, qStride, tokens - token, QUERIES, dim, 1, outRows);

      for (let row = 0; row < rows; row += KEY_ROWS) {
        const operand = <usize>row * operandBytes;
        attentionScores(row, depth, keysAsScores + operand, queryColumns, columnBytes, scores, scoreBytes, ranges, panels);
        attentionScores(row, depth, valuesAsScores + operand, outColumns, columnBytes, dScores, scoreBytes, ranges, panels);
      }
      for (let panel = 0; panel < panels; panel++) {
        const range = ranges + (<usize>panel << 3);
        if (load<i32>(range, 4) == 0) continue;
        const offset = <usize>panel * scoreBytes;
        if (cap != 0) capScores(range, scores + offset, cap);
        mask(records + <usize>panel * PANEL_BYTES, key, range, scores + offset);
        const query = <usize>(head * padded(tokens) + token + panel * PANEL) << 2;
        differentiate(range, scores + offset, dScores + offset, logSums + query, deltas + query);
      }
      for (let row = 0; row < rows; row += KEY_ROWS) {
        const to = <usize>row * widthBytes;
        if (!findPanels(row, ranges, panels, rowRange)) continue;
        splatScores(row, ranges, rowRange, scores, scoreBytes, transposed);
        attentionSums(KEY_ROWS, transposed, outRows, rowBytes, dValues + to, 32, widthBytes, true, rowRange, 0, width / PANEL);
        splatScores(row, ranges, rowRange, dScores, scoreBytes, transposed);
        attentionSums(KEY_ROWS, transposed, queryRows, rowBytes, dKeys + to, 32, widthBytes, true, rowRange, 0, width / PANEL);
      }
      for (let part = 0; part < groups; part++) {
        const start = groupStart(part, groups, dim);
        attentionSums(
          groupStart(part + 1, groups, dim) - start, keysAsSums + <usize>part * groupBytes(length), dScores, scoreBytes,
          dQueryColumns + (<usize>start << 5), columnBytes, 32, false, ranges, 8, panels,
        );
      }
      const word = turns + (<usize>(head * tilesOf(tokens) + token / QUERIES) << 2);
      awaitTurn(word, turn);
      for (let panel = 0; panel < panels; panel++) {
        const columns = dQueryColumns + <usize>panel * columnBytes;
        const seen = load<i32>(ranges + (<usize>panel << 3), 4) != 0;
        if (!seen && turn > 0) continue;
        if (!seen) memory.fill(columns, 0, columnBytes);
        const factor = f32x4.splat(scale);
        const queries = min(PANEL, tokens - token - panel * PANEL);
        storeColumns(columns, factor, factor, dq + at + <usize>(panel * PANEL) * qStride, qStride, queries, dim, turn > 0, corner);
      }
      atomic.store<i32>(word, turn + 1);
    }
  }
  const to = <usize>key * kStride + kvOffset;
  if (dk != 0) storeRows(dKeys, widthBytes, keys, dk + to);
  if (dv != 0) storeRows(dValues, widthBytes, keys, dv + to);
}

/** S becomes P = 2^(S - lse), dP becomes dS = P * (dP - delta) (times the slope of the cap at S), over a range of keys. */
function differentiate(range: usize, scores: usize, dScores: usize, logSum: usize, delta: usize): void {
  const end = scores + (<usize>load<i32>(range, 4) << 5);
  const lse0 = v128.load(logSum), lse1 = v128.load(logSum, 16);
  const delta0 = v128.load(delta), delta1 = v128.load(delta, 16);
  const inverse = f32x4.splat(1 / cap), capped = cap != 0;
  let at = scores + (<usize>load<i32>(range) << 5);
  let dAt = dScores + (<usize>load<i32>(range) << 5);
  do {
    const s0 = v128.load(at), s1 = v128.load(at, 16);
    const p0 = exp2(f32x4.sub(s0, lse0));
    const p1 = exp2(f32x4.sub(s1, lse1));
    v128.store(at, p0), v128.store(at, p1, 16);
    let d0 = f32x4.sub(v128.load(dAt), delta0), d1 = f32x4.sub(v128.load(dAt, 16), delta1);
    if (capped) {
      d0 = f32x4.mul(d0, capSlope4(s0, inverse));
      d1 = f32x4.mul(d1, capSlope4(s1, inverse));
    }
    v128.store(dAt, f32x4.mul(p0, d0));
    v128.store(dAt, f32x4.mul(p1, d1), 16);
    at += 32;
    dAt += 32;
  } while (at != end);
}

// @ts-ignore: decorator
@inline
function sees(ranges: usize, panel: i32, row: i32): bool {
  const range = ranges + (<usize>panel << 3);
  return row >= load<i32>(range) && row < load<i32>(range, 4);
}

/** The queries of the tile, from the first panel that sees the keys of `row` to the last. Returns false if none does. */
function findPanels(row: i32, ranges: usize, panels: i32, range: usize): bool {
  let first = 0;
  while (first < panels && !sees(ranges, first, row)) first++;
  if (first == panels) return false;
  let end = panels;
  while (!sees(ranges, end - 1, row)) end--;
  store<i32>(range, first * PANEL);
  store<i32>(range, end * PANEL, 4);
  return true;
}

/** out[queries][6] = splats of the scores of 6 keys from `row` on, for a range of queries. */
function splatScores(row: i32, ranges: usize, range: usize, scores: usize, scoreBytes: usize, out: usize): void {
  const first = load<i32>(range) / PANEL;
  const end = load<i32>(range, 4) / PANEL;
  for (let panel = first; panel < end; panel++) {
    let to = out + <usize>(panel * PANEL) * (KEY_ROWS * 16);
    if (!sees(ranges, panel, row)) {
      memory.fill(to, 0, PANEL * KEY_ROWS * 16);
      continue;
    }
    let from = scores + <usize>panel * scoreBytes + (<usize>row << 5);
    for (let lane = 0; lane < PANEL; lane++) {
      v128.store(to, v128.load32_splat(from));
      v128.store(to, v128.load32_splat(from + 32), 16);
      v128.store(to, v128.load32_splat(from + 64), 32);
      v128.store(to, v128.load32_splat(from + 96), 48);
      v128.store(to, v128.load32_splat(from + 128), 64);
      v128.store(to, v128.load32_splat(from + 160), 80);
      from += 4;
      to += KEY_ROWS * 16;
    }
  }
}

function awaitTurn(word: usize, turn: i32): void {
  for (let round = 0; round < SPIN_ROUNDS; round++) {
    if (atomic.load<i32>(word) == turn) return;
  }
  while (true) {
    const now = atomic.load<i32>(word);
    if (now == turn) return;
    atomic.wait<i32>(word, now, NAP);
  }
}

function storeRows(from: usize, fromStride: usize, rows: i32, to: usize): void {
  for (let row = 0; row < rows; row++) {
    let i = 0;
    for (; i + 4 <= dim; i += 4) v128.store(to + (<usize>i << 2), v128.load(from + (<usize>i << 2)));
    if (i < dim) storeSome(to + (<usize>i << 2), v128.load(from + (<usize>i << 2)), dim - i);
    from += fromStride;
    to += kStride;
  }
}
