/**
 * Causal depthwise convolution, rows of f32: each channel has a filter of `width` taps of its own, over the rows of a text up
 * to the one in question. Filters are stored as in PyTorch, [channels, 1, width], the last tap for the row itself. A first phase turns
 * them into rows by distance, so that everything else goes along the channels.
 */
import { int, isKept, partEnd, partStart, pointer } from "./command";
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

/** How many rows see a row, itself included: at most `width`, one after another, since starts never decrease. */
function seersOf(starts: usize, row: i32, tokens: i32, width: i32): i32 {
  const most = min(width, tokens - row);
  let count = 1;
  while (count < most && load<i32>(starts + (<usize>(row + count) << 2)) <= row) count++;
  return count;
}

/** One row: dx[s] = sum over j < count of taps[j] dy[s + j]; `dy` is its own row. */
function inputGradient(dy: usize, taps: usize, dx: usize, channels: i32, count: i32): void {
  const stride = <usize>channels << 2;
  const whole = <usize>(channels & ~3) << 2;
  for (let at: usize = 0; at < whole; at += 16) {
    let sum = f32x4.splat(0);
    let tap = taps + at, from = dy + at;
    for (let j = 0; j < count; j++, tap += stride, from += stride) {
      sum = f32x4.add(sum, f32x4.mul(v128.load(tap), v128.load(from)));
    }
    v128.store(dx + at, sum);
  }
  const rest = channels & 3;
  if (rest) {
    let sum = f32x4.splat(0);
    let tap = taps + whole, from = dy + whole;
    for (let j = 0; j < count; j++, tap += stride, from += stride) {
      sum = f32x4.add(sum, f32x4.mul(loadSome(tap, rest), loadSome(from, rest)));
    }
    storeSome(dx + whole, sum, rest);
  }
}

/** sums[j] += dy x[-j] for j < count, of one row, whose `bytes` bytes are some of its channels; sums are `stride` bytes apart, as rows are. */
function addRow(dy: usize, x: usize, sums: usize, stride: usize, bytes: usize, count: i32): void {
  for (let j = 0; j < count; j++, x -= stride, sums += stride) {
    let at: usize = 0;
    for (; at + 16 <= bytes; at += 16) {
      v128.store(sums + at, f32x4.add(v128.load(sums + at), f32x4.mul(v128.load(dy + at), v128.load(x + at))));
    }
    const rest = <i32>(bytes - at) >> 2;
    if (rest) {
      const product = f32x4.mul(loadSome(dy + at, rest), loadSome(x + at, rest));
      storeSome(sums + at, f32x4.add(loadSome(sums + at, rest), product), rest);
    }
  }
}

/** The same of four rows that all see as far as the filter reaches: a fourth of the work on the sums. */
function addFourRows(dy: usize, x: usize, sums: usize, stride: usize, bytes: usize, width: i32): void {
  let at: usize = 0;
  for (; at + 16 <= bytes; at += 16) {
    const g0 = v128.load(dy + at), g1 = v128.load(dy + stride + at);
    const g2 = v128.load(dy + 2 * stride + at), g3 = v128.load(dy + 3 * stride + at);
    let v = x + at, to = sums + at;
    for (let j = 0; j < width; j++, v -= stride, to += stride) {
      const first = f32x4.add(f32x4.mul(g0, v128.load(v)), f32x4.mul(g1, v128.load(v + stride)));
      const second = f32x4.add(f32x4.mul(g2, v128.load(v + 2 * stride)), f32x4.mul(g3, v128.load(v + 3 * stride)));
      v128.store(to, f32x4.add(v128.load(to), f32x4.add(first, second)));
    }
  }
  if (at < bytes) {
    for (let row = 0; row < 4; row++, dy += stride, x += stride) addRow(dy + at, x + at, sums + at, stride, bytes - at, width);
  }
}

