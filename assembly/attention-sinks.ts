/**
 * Sinks: a number s for each head that takes part in the softmax as the score of a key without a value. With l the log sum exp of a token's scores
 * and l' = log(e^l + e^s), attention with the sink is that without it times e^(l - l').
 */
import { int, partEnd, partStart, pointer } from "./command";
import { loadSome, storeSome } from "./lanes";

/** x[n] *= factor */
function scaleRow(x: usize, factor: f32, n: i32): void {
  const scale = f32x4.splat(factor);
  const end = x + (<usize>(n & ~3) << 2);
  for (; x < end; x += 16) v128.store(x, f32x4.mul(v128.load(x), scale));
  const rest = n & 3;
  if (rest) storeSome(x, f32x4.mul(loadSome(x, rest), scale), rest);
}

/** AttentionSinks: out [tokens, heads * dim], lse [tokens, heads], both overwritten, sinks [heads]; tokens, heads, dim. */
export function attentionSinks(): void {
  const tokens = int(0), heads = int(1), dim = int(2);
  const end = partEnd(tokens * heads, 16);
  for (let i = partStart(tokens * heads, 16); i < end; i++) {
    const at = pointer(1) + (<usize>i << 2);
    const l = load<f32>(at), s = load<f32>(pointer(2) + (<usize>(i % heads) << 2));
    const top = max(l, s);
    const own = Mathf.exp(l - top), sum = own + Mathf.exp(s - top);
    scaleRow(pointer(0) + (<usize>(i * dim) << 2), own / sum, dim);
    store<f32>(at, top + Mathf.log(sum));
  }
}

/**
 * AttentionSinksGrad: out, dout [tokens, heads * dim], lse [tokens, heads], with the sinks in both, sinks, dsinks [heads]; tokens, heads, dim. Of each head
 * -sum e^(s - lse) (dout . out), over the tokens in their order.
 */
export function attentionSinksGrad(): void {
  const tokens = int(0), heads = int(1), dim = int(2);
  const end = partEnd(heads, 1);
  for (let head = partStart(heads, 1); head < end; head++) {
    const s = load<f32>(pointer(3) + (<usize>head << 2));
    let sum: f64 = 0;
    for (let t = 0; t < tokens; t++) {
      const row = t * heads + head;
      const at = <usize>(row * dim) << 2;
      let product: f64 = 0;
      for (let i = 0; i < dim; i++) product += <f64>load<f32>(pointer(0) + at + (<usize>i << 2)) * <f64>load<f32>(pointer(1) + at + (<usize>i << 2));
      sum -= <f64>Mathf.exp(s - load<f32>(pointer(2) + (<usize>row << 2))) * product;
    }
    store<f32>(pointer(4) + (<usize>head << 2), <f32>sum);
  }
}
