/**
 * The gated delta rule (Yang, Kautz and Hatamizadeh 2024, https://arxiv.org/abs/2412.06464), in chunks. Of a head with the unit vectors q_t (times
 * keyDim^-1/2) and k_t, values v_t, g_t = -e^A softplus(a_t + dt), beta_t = sigmoid(b_t), and a state S [keyDim, valueDim] that is 0 where a text begins:
 *
 *     S <- e^{g_t} S;  u_t = v_t - S^T k_t;  S <- S + beta_t k_t u_t^T;  o_t = S^T q_t
 *
 * A *piece* is the rows of one text in one chunk of 64. With G the sums of g from its begin on, D_ij = e^{G_i - G_j} for i >= j, e = e^G, and
 * P = D * Q K^T, L = D * K K^T below the diagonal:
 *
 *     U = V - e K S - L (beta U)           row by row, as L is triangular
 *     O = e Q S + P (beta U)
 *     S <- e_last S + K^T (D_last beta U)
 *
 * A head has one thread, so nothing depends on their number; heads that share keys have the same one.
 */
import { int, isKept, partEnd, partStart, pointer } from "./command";
import {
  added, begin, CHUNK, heads, keyDim, keyHeads, line, lineElements, preparePiece, product, qk, read, scaled, scaleRow, scores, SIDE,
  sinceBegin, toEnd, tokens, valueDim,
} from "./gated-delta-chunk";
import { gatedDeltaGrad } from "./gated-delta-grad";
import { Opcode } from "./opcodes";

/** Returns the first row behind the piece that begins at `first`. */
function endOfPiece(starts: usize, first: i32): i32 {
  const most = min(tokens, (first & ~(CHUNK - 1)) + CHUNK);
  let end = first + 1;
  while (end < most && load<i32>(starts + (<usize>end << 2)) != end) end++;
  return end;
}

/** Writes the results of a prepared piece, and the state behind it where `next` is not 0. */
function finishPiece(state: usize, next: usize, out: usize, first: i32, count: i32, head: i32): void {
  if (state) for (let i = 0; i < count; i++) scaleRow(read + <usize>i * line, load<f32>(sinceBegin + (<usize>i << 2)));
  const outLine = heads * valueDim;
  const to = out + (<usize>(first * outLine + head * valueDim) << 2);
  // The addend has other lines than the output: it is copied there.
  if (state) for (let i = 0; i < count; i++) memory.copy(to + (<usize>(i * outLine) << 2), read + <usize>i * line, <usize>valueDim << 2);
  product(scores, SIDE, false, added, lineElements, false, state ? to : 0, to, outLine, count, valueDim, count);
  if (!next) return;
  if (state) scaled(state, next, keyDim * valueDim, load<f32>(sinceBegin + (<usize>(count - 1) << 2)));
  for (let i = 0; i < count; i++) scaleRow(added + <usize>i * line, load<f32>(toEnd + (<usize>i << 2)));
  const keys = qk + <usize>count * line;
  product(keys, lineElements, true, added, lineElements, false, state ? next : 0, next, valueDim, keyDim, valueDim, count);
}

/** New rows of texts, which go on with their states: one text, or one row of each of several. */
function goOn(): void {
  const from = pointer(5), starts = pointer(6), positions = pointer(7), out = pointer(8), to = pointer(9);
  const texts = int(5), room = <usize>int(6) << 2;
  const perText = tokens / texts, group = heads / keyHeads;
  const stateBytes = <usize>(keyDim * valueDim) << 2;
  const end = partEnd(texts * keyHeads, 1);
  for (let unit = partStart(texts * keyHeads, 1); unit < end; unit++) {
    const text = unit / keyHeads, begin = text * perText;
    const place = load<i32>(positions + (<usize>text << 2));
    if (from != to && unit % keyHeads == 0) {
      const used = <usize>heads * stateBytes, rest = <usize>text * room + used;
      memory.copy(to + rest, from + rest, room - used);
    }
    let kept = 0;
    while (kept < perText && isKept(starts, begin + kept, place + kept)) kept++;
    for (let head = unit % keyHeads * group; head < (unit % keyHeads + 1) * group; head++) {
      const rate = -Mathf.exp(load<f32>(pointer(3) + (<usize>head << 2))), shift = load<f32>(pointer(4) + (<usize>head << 2));
      const at = <usize>text * room + <usize>head * stateBytes, state = to + at;
      if (from != to) memory.copy(state, from + at, stateBytes);
      for (let first = 0; first < kept; first += CHUNK) {
        const count = min(CHUNK, kept - first);
        const before = place == 0 && first == 0 ? <usize>0 : state;
        preparePiece(pointer(0), pointer(1), pointer(2), rate, shift, before, begin + first, count, unit % keyHeads, head);
        finishPiece(before, state, out, begin + first, count, head);
      }
      for (let row = begin + kept; row < begin + perText; row++) {
        memory.fill(out + (<usize>((row * heads + head) * valueDim) << 2), 0, <usize>valueDim << 2);
      }
    }
  }
}

/**
 * Commands; scalars begin with tokens, keyHeads, heads, keyDim, valueDim:
 * - GatedDelta: qkv [tokens, 2 keyHeads keyDim + heads valueDim], a and b [tokens, heads], A and dt [heads], starts i32[tokens], out
 *   [tokens, heads valueDim], states [slots, heads, keyDim, valueDim]; slots. The state behind chunk c goes to slot c mod slots.
 * - GatedDeltaGrad: see gated-delta-grad.ts
 * - CachedGatedDelta: qkv, a, b, A, dt, old states [texts, room], of which a text has heads * keyDim * valueDim, starts, position i32[texts], out, new states (may be the old ones);
 *   texts, room. Of one text row i is at position + i, of as many texts as rows at position[i] of text i.
 */
export function gatedDeltaCommand(opcode: u32): void {
  begin();
  if (opcode == Opcode.GatedDeltaGrad) {
    gatedDeltaGrad();
    return;
  }
  if (opcode == Opcode.CachedGatedDelta) {
    goOn();
    return;
  }
  if (opcode != Opcode.GatedDelta) unreachable();
  const starts = pointer(5), out = pointer(6), states = pointer(7);
  const slots = int(5);
  const group = heads / keyHeads;
  const stateBytes = <usize>(keyDim * valueDim) << 2;
  const end = partEnd(keyHeads, 1) * group;
  for (let head = partStart(keyHeads, 1) * group; head < end; head++) {
    const rate = -Mathf.exp(load<f32>(pointer(3) + (<usize>head << 2))), shift = load<f32>(pointer(4) + (<usize>head << 2));
    for (let first = 0; first < tokens;) {
      const last = endOfPiece(starts, first), chunk = first / CHUNK;
      const isNew = load<i32>(starts + (<usize>first << 2)) == first;
      const state = isNew ? <usize>0 : states + <usize>((chunk + slots - 1) % slots * heads + head) * stateBytes;
      const isLast = last == tokens || last % CHUNK == 0;
      const next = isLast ? states + <usize>(chunk % slots * heads + head) * stateBytes : 0;
      preparePiece(pointer(0), pointer(1), pointer(2), rate, shift, state, first, last - first, head / group, head);
      finishPiece(state, next, out, first, last - first, head);
      first = last;
    }
  }
}