/** Gradients of the filters of this thread's channels; `sums` [2 width, channels]: of a block of rows, and of all of them. */
function filterGradient(dy: usize, x: usize, starts: usize, dw: usize, sums: usize, tokens: i32, channels: i32, width: i32): void {
  const stride = <usize>channels << 2;
  const begin = partStart(channels, 16), end = partEnd(channels, 16);
  const at = <usize>begin << 2, bytes = <usize>(end - begin) << 2;
  const all = sums + <usize>width * stride;
  for (let j = 0; j < width; j++) memory.fill(all + <usize>j * stride + at, 0, bytes);
  for (let from = 0; from < tokens; from += BLOCK) {
    const to = min(tokens, from + BLOCK);
    for (let j = 0; j < width; j++) memory.fill(sums + <usize>j * stride + at, 0, bytes);
    for (let t = from; t < to;) {
      const row = <usize>t * stride + at;
      // Starts never decrease, and rows of one start see ever further.
      const isFull = t + 4 <= to && load<i32>(starts + (<usize>(t + 3) << 2)) <= t - width + 1;
      if (isFull) addFourRows(dy + row, x + row, sums + at, stride, bytes, width);
      else addRow(dy + row, x + row, sums + at, stride, bytes, min(width, t + 1 - load<i32>(starts + (<usize>t << 2))));
      t += isFull ? 4 : 1;
    }
    for (let j = 0; j < width; j++) {
      const sum = sums + <usize>j * stride + at, total = all + <usize>j * stride + at;
      for (let i: usize = 0; i < bytes; i += 4) store<f32>(total + i, load<f32>(total + i) + load<f32>(sum + i));
    }
  }
  for (let c = begin; c < end; c++) {
    for (let j = 0; j < width; j++) {
      store<f32>(dw + (<usize>(c * width + width - 1 - j) << 2), load<f32>(all + (<usize>(j * channels + c) << 2)));
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
 * The last rows of each text and its new ones are joined (phase 0), convolved (phase 1), and the last rows of what is kept of them replace the old ones
 * (phase 2).
 */
function rollingConvolution(phase: i32, tokens: i32, channels: i32, width: i32): void {
  const x = pointer(0), starts = pointer(3), positions = pointer(4), y = pointer(5), next = pointer(6), taps = pointer(7), joined = pointer(8);
  const texts = int(4), room = <usize>int(5) << 2;
  const perText = tokens / texts, tail = width - 1;
  const stride = <usize>channels << 2;
  if (phase == 1) {
    const end = partEnd(tokens, 1);
    for (let i = partStart(tokens, 1); i < end; i++) {
      const text = i / perText;
      const before = load<i32>(positions + (<usize>(texts == 1 ? 0 : text) << 2)) + i % perText - load<i32>(starts + (<usize>i << 2));
      const newest = joined + <usize>(text * (tail + perText) + tail + i % perText) * stride;
      convolve(newest, taps, 0, y + <usize>i * stride, channels, max(0, min(tail, before)));
    }
    return;
  }
  if (phase == 0) turn(pointer(1), taps, channels, width);
  const end = partEnd(texts, 1), bytes = <usize>tail * stride;
  for (let text = partStart(texts, 1); text < end; text++) {
    const rows = joined + <usize>(text * (tail + perText)) * stride;
    if (phase == 0) {
      memory.copy(rows, pointer(2) + <usize>text * room, bytes);
      memory.copy(rows + bytes, x + <usize>(text * perText) * stride, <usize>perText * stride);
      continue;
    }
    const place = load<i32>(positions + (<usize>text << 2));
    let kept = 0;
    while (kept < perText && isKept(starts, text * perText + kept, place + kept)) kept++;
    memory.copy(next + <usize>text * room, rows + <usize>kept * stride, bytes);
    if (next != pointer(2)) memory.copy(next + <usize>text * room + bytes, pointer(2) + <usize>text * room + bytes, room - bytes);
  }
}

/**
 * Commands, of which phase 0 turns the filters into `taps` [width, channels]:
 * - CausalConv: x [tokens, channels], weight [channels, 1, width], starts i32[tokens], bias [channels] or null, y, taps; phase,
 *   tokens, channels, width
 * - CausalConvGrad: dy, x, weight, starts, dx or null, dw or null, taps (null without dx), sums [2 width, channels] (null without dw); the
 *   same scalars. Phase 1 makes dx, phase 2 dw.
 * - CachedConv: x, weight, old cache [texts * size, channels], new cache (may be the old one), starts, position i32[texts], bias or null,
 *   y, taps; the same scalars, size, texts. Of one text row i is at position + i, of as many texts as rows at position[i] of text i.
 * - RollingConv: x, weight, old tail [texts, room], of which a text has (width - 1) * channels, starts, position i32[texts], y, new tail (may be the old one), taps, scratch
 *   [texts * (width - 1) + tokens, channels]; the same scalars, texts, room
 */
export function convolutionCommand(opcode: u32): void {
  const phase = int(0), tokens = int(1), channels = int(2), width = int(3);
  const stride = <usize>channels << 2;
  if (opcode == Opcode.CachedConv) {
    cachedConvolution(phase, tokens, channels, width);
    return;
  }
  if (opcode == Opcode.RollingConv) {
    rollingConvolution(phase, tokens, channels, width);
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
  const dy = pointer(0), starts = pointer(3), dx = pointer(4), taps = pointer(6);
  if (phase == 0) turn(pointer(2), taps, channels, width);
  else if (phase == 1) {
    const end = partEnd(tokens, 1);
    for (let row = partStart(tokens, 1); row < end; row++) {
      const at = <usize>row * stride;
      inputGradient(dy + at, taps, dx + at, channels, seersOf(starts, row, tokens, width));
    }
  } else filterGradient(dy, pointer(1), starts, pointer(5), pointer(7), tokens, channels, width);
}
