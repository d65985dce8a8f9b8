import { createReasoningReader, type Said } from "../generate/reasoning.ts";
import type { AnswerOrder } from "./answer-orders.ts";
import { createCallReader, createTextReader, type PartReader, type TextOrCall } from "./tool-calls.ts";

/** A piece of an answer. */
export type Part = TextOrCall | { readonly reasoning: string };

/** Finds reasoning and calls in an answer that comes in pieces, as far as the order looks for them. No part has an empty text. */
export function createPartReader({ calls, reasoning }: Pick<AnswerOrder, "calls" | "reasoning">): {
  push(piece: string): Part[];
  /** Returns what was held back. */
  end(): Part[];
} {
  const texts: PartReader = calls ? createCallReader() : createTextReader();
  if (reasoning === "none") return texts;
  const thoughts = createReasoningReader(reasoning === "open");
  let pushed = 0;
  /** The place at which reasoning ends, from which on all is text. */
  let begin: number | null = null;
  const shift = (part: TextOrCall): Part => ("text" in part ? { ...part, from: part.from + begin! } : part);
  const read = (said: readonly Said[]): Part[] =>
    said.flatMap((piece): readonly Part[] => {
      if (!("text" in piece)) return [piece];
      // Nothing of a text that has begun is held back.
      begin ??= pushed - piece.text.length;
      return texts.push(piece.text).map(shift);
    });
  return {
    push(piece) {
      pushed += piece.length;
      return read(thoughts.push(piece));
    },
    end: () => [...read(thoughts.end()), ...texts.end().map(shift)],
  };
}
