import type { Message } from "./messages.ts";
import type { DataRecord } from "./values.ts";

/** A training example, whatever it was written as. */
export type Example =
  | ChatExample
  | CompletionExample
  | TextExample
  | PreferenceExample
  | UnpairedExample
  | LabelledExample
  | ContrastExample
  | RankedExample
  | ScoredExample
  | ToldExample;

export interface ChatExample {
  readonly kind: "chat";
  readonly messages: readonly Message[];
  readonly tools: readonly unknown[] | null;
  /** Variables of the chat template, such as `enable_thinking`. */
  readonly args?: DataRecord | null;
  /** Place of the record (see `placeIn`), for errors. */
  readonly where: string;
}

export interface CompletionExample {
  readonly kind: "completion";
  readonly prompt: string;
  readonly completion: string;
  readonly where: string;
}

export interface TextExample {
  readonly kind: "text";
  readonly text: string;
  readonly where: string;
}

/** Two answers to the same prompt. */
export interface PreferenceExample {
  readonly kind: "preference";
  readonly chosen: ChatExample | CompletionExample;
  readonly rejected: ChatExample | CompletionExample;
  readonly where: string;
}

/** An answer that is wanted, or is not. */
export interface UnpairedExample {
  readonly kind: "unpaired";
  readonly answer: ChatExample | CompletionExample;
  readonly desirable: boolean;
  readonly where: string;
}

/** A class, several classes at once, or a number. */
export type Label = string | number | readonly (string | number)[];

/** A text or a conversation, and what it is to be judged as. */
export interface LabelledExample {
  readonly kind: "labelled";
  readonly content: TextExample | ChatExample;
  /** A second text beside the first; null: there is none. */
  readonly pair: string | null;
  readonly label: Label;
  readonly where: string;
}

/** A text, one or several that match it, and some that look as if they did. */
export interface ContrastExample {
  readonly kind: "contrast";
  readonly anchor: string;
  readonly positives: readonly string[];
  readonly negatives: readonly string[];
  readonly where: string;
}

/** A query, and texts with how well each answers it. */
export interface RankedExample {
  readonly kind: "ranked";
  readonly query: string;
  readonly texts: readonly string[];
  /** A number for each text: 0 where it does not answer the query, 1 or more where it does. */
  readonly labels: readonly number[];
  readonly where: string;
}

/** Two texts, and how near they are. */
export interface ScoredExample {
  readonly kind: "scored";
  readonly first: string;
  readonly second: string;
  readonly score: number;
  readonly where: string;
}

/** An answer as the tokens that a model wrote, with those that it found likeliest in the place of each. */
export interface ToldExample {
  readonly kind: "told";
  readonly answer: ChatExample | CompletionExample;
  /** The hash by `vocabularyOf` of the tokenizer whose ids these are. */
  readonly tokenizer: string;
  readonly prompt: Int32Array;
  /** With the one that ended the answer. */
  readonly tokens: Int32Array;
  /** Tokens that are told of each place. */
  readonly top: number;
  /** By falling log-probability, one place behind the other. */
  readonly ids: Int32Array;
  readonly logProbabilities: Float32Array;
  readonly where: string;
}

/** The keys of each kind of example, for messages. */
export const KIND_KEYS: Readonly<Record<Example["kind"], string>> = {
  chat: '{"messages"}',
  completion: '{"prompt", "completion"}',
  text: '{"text"}',
  preference: '{"prompt", "chosen", "rejected"}',
  unpaired: '{"prompt", "completion", "label"}',
  labelled: '{"text", "label"}',
  contrast: '{"anchor", "positive"}',
  ranked: '{"query", "text", "label"}',
  scored: '{"sentence1", "sentence2", "score"}',
  told: '{"messages", "logprobs"}',
};
