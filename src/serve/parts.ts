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
  const read = (said: readonly Said[]): Part[] =>
    said.flatMap((piece): readonly Part[] => ("text" in piece ? texts.push(piece.text) : [piece]));
  return {
    push: (piece) => read(thoughts.push(piece)),
    end: () => [...read(thoughts.end()), ...texts.end()],
  };
}
