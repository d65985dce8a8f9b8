import type { Engine } from "./engine.ts";

/**
 * Greedy continuation of a prompt by full forward passes (no cache): short samples before and after training. Each
 * pass takes the smallest of `lengths` (numbers of tokens the engine can give logits for) that fits.
 */
export function generateGreedy(
  engine: Engine,
  prompt: readonly number[],
  limit: number,
  lengths: readonly number[],
  stop: ReadonlySet<number>,
): number[] {
  const ids = [...prompt];
  const longest = Math.max(...lengths);
  while (ids.length - prompt.length < limit && ids.length < longest) {
    const tokens = lengths.toSorted((a, b) => a - b).find((length) => length >= ids.length)!;
    const logits = engine.logits(paddedBatch(ids, tokens), Int32Array.of(ids.length - 1));
    const next = argmax(logits);
    if (stop.has(next)) break;
    ids.push(next);
  }
  return ids.slice(prompt.length);
}

function paddedBatch(ids: readonly number[], tokens: number) {
  const batch = {
    ids: new Int32Array(tokens),
    labels: new Int32Array(tokens).fill(-100),
    starts: Int32Array.from({ length: tokens }, (_, t) => (t < ids.length ? 0 : t)),
    positions: Int32Array.from({ length: tokens }, (_, t) => (t < ids.length ? t : 0)),
  };
  batch.ids.set(ids);
  return batch;
}

function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}
