/** Computes the next tokens of several answers in rounds: together, where that is possible, so that weights are read once. */
export interface Rounds<Model> {
  /** The logits behind the text of a cache, which has grown by a token, when the next round is over. */
  next(model: Model, index: number, ids: readonly number[]): Promise<Float32Array>;
}

/** A text of a round: the model that it is a text of, and its tokens. */
export interface RoundText<Model> {
  readonly model: Model;
  readonly ids: readonly number[];
}

/** Texts of a round, by the number of their cache, that are computed in one go. */
export interface Group<Model> {
  readonly texts: ReadonlyMap<number, RoundText<Model>>;
  /** Returns the logits of each. */
  feed(): ReadonlyMap<number, Float32Array>;
}

interface Waiting<Model> extends RoundText<Model> {
  resolve(logits: Float32Array): void;
  reject(error: unknown): void;
}

/**
 * A round begins when the event loop has let everything else in that is ready: by then all answers whose tokens were made in the last
 * round wait for the next one. Whoever comes later, or has a prompt to read first, is in the round behind it.
 * @param groupsOf divides a round; a group that fails takes no other with it
 */
export function createRounds<Model>(
  groupsOf: (texts: ReadonlyMap<number, RoundText<Model>>) => readonly Group<Model>[],
): Rounds<Model> {
  let waiting = new Map<number, Waiting<Model>>();
  const run = () => {
    const round = waiting;
    waiting = new Map();
    for (const { texts, feed } of groupsOf(round)) {
      try {
        const logits = feed();
        for (const index of texts.keys()) round.get(index)!.resolve(logits.get(index)!);
      } catch (error) {
        for (const index of texts.keys()) round.get(index)!.reject(error);
      }
    }
  };
  return {
    next(model, index, ids) {
      if (waiting.size === 0) setImmediate(run);
      const { promise, resolve, reject } = Promise.withResolvers<Float32Array>();
      waiting.set(index, { model, ids, resolve, reject });
      return promise;
    },
  };
}
