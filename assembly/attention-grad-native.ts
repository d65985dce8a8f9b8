/**
 * Gradient of attention whose products and exponentials a native library computes; the formulas are in
 * attention-grad.ts, tiles in attention-tiles.ts, rows in attention-native.ts. A task is a tile of one key head with all blocks of keys that it
 * sees. dK and dV are sums over tiles: each block of keys has a turn counter, and the tiles add to it from the last to the
 * first, so the result does not depend on who computes what, or when. Tasks are handed out in that order: the tile that
 * a task waits for is always under way.
 */
import { float, int, partEnd, partStart, pointer, threadIndex, threadScratch } from "./command";
import { dot, gatherRows, joinHeads, scatterRows, splitHeads } from "./attention-native";
import { fillUnseen, greatestEnd, leastKey, makeTiles, tileCount, tileStart } from "./attention-tiles";
import { COLUMN, MATRIX, NO_ADDEND, product, sessionOf, unary } from "./native";
import { capSlope4, capSlopeOf, softCap4, softCapOf } from "./soft-cap";

/** Rounds that a thread spins for its turn before it sleeps for `NAP` nanoseconds at a time. */
const SPIN_ROUNDS: i32 = 20000;
const NAP: i64 = 50000;

/**
 * `NativeAttentionGrad`: pointers q, k, v, starts, out, lse, dout, dq, dk, dv, scratch, ends or null; scalars phase, tokens, heads, kvHeads, dim, scale,
 * most tokens of a tile, keys of a block, the sessions (two words each) of A B^T + column, exp, A^T B + C and A B + C, then the soft cap of the
 * scores (0: none) and the session of A B^T that it needs, fewest tokens of a tile, and bytes of the table of tiles. Shapes as in the forward
 * command. Scratch: the table of tiles, turns i32[kvHeads][blocks], rounded up to 64 bytes, then K, V, dK, dV, each f32[kvHeads][tokens][dim].
 * Phase 0 fills scratch, phase 1 computes, phase 2 writes dk and dv. An output that is null is not wanted.
 */
export function nativeAttentionGrad(): void {
  const tokens = int(1), kvHeads = int(3), dim = int(4);
  const blocks = (tokens + int(7) - 1) / int(7);
  const table = pointer(10);
  const allTurns = table + int(20);
  const turnBytes = (<usize>(kvHeads * blocks) << 2) + 63 & ~63;
  const keys = allTurns + turnBytes;
  const size = <usize>(kvHeads * tokens * dim) << 2;
  const dKeys = keys + 2 * size;
  switch (int(0)) {
    case 0: {
      if (threadIndex == 0) {
        makeTiles(table, pointer(3), tokens, int(6), int(19));
        memory.fill(allTurns, 0, turnBytes);
      }
      splitHeads(pointer(1), tokens, kvHeads, dim, keys);
      splitHeads(pointer(2), tokens, kvHeads, dim, keys + size);
      const from = partStart(kvHeads * tokens, 1);
      memory.fill(dKeys + (<usize>(from * dim) << 2), 0, <usize>((partEnd(kvHeads * tokens, 1) - from) * dim) << 2);
      memory.fill(dKeys + size + (<usize>(from * dim) << 2), 0, <usize>((partEnd(kvHeads * tokens, 1) - from) * dim) << 2);
      break;
    }
    case 1: {
      const tiles = tileCount(table);
      while (true) {
        const task = atomic.add<i32>(table, 1);
        if (task >= tiles * kvHeads) return;
        const turn = task / kvHeads, kvHead = task % kvHeads;
        const token = tileStart(table, tiles - 1 - turn);
        const count = tileStart(table, tiles - turn) - token;
        const turns = allTurns + (<usize>(kvHead * blocks) << 2);
        tileGrad(kvHead, token, count, keys + (<usize>(kvHead * tokens * dim) << 2), size, turns, turn);
      }
    }
    default:
      if (pointer(8)) joinHeads(dKeys, tokens, kvHeads, dim, pointer(8));
      if (pointer(9)) joinHeads(dKeys + size, tokens, kvHeads, dim, pointer(9));
  }
}

