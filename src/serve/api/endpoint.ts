import type { Part } from "../parts.ts";
import type { ApiError } from "../http/errors.ts";

/** The begin of all paths. */
export const BASE = "/v1";

/** Describes what an answer took. */
export interface Usage {
  readonly promptTokens: number;
  /** The part of the prompt that was in the cache of keys and values. */
  readonly cachedTokens: number;
  /** Tokens of all choices, with the token or the text that ended each. */
  readonly answerTokens: number;
  /** Those of them that were reasoning; null: none is looked for. */
  readonly reasoningTokens: number | null;
}

export type FinishReason = "stop" | "length" | "tool_calls";

/** A token, and how likely the model found it. */
export interface TokenView {
  readonly token: string;
  readonly logprob: number;
  /** The bytes of the text that it stands for; null where it stands for none by itself. */
  readonly bytes: readonly number[] | null;
}

/** A token of an answer, and the likeliest in its place. */
export interface LogprobView extends TokenView {
  readonly top_logprobs: readonly TokenView[];
}

/** A token, and the place at which it begins in what the model said. */
export interface PlacedToken {
  readonly view: LogprobView;
  readonly at: number;
}

/** A piece of an answer, and the tokens of its text; none where nobody asked for their log-probabilities. */
export interface Piece {
  readonly part: Part;
  readonly tokens: readonly PlacedToken[];
}

/** Settings of a request that decide how its answer is written. */
export interface Wishes {
  /** A stream ends with what the answer took. */
  readonly includeUsage: boolean;
  /** Log-probabilities are asked for. */
  readonly logprobs: boolean;
}

/** One of the answers to a request, as a whole. */
export interface Choice {
  readonly pieces: readonly Piece[];
  readonly reason: FinishReason;
}

/** Describes what is the same in an answer and all its pieces. */
export interface Head {
  readonly id: string;
  /** Unix time. */
  readonly created: number;
  readonly model: string;
}

/** How an endpoint writes its answers. */
export interface Endpoint {
  readonly idPrefix: string;
  whole(head: Head, choices: readonly Choice[], usage: Usage): object;
  /** Returns what writes the events of one answer. */
  stream(head: Head): AnswerStream;
}

/** Writes the events of a stream, in the order of the calls. Choices are told apart by their number. */
export interface AnswerStream {
  begin(): string;
  piece(choice: number, piece: Piece): string;
  finish(choice: number, reason: FinishReason): string;
  end(usage: Usage): string;
  /** The end of an answer that is not finished. */
  fail(error: ApiError): string;
}

/** An event of a stream: https://html.spec.whatwg.org/multipage/server-sent-events.html */
export const serverSent = (data: object | "[DONE]"): string =>
  `data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`;
