/**
 * Rotary positions (Su et al. 2021, https://arxiv.org/abs/2104.09864): feature i of a head is paired with feature i + rotary / 2,
 * or feature 2i with its neighbour.
 */
import { int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";

/** The first `2 half` features at `from`, each with its neighbour. */
function turnNeighbours(from: usize, to: usize, c: usize, s: usize, half: i32, sign: f32): void {
  const signs = f32x4(-sign, sign, -sign, sign);
  let i: i32 = 0;
  for (; i + 2 <= half; i += 2, from += 16, to += 16, c += 8, s += 8) {
    const x = v128.load(from);
    const cosine = v128.load64_zero(c), sine = v128.load64_zero(s);
    const turned = f32x4.mul(f32x4.mul(signs, v128.shuffle<f32>(sine, sine, 0, 0, 1, 1)), v128.shuffle<f32>(x, x, 1, 0, 3, 2));
    v128.store(to, f32x4.add(f32x4.mul(x, v128.shuffle<f32>(cosine, cosine, 0, 0, 1, 1)), turned));
  }
  if (i < half) {
    const a = load<f32>(from), b = load<f32>(from, 4);
    const cosine = load<f32>(c), sine = sign * load<f32>(s);
    store<f32>(to, a * cosine - b * sine);
    store<f32>(to, b * cosine + a * sine, 4);
  }
}

/**
 * `Rope`: pointers x [tokens, heads * dim], cos and sin [tokens, rotary / 2], y like x (may be x); scalars tokens,
 * heads, dim, rotary, inverse, neighbours. The first `rotary` features of each head are rotated, the others copied:
 *
 *     y[i] = x[i] cos - x[i + r/2] sin,  y[i + r/2] = x[i + r/2] cos + x[i] sin
 *
 * `inverse` 1 applies the transposed matrix (sin negated), `neighbours` 1 pairs x[2i] with x[2i + 1].
 */
export function ropeCommand(_opcode: u32): void {
  const x = pointer(0), cos = pointer(1), sin = pointer(2), y = pointer(3);
  const tokens = int(0), heads = int(1), dim = int(2), rotary = int(3);
  const sign = f32x4.splat(int(4) ? -1 : 1);
  const neighbours = int(5) == 1;
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
      let i: i32 = neighbours ? half : 0;
      if (neighbours) turnNeighbours(from, to, c, s, half, int(4) ? -1 : 1);
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