/** The tile's part; K, V, dK, dV of its key head are `size` bytes apart. */
function tileGrad(kvHead: i32, token: i32, count: i32, keys: usize, size: usize, turns: usize, turn: i32): void {
  const starts = pointer(3), ends = pointer(11), dq = pointer(7), dk = pointer(8), dv = pointer(9);
  const tokens = int(1);
  const heads = int(2), dim = int(4), block = int(7);
  const scores = sessionOf(int(8), int(9)), exp = sessionOf(int(10), int(11));
  const sums = sessionOf(int(12), int(13)), forward = sessionOf(int(14), int(15));
  const group = heads / int(3);
  const rows = count * group;
  const width = group * dim;
  const stride = <usize>(heads * dim) << 2;
  const from = <usize>token * stride + (<usize>(kvHead * width) << 2);
  const tileBytes = <usize>(rows * dim) << 2;

  const queries = threadScratch;
  const dOut = queries + tileBytes;
  const dQueries = dOut + tileBytes;
  const minusLse = dQueries + tileBytes;
  const minusDelta = minusLse + (<usize>rows << 2);
  const p = (minusDelta + (<usize>rows << 2) + 63) & ~63;
  const blockBytes = <usize>(rows * min(block, tokens)) << 2;
  const dP = p + blockBytes;
  const slopes = dP + blockBytes;
  const cap = float(16);

  gatherRows(pointer(0) + from, stride, count, width, float(5), queries);
  gatherRows(pointer(6) + from, stride, count, width, 1, dOut);
  memory.fill(dQueries, 0, tileBytes);
  for (let row = 0; row < rows; row++) {
    const t = token + row / group, head = kvHead * group + row % group;
    store<f32>(minusLse + (<usize>row << 2), -load<f32>(pointer(5) + (<usize>(t * heads + head) << 2)));
    const o = pointer(4) + (<usize>((t * heads + head) * dim) << 2);
    store<f32>(minusDelta + (<usize>row << 2), -dot(o, dOut + (<usize>(row * dim) << 2), dim));
  }

  const first = leastKey(starts, token, count), end = greatestEnd(ends, token, count, tokens);
  // Without ends, no tile behind this one in the order takes part in the blocks behind its end.
  const visited = ends ? tokens : end;
  for (let b = 0; b * block < visited; b++) {
    const low = max(b * block, first), high = min((b + 1) * block, end);
    const word = turns + (<usize>b << 2);
    if (low < high) {
      const n = high - low;
      const at = <usize>(low * dim) << 2;
      if (cap == 0) {
        product(scores, queries, keys + at, minusLse, p, rows, n, dim, false, true, COLUMN);
      } else {
        product(sessionOf(int(17), int(18)), queries, keys + at, 0, p, rows, n, dim, false, true, NO_ADDEND);
        for (let row = 0; row < rows; row++) {
          const skipped = <usize>(row * n) << 2;
          capRow(p + skipped, slopes + skipped, n, cap, load<f32>(minusLse + (<usize>row << 2)));
        }
      }
      unary(exp, p, p, rows, n);
      fillUnseen(p, starts, ends, tokens, token, count, group, low, high, 0);
      product(scores, dOut, keys + size + at, minusDelta, dP, rows, n, dim, false, true, COLUMN);
      multiply(dP, p, rows * n);
      if (cap != 0) multiply(dP, slopes, rows * n);
      if (dq) product(forward, dP, keys + at, dQueries, dQueries, rows, dim, n, false, false, MATRIX);
      awaitTurn(word, turn);
      const dKeys = keys + 2 * size + at, dValues = keys + 3 * size + at;
      if (dv) product(sums, p, dOut, dValues, dValues, n, dim, rows, true, false, MATRIX);
      if (dk) product(sums, dP, queries, dKeys, dKeys, n, dim, rows, true, false, MATRIX);
    } else {
      awaitTurn(word, turn);
    }
    atomic.store<i32>(word, turn + 1);
  }
  if (dq) scatterRows(dQueries, count, width, float(5), dq + from, stride);
}

/** x[n] = cap tanh(x / cap) + addend; slopes[n] = the derivative of the cap. */
function capRow(x: usize, slopes: usize, n: i32, cap: f32, addend: f32): void {
  const factor = f32x4.splat(cap), inverse = f32x4.splat(1 / cap), more = f32x4.splat(addend);
  let i = 0;
  for (; i + 4 <= n; i += 4) {
    const z = softCap4(v128.load(x + (<usize>i << 2)), factor, inverse);
    v128.store(slopes + (<usize>i << 2), capSlope4(z, inverse));
    v128.store(x + (<usize>i << 2), f32x4.add(z, more));
  }
  for (; i < n; i++) {
    const z = softCapOf(load<f32>(x + (<usize>i << 2)), cap);
    store<f32>(slopes + (<usize>i << 2), capSlopeOf(z, cap));
    store<f32>(x + (<usize>i << 2), z + addend);
  }
}

/** x *= y */
function multiply(x: usize, y: usize, n: i32): void {
  let i = 0;
  for (; i + 4 <= n; i += 4) v128.store(x + (<usize>i << 2), f32x4.mul(v128.load(x + (<usize>i << 2)), v128.load(y + (<usize>i << 2))));
  for (; i < n; i++) store<f32>(x + (<usize>i << 2), load<f32>(x + (<usize>i << 2)) * load<f32>(y + (<usize>i << 2)));
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
