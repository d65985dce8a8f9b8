/**
 * Causal depthwise convolution, rows of f32: each channel has a filter of `width` taps of its own, over the rows of a text up
 * to the one in question. Filters are stored as in PyTorch, [channels, 1, width], the last tap for the row itself. A first phase turns
 * them into rows by distance, so that everything else goes along the channels.
 */
import { int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";
import { Opcode } from "./opcodes";

/** Rows whose products are summed before they are added to the sum of all: rounding grows with the one and with the other, not with their product. */
const BLOCK: i32 = 64;

/** taps[j * channels + c] = weight[c * width + width - 1 - j]: row j belongs to the row of x that is j rows back. */
function turn(weight: usize, taps: usize, channels: i32, width: i32): void {
  const end = partEnd(channels, 16);
  for (let c = partStart(channels, 16); c < end; c++) {
    for (let j = 0; j < width; j++) {
      store<f32>(taps + (<usize>(j * channels + c) << 2), load<f32>(weight + (<usize>(c * width + width - 1 - j) << 2)));
    }
  }
}

/** One row: y = sum over j <= reach of taps[j] x[t - j], plus a bias; `newest` is x[t]. */
function convolve(newest: usize, taps: usize, bias: usize, y: usize, channels: i32, reach: i32): void {
  const stride = <usize>channels << 2;
  const whole = <usize>(channels & ~3) << 2;
  for (let at: usize = 0; at < whole; at += 16) {
    let sum = bias ? v128.load(bias + at) : f32x4.splat(0);
    let tap = taps + at, from = newest + at;
    for (let j = 0; j <= reach; j++, tap += stride, from -= stride) {
      sum = f32x4.add(sum, f32x4.mul(v128.load(tap), v128.load(from)));
    }
    v128.store(y + at, sum);
  }
  const rest = channels & 3;
  if (rest) {
    let sum = bias ? loadSome(bias + whole, rest) : f32x4.splat(0);
    let tap = taps + whole, from = newest + whole;
    for (let j = 0; j <= reach; j++, tap += stride, from -= stride) {
      sum = f32x4.add(sum, f32x4.mul(loadSome(tap, rest), loadSome(from, rest)));
    }
    storeSome(y + whole, sum, rest);
  }
}

/** One row: dx[s] = sum over the rows s + j that see row s of taps[j] dy[s + j]. */
function inputGradient(dy: usize, starts: usize, taps: usize, dx: usize, row: i32, tokens: i32, channels: i32, width: i32): void {
  const stride = <usize>channels << 2;
  const most = min(width, tokens - row);
  const whole = <usize>(channels & ~3) << 2;
  const rest = channels & 3;
  const own = dy + <usize>row * stride;
  const to = dx + <usize>row * stride;
  for (let at: usize = 0; at < whole; at += 16) {
    let sum = f32x4.splat(0);
    for (let j = 0; j < most; j++) {
      if (load<i32>(starts + (<usize>(row + j) << 2)) > row) continue;
      const along = <usize>j * stride + at;
      sum = f32x4.add(sum, f32x4.mul(v128.load(taps + along), v128.load(own + along)));
    }
    v128.store(to + at, sum);
  }
  if (rest) {
    let sum = f32x4.splat(0);
    for (let j = 0; j < most; j++) {
      if (load<i32>(starts + (<usize>(row + j) << 2)) > row) continue;
      const along = <usize>j * stride + whole;
      sum = f32x4.add(sum, f32x4.mul(loadSome(taps + along, rest), loadSome(own + along, rest)));
    }
    storeSome(to + whole, sum, rest);
  }
}

/** The gradient of the taps of `lanes` (1..4) channels at distance `j`: the sum over rows of dy[t] x[t - j]. */
function tapGradient(dy: usize, x: usize, starts: usize, tokens: i32, stride: usize, j: i32, lanes: i32): v128 {
  let all = f32x4.splat(0);
  for (let block = 0; block < tokens; block += BLOCK) {
    let sum = f32x4.splat(0);
    const end = min(tokens, block + BLOCK);
    for (let t = block; t < end; t++) {
      if (load<i32>(starts + (<usize>t << 2)) > t - j) continue;
      const g = dy + <usize>t * stride, v = x + <usize>(t - j) * stride;
      sum = f32x4.add(sum, lanes == 4 ? f32x4.mul(v128.load(g), v128.load(v)) : f32x4.mul(loadSome(g, lanes), loadSome(v, lanes)));
    }
    all = f32x4.add(all, sum);
  }
  return all;
}

/** Gradients of the filters of this thread's channels. */
function filterGradient(dy: usize, x: usize, starts: usize, dw: usize, tokens: i32, channels: i32, width: i32): void {
  const stride = <usize>channels << 2;
  const end = partEnd(channels, 16);
  for (let c = partStart(channels, 16); c < end; c += 4) {
    const lanes = min(4, end - c);
    const at = <usize>c << 2;
    for (let j = 0; j < width; j++) {
      const sum = tapGradient(dy + at, x + at, starts, tokens, stride, j, lanes);
      const tap = dw + (<usize>(c * width + width - 1 - j) << 2);
      const next = <usize>width << 2;
      store<f32>(tap, f32x4.extract_lane(sum, 0));
      if (lanes > 1) store<f32>(tap + next, f32x4.extract_lane(sum, 1));
      if (lanes > 2) store<f32>(tap + 2 * next, f32x4.extract_lane(sum, 2));
      if (lanes > 3) store<f32>(tap + 3 * next, f32x4.extract_lane(sum, 3));
    }
  }
}

/** A position in a cache of `size` rows with room for `count` from there. */
// @ts-ignore: decorator
@inline
function positionOf(positions: usize, text: i32, size: i32, count: i32): i32 {
  return max(0, min(load<i32>(positions + (<usize>text << 2)), size - count));
}

/** New rows enter the cache of their text (phase 0) and are convolved with what lies before them there (phase 1). */
function cachedConvolution(phase: i32, tokens: i32, channels: i32, width: i32): void {
  const x = pointer(0), from = pointer(2), cache = pointer(3), starts = pointer(4), positions = pointer(5), bias = pointer(6);
  const y = pointer(7), taps = pointer(8);
  const size = int(4), texts = int(5);
  const perText = tokens / texts;
  const stride = <usize>channels << 2;
  if (phase == 0) {
    turn(pointer(1), taps, channels, width);
    const bytes = <usize>size * stride;
    const end = partEnd(texts, 1);
    for (let text = partStart(texts, 1); text < end; text++) {
      const slab = <usize>text * bytes;
      if (from != cache) memory.copy(cache + slab, from + slab, bytes);
      const place = positionOf(positions, text, size, perText);
      memory.copy(cache + slab + <usize>place * stride, x + <usize>(text * perText) * stride, <usize>perText * stride);
    }
    return;
  }
  const end = partEnd(tokens, 1);
  for (let i = partStart(tokens, 1); i < end; i++) {
    const text = i / perText;
    const place = positionOf(positions, text, size, perText) + i % perText;
    const reach = min(min(width - 1, place), place - load<i32>(starts + (<usize>i << 2)));
    convolve(cache + <usize>(text * size + place) * stride, taps, bias, y + <usize>i * stride, channels, reach);
  }
}

/**
 * Commands, of which phase 0 turns the filters into `taps` [width, channels]:
 * - CausalConv: x [tokens, channels], weight [channels, 1, width], starts i32[tokens], bias [channels] or null, y, taps; phase,
 *   tokens, channels, width
 * - CausalConvGrad: dy, x, weight, starts, dx or null, dw or null, taps; the same scalars. Phase 1 makes dx, phase 2 dw.
 * - CachedConv: x, weight, old cache [texts * size, channels], new cache (may be the old one), starts, position i32[texts], bias or null,
 *   y, taps; the same scalars, size, texts. Of one text row i is at position + i, of as many texts as rows at position[i] of text i.
 */
export function convolutionCommand(opcode: u32): void {
  const phase = int(0), tokens = int(1), channels = int(2), width = int(3);
  const stride = <usize>channels << 2;
  if (opcode == Opcode.CachedConv) {
    cachedConvolution(phase, tokens, channels, width);
    return;
  }
  if (opcode == Opcode.CausalConv) {
    const x = pointer(0), starts = pointer(2), bias = pointer(3), y = pointer(4), taps = pointer(5);
    if (phase == 0) {
      turn(pointer(1), taps, channels, width);
      return;
    }
    const end = partEnd(tokens, 1);
    for (let t = partStart(tokens, 1); t < end; t++) {
      const at = <usize>t * stride;
      convolve(x + at, taps, bias, y + at, channels, min(width - 1, t - load<i32>(starts + (<usize>t << 2))));
    }
    return;
  }
  if (opcode != Opcode.CausalConvGrad) unreachable();
  const dy = pointer(0), x = pointer(1), starts = pointer(3), dx = pointer(4), dw = pointer(5), taps = pointer(6);
  if (phase == 0) turn(pointer(2), taps, channels, width);
  else if (phase == 1) {
    const end = partEnd(tokens, 1);
    for (let row = partStart(tokens, 1); row < end; row++) inputGradient(dy, starts, taps, dx, row, tokens, channels, width);
  } else filterGradient(dy, x, starts, dw, tokens, channels, width);
}
