/**
 * Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864) in the split-halves order of Hugging Face: feature
 * i of a head is paired with feature i + rotary / 2.
 */
import { int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";

/**
 * `Rope`: pointers x [tokens, heads * dim], cos and sin [tokens, rotary / 2], y like x (may be x); scalars tokens,
 * heads, dim, rotary, inverse. The first `rotary` features of each head are rotated, the others copied:
 *
 *     y[i] = x[i] cos - x[i + r/2] sin,  y[i + r/2] = x[i + r/2] cos + x[i] sin
 *
 * `inverse` 1 applies the transposed matrix (sin negated).
 */
export function ropeCommand(_opcode: u32): void {
  const x = pointer(0), cos = pointer(1), sin = pointer(2), y = pointer(3);
  const tokens = int(0), heads = int(1), dim = int(2), rotary = int(3);
  const sign = f32x4.splat(int(4) ? -1 : 1);
  const half = rotary >> 1;
  const halfBytes = <usize>half << 2;
  const headBytes = <usize>dim << 2;
  const end = partEnd(tokens, 1);
  for (let token = partStart(tokens, 1); token < end; token++) {
    const c = cos + <usize>token * halfBytes;
    const s = sin + <usize>token * halfBytes;
    for (let head = 0; head < heads; head++) {
      const offset = (<usize>token * heads + head) * headBytes;
      const from = x + offset, to = y + offset;
      let i: i32 = 0;
      for (; i + 4 <= half; i += 4) {
        const at = <usize>i << 2;
        const cosine = v128.load(c + at), sine = f32x4.mul(sign, v128.load(s + at));
        const a = v128.load(from + at), b = v128.load(from + halfBytes + at);
        v128.store(to + at, f32x4.sub(f32x4.mul(a, cosine), f32x4.mul(b, sine)));
        v128.store(to + halfBytes + at, f32x4.add(f32x4.mul(b, cosine), f32x4.mul(a, sine)));
      }
      if (i < half) {
        const at = <usize>i << 2, count = half - i;
        const cosine = loadSome(c + at, count), sine = f32x4.mul(sign, loadSome(s + at, count));
        const a = loadSome(from + at, count), b = loadSome(from + halfBytes + at, count);
        storeSome(to + at, f32x4.sub(f32x4.mul(a, cosine), f32x4.mul(b, sine)), count);
        storeSome(to + halfBytes + at, f32x4.add(f32x4.mul(b, cosine), f32x4.mul(a, sine)), count);
      }
      if (to != from && rotary < dim) memory.copy(to + 2 * halfBytes, from + 2 * halfBytes, headBytes - 2 * halfBytes);
    }
  }
}
