import type { Decoders } from "../../generate/decoders.ts";

/** Computes the next tokens of several answers in rounds: those of one model together, of which the weights are read once. */
export interface Rounds {
  /** The logits behind a text that has grown by a token, when the next round is over. */
  next(decoders: Decoders, index: number, ids: readonly number[]): Promise<Float32Array>;
}

interface Waiting {
  readonly ids: readonly number[];
  resolve(logits: Float32Array): void;
  reject(error: unknown): void;
}

/**
 * A round begins when the event loop has let everything else in that is ready: by then all answers whose tokens were made in the last
 * round wait for the next one. Whoever comes later, or has a prompt to read first, is in the round behind it.
 */
export function createRounds(): Rounds {
  let waiting = new Map<Decoders, Map<number, Waiting>>();
  const run = () => {
    const round = waiting;
    waiting = new Map();
    for (const [decoders, texts] of round) {
      try {
        const logits = decoders.feed(new Map([...texts].map(([index, { ids }]) => [index, ids])));
        for (const [index, { resolve }] of texts) resolve(logits.get(index)!);
      } catch (error) {
        for (const { reject } of texts.values()) reject(error);
      }
    }
  };
  return {
    next(decoders, index, ids) {
      if (waiting.size === 0) setImmediate(run);
      const { promise, resolve, reject } = Promise.withResolvers<Float32Array>();
      const texts = waiting.get(decoders) ?? new Map<number, Waiting>();
      waiting.set(decoders, texts.set(index, { ids, resolve, reject }));
      return promise;
    },
  };
}
