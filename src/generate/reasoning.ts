import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { overlap } from "./stop-text.ts";
import { createTextStream } from "./text-stream.ts";

/** A piece of what a model says: what it thinks before it answers, or its answer. Never empty. */
export type Said = { readonly reasoning: string } | { readonly text: string };

/** How reasoning comes before an answer; `open`: the prompt ends within it. */
export type ReasoningPlace = "none" | "looked for" | "open";

/** Separates reasoning from the answer in a text that comes in pieces. */
export interface ReasoningReader {
  push(piece: string): Said[];
  /** Returns what was held back. */
  end(): Said[];
}

const OPEN = "<think>";
const CLOSE = "</think>";

/** Tells whether a model's template has reasoning written in the form that `createReasoningReader` reads. */
export function writesReasoning(template: string): boolean {
  return template.includes(CLOSE);
}

/** Tells whether a prompt ends within the reasoning, as DeepSeek-R1's does: the model's first words belong to it. */
export function endsInReasoning(tokenizer: Tokenizer, prompt: ArrayLike<number>): boolean {
  return tokenizer.decode(Array.from(prompt).slice(-8)).trimEnd().endsWith(OPEN);
}

/** The marks of reasoning, where they are special tokens: they are to be written, as others are not. */
export function reasoningTokens({ specialTokens }: Pick<Tokenizer, "specialTokens">): ReadonlySet<number> {
  return new Set([OPEN, CLOSE].flatMap((token) => specialTokens.get(token) ?? []));
}

/** The marks of reasoning, where each is a token. */
export function reasoningMarks({ addedTokens }: Pick<Tokenizer, "addedTokens">): {
  readonly open: number | null;
  readonly close: number | null;
} {
  return { open: addedTokens.get(OPEN) ?? null, close: addedTokens.get(CLOSE) ?? null };
}

/**
 * Reads `<think>...</think>` at the beginning of a text, as DeepSeek-R1, Qwen3 and many others write it. White space at the ends of the
 * reasoning and before the answer belongs to neither. Reasoning that does not end is all that there is.
 * @param isOpen whether the text begins within the reasoning
 */
export function createReasoningReader(isOpen: boolean): ReasoningReader {
  let held = "";
  let state: "before" | "inside" | "behind" | "answer" = isOpen ? "inside" : "before";
  /** Nothing of the reasoning has been given out. */
  let isFirst = true;
  const reasoning = (text: string): Said[] => {
    if (text === "") return [];
    isFirst = false;
    return [{ reasoning: text }];
  };
  const take = (): Said[] => {
    if (state === "before") {
      const begin = held.trimStart();
      if (OPEN.startsWith(begin)) {
        if (begin !== OPEN) return [];
      } else if (!begin.startsWith(OPEN)) {
        state = "answer";
        return take();
      }
      held = begin.slice(OPEN.length);
      state = "inside";
    }
    if (state === "inside") {
      if (isFirst) held = held.trimStart();
      const end = held.indexOf(CLOSE);
      if (end >= 0) {
        const said = reasoning(held.slice(0, end).trimEnd());
        held = held.slice(end + CLOSE.length);
        state = "behind";
        return [...said, ...take()];
      }
      // The closing mark may begin here, and white space before it is none of the reasoning.
      const certain = held.slice(0, held.length - overlap(held, CLOSE)).trimEnd();
      held = held.slice(certain.length);
      return reasoning(certain);
    }
    if (state === "behind") {
      held = held.trimStart();
      if (held === "") return [];
      state = "answer";
    }
    const text = held;
    held = "";
    return text === "" ? [] : [{ text }];
  };
  return {
    push(piece) {
      held += piece;
      return take();
    },
    end() {
      const rest = held;
      held = "";
      if (state === "inside") return reasoning(rest.trimEnd());
      return rest === "" || state === "behind" ? [] : [{ text: rest }];
    },
  };
}

/** An answer in its two parts. */
export interface SeparateAnswer {
  readonly text: string;
  /** null: there is none. */
  readonly reasoning: string | null;
}

/** A whole answer in its two parts. */
export function separateReasoning(answer: string, isOpen: boolean): SeparateAnswer {
  const reader = createReasoningReader(isOpen);
  const said = [...reader.push(answer), ...reader.end()];
  const reasoning = said.map((piece) => ("reasoning" in piece ? piece.reasoning : "")).join("");
  return {
    text: said.map((piece) => ("text" in piece ? piece.text : "")).join(""),
    reasoning: reasoning === "" ? null : reasoning,
  };
}

/** The text of tokens that a model has written, with the marks of its reasoning. */
export function answerText(tokenizer: Tokenizer, ids: readonly number[]): string {
  const kept = reasoningTokens(tokenizer);
  if (!ids.some((id) => kept.has(id))) return ids.length === 0 ? "" : tokenizer.decode(ids, { skipSpecial: true });
  const stream = createTextStream(tokenizer, kept);
  return ids.map((id) => stream.push(id)).join("") + stream.end();
}
