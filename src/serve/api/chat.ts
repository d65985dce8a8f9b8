import type { ToolCall } from "../tool-calls.ts";
import {
  BASE,
  type Endpoint,
  type FinishReason,
  type Head,
  type Piece,
  type PlacedToken,
  serverSent,
  type Usage,
  type Wishes,
} from "./endpoint.ts";

export const CHAT_PATH = `${BASE}/chat/completions`;

/** Usage as both older endpoints have it. */
export function usageOf({ promptTokens, cachedTokens, answerTokens, reasoningTokens }: Usage): object {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: answerTokens,
    total_tokens: promptTokens + answerTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    ...(reasoningTokens === null ? {} : { completion_tokens_details: { reasoning_tokens: reasoningTokens } }),
  };
}

export const textOf = (pieces: readonly Piece[]): string => pieces.map(({ part }) => ("text" in part ? part.text : "")).join("");
export const reasoningOf = (pieces: readonly Piece[]): string =>
  pieces.map(({ part }) => ("reasoning" in part ? part.reasoning : "")).join("");
export const callsOf = (pieces: readonly Piece[]): ToolCall[] =>
  pieces.flatMap(({ part }) => ("call" in part ? [part.call] : []));

/** Reasoning has the name that vLLM, SGLang and DeepSeek's own API give it. */
function messageOf(pieces: readonly Piece[]): object {
  const calls = callsOf(pieces);
  const content = textOf(pieces);
  const reasoning = reasoningOf(pieces);
  return {
    role: "assistant",
    content: content === "" && calls.length > 0 ? null : content,
    refusal: null,
    ...(reasoning === "" ? {} : { reasoning_content: reasoning }),
    ...(calls.length > 0 ? { tool_calls: calls } : {}),
  };
}

const logprobsOf = (tokens: readonly PlacedToken[]) => ({ content: tokens.map(({ view }) => view), refusal: null });

/** https://platform.openai.com/docs/api-reference/chat */
export function chatEndpoint({ includeUsage, logprobs }: Wishes): Endpoint {
  return {
    idPrefix: "chatcmpl-",
    whole: ({ id, created, model }, choices, usage) => ({
      id,
      object: "chat.completion",
      created,
      model,
      choices: choices.map(({ pieces, reason }, index) => ({
        index,
        message: messageOf(pieces),
        logprobs: logprobs ? logprobsOf(pieces.flatMap(({ tokens }) => tokens)) : null,
        finish_reason: reason,
      })),
      usage: usageOf(usage),
    }),
    stream(head) {
      /** The number of calls of each choice. */
      const calls: number[] = [];
      const begun = new Set<number>();
      const delta = (index: number, change: object, reason: FinishReason | null, tokens: readonly PlacedToken[] = []) => {
        const likely = tokens.length > 0 ? logprobsOf(tokens) : null;
        return serverSent(chunk(head, [{ index, delta: change, logprobs: likely, finish_reason: reason }]));
      };
      const begin = (choice: number): string => {
        if (begun.has(choice)) return "";
        begun.add(choice);
        return delta(choice, { role: "assistant", content: "" }, null);
      };
      return {
        begin: () => begin(0),
        piece(choice, { part, tokens }) {
          const first = begin(choice);
          if ("text" in part) return first + delta(choice, { content: part.text }, null, tokens);
          if ("reasoning" in part) return first + delta(choice, { reasoning_content: part.reasoning }, null);
          const number = calls[choice] ?? 0;
          calls[choice] = number + 1;
          return first + delta(choice, { tool_calls: [{ index: number, ...part.call }] }, null);
        },
        finish: (choice, reason) => begin(choice) + delta(choice, {}, reason),
        end: (usage) => (includeUsage ? serverSent({ ...chunk(head, []), usage: usageOf(usage) }) : "") + serverSent("[DONE]"),
        fail: (error) => serverSent(error.body),
      };
    },
  };
}

const chunk = ({ id, created, model }: Head, choices: readonly object[]) => ({
  id,
  object: "chat.completion.chunk",
  created,
  model,
  choices,
});
