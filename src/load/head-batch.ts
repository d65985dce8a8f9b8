import type { MicroBatch, TokenBatch } from "../data/samples/batch.ts";
import type { ModelConfig } from "../models/config.ts";
import type { Head } from "../objectives/objective.ts";

/** A micro-batch as a head is to see it: with its labels, or the tokens that stand for its texts; weights of its own it has none. */
export function headBatch(
  head: Head,
  batch: MicroBatch,
  { textHead, encoder }: Pick<ModelConfig, "textHead" | "encoder">,
): TokenBatch {
  switch (head.kind) {
    case "loss":
      return batch;
    case "token-losses":
      return { ...batch, labels: head.labels(batch), weights: null };
    case "logits":
      return { ...batch, weights: null, ...textsOf(batch, { textHead, encoder }) };
  }
}

function textsOf(
  batch: Pick<MicroBatch, "ids" | "spans">,
  { textHead, encoder }: Pick<ModelConfig, "textHead" | "encoder">,
): Pick<TokenBatch, "rows" | "means"> {
  const { padId, pooling = encoder && !encoder.hasDecoderBody ? "cls" : "last" } = textHead!;
  switch (pooling) {
    case "mean":
      return { means: batch.spans.flat() };
    case "cls":
      return { rows: firstTokens(batch) };
    case "last":
      return { rows: lastTokens(batch, padId) };
  }
}

const firstTokens = ({ spans }: Pick<MicroBatch, "spans">): Int32Array => Int32Array.from(spans.flat(), ({ from }) => from);

/**
 * The last token of each text that is not padding by its id, as Transformers finds it: it is the one before where a text ends with a token that is
 * used for padding too. A text of nothing else is read at its first token.
 */
export function lastTokens({ ids, spans }: Pick<MicroBatch, "ids" | "spans">, padId: number | null): Int32Array {
  return Int32Array.from(spans.flat(), ({ from, to }) => {
    const at = padId === null ? to - from - 1 : ids.subarray(from, to).findLastIndex((id) => id !== padId);
    return from + Math.max(0, at);
  });
}
