import type { Part } from "./parts.ts";
import type { ToolCall } from "./tool-calls.ts";

/** The answers of OpenAI's API: https://platform.openai.com/docs/api-reference */
export interface Usage {
  readonly prompt_tokens: number;
  /** With the token or the text that ended the answer. */
  readonly completion_tokens: number;
  readonly total_tokens: number;
  /** The part of the prompt that was in the cache of keys and values. */
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

export type FinishReason = "stop" | "length" | "tool_calls";

/** The begin of all paths. */
export const BASE = "/v1";

/** Describes what is the same in an answer and all its pieces. */
export interface Head {
  readonly id: string;
  /** Unix time. */
  readonly created: number;
  readonly model: string;
}

/** How an endpoint writes its answers. */
export interface Endpoint {
  readonly path: string;
  readonly idPrefix: string;
  whole(head: Head, parts: readonly Part[], reason: FinishReason, usage: Usage): object;
  /** Returns what a stream begins with. */
  first(head: Head): object | null;
  /** @param calls before this piece */
  piece(head: Head, part: Part, calls: number): object;
  last(head: Head, reason: FinishReason): object;
  /** Returns what a stream ends with, if it was asked for. */
  usage(head: Head, usage: Usage): object;
}

const chunk = ({ id, created, model }: Head, choices: readonly object[]) => ({
  id,
  object: "chat.completion.chunk",
  created,
  model,
  choices,
});
const delta = (head: Head, change: object, reason: FinishReason | null) =>
  chunk(head, [{ index: 0, delta: change, logprobs: null, finish_reason: reason }]);

/** Reasoning has the name that vLLM, SGLang and DeepSeek's own API give it. */
const change = (part: Exclude<Part, { call: ToolCall }>) =>
  "text" in part ? { content: part.text } : { reasoning_content: part.reasoning };

const textOf = (parts: readonly Part[]): string => parts.map((part) => ("text" in part ? part.text : "")).join("");
export const callsOf = (parts: readonly Part[]): ToolCall[] => parts.flatMap((part) => ("call" in part ? [part.call] : []));

export const CHAT: Endpoint = {
  path: `${BASE}/chat/completions`,
  idPrefix: "chatcmpl-",
  whole: ({ id, created, model }, parts, reason, usage) => {
    const calls = callsOf(parts);
    const content = textOf(parts);
    const reasoning = parts.map((part) => ("reasoning" in part ? part.reasoning : "")).join("");
    const message = {
      role: "assistant",
      content: content === "" && calls.length > 0 ? null : content,
      refusal: null,
      ...(reasoning === "" ? {} : { reasoning_content: reasoning }),
      ...(calls.length > 0 ? { tool_calls: calls } : {}),
    };
    const choices = [{ index: 0, message, logprobs: null, finish_reason: reason }];
    return { id, object: "chat.completion", created, model, choices, usage };
  },
  first: (head) => delta(head, { role: "assistant", content: "" }, null),
  piece: (head, part, calls) =>
    delta(head, "call" in part ? { tool_calls: [{ index: calls, ...part.call }] } : change(part), null),
  last: (head, reason) => delta(head, {}, reason),
  usage: (head, usage) => ({ ...chunk(head, []), usage }),
};

const text = ({ id, created, model }: Head, choices: readonly object[]) => ({
  id,
  object: "text_completion",
  created,
  model,
  choices,
});
const choice = (piece: string, reason: FinishReason | null) => ({
  index: 0,
  text: piece,
  logprobs: null,
  finish_reason: reason,
});

export const TEXT: Endpoint = {
  path: `${BASE}/completions`,
  idPrefix: "cmpl-",
  whole: (head, parts, reason, usage) => ({ ...text(head, [choice(textOf(parts), reason)]), usage }),
  first: () => null,
  piece: (head, part) => text(head, [choice(textOf([part]), null)]),
  last: (head, reason) => text(head, [choice("", reason)]),
  usage: (head, usage) => ({ ...text(head, []), usage }),
};

/** An event of a stream: https://html.spec.whatwg.org/multipage/server-sent-events.html */
export const serverSent = (data: object | "[DONE]"): string =>
  `data: ${typeof data === "string" ? data : JSON.stringify(data)}\n\n`;
