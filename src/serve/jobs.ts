import { refuseLostRoles } from "../data/chat-spans.ts";
import { chatTemplateOf } from "../data/chat-template.ts";
import { exampleOf } from "../data/formats.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { UserError } from "../errors.ts";
import type { Decoder } from "../generate/decoder.ts";
import { chatPrompt, rawPrompt } from "../generate/prompts.ts";
import { type SamplingOptions } from "../generate/sampler.ts";
import { ApiError, refusing } from "./errors.ts";
import type { AnyRequest, ChatRequest, TextRequest } from "./requests.ts";

/** The model that is served. */
export interface ServedModel {
  /** As clients call it. */
  readonly name: string;
  readonly tokenizer: Tokenizer;
  /** At least one. Each holds one text in its cache. */
  readonly decoders: readonly Decoder[];
  readonly vocabSize: number;
  readonly stop: ReadonlySet<number>;
  /** What a request says nothing about. */
  readonly sampling: Omit<SamplingOptions, "seed"> & { readonly maxNewTokens: number };
}

/** What a request asks of the decoder. */
export interface Job {
  readonly prompt: readonly number[];
  /** Tokens of the answer at most. */
  readonly limit: number;
  readonly sampling: SamplingOptions;
  readonly stopTexts: readonly string[];
}

/** @throws {ApiError} a conversation that the template refuses, a prompt without room */
export function chatJob(model: ServedModel, request: ChatRequest): Job {
  const prompt = refusing("messages", "invalid_value", () => conversationPrompt(model.tokenizer, request));
  return jobOf(model, request, [...prompt], "messages", request.max_completion_tokens ?? request.max_tokens);
}

/** A text goes in with the tokens that begin texts, token ids as they are. @throws {ApiError} */
export function textJob(model: ServedModel, request: TextRequest): Job {
  const { prompt } = request;
  const isIds = (value: TextRequest["prompt"]): value is number[] => Array.isArray(value) && typeof value[0] === "number";
  const toIds = () => {
    if (!isIds(prompt)) return rawPrompt(model.tokenizer, (typeof prompt === "string" ? prompt : prompt[0]!).toWellFormed());
    const strange = prompt.find((id) => id >= model.vocabSize);
    if (strange === undefined) return prompt;
    throw new UserError(`there is no token ${strange}; the vocabulary has ${model.vocabSize}`);
  };
  return jobOf(model, request, [...refusing("prompt", "invalid_value", toIds)], "prompt", request.max_tokens);
}

/** With the day that it is: a server lives longer than one. */
function conversationPrompt(tokenizer: Tokenizer, request: ChatRequest): Int32Array {
  const tools = request.tool_choice === "none" || request.tools?.length === 0 ? undefined : request.tools;
  const example = exampleOf({ messages: request.messages, ...(tools ? { tools } : {}) }, "the request");
  if (example.kind !== "chat") throw new Error("messages are a chat");
  const messages = example.messages.map(({ fields }) => fields);
  const template = chatTemplateOf(tokenizer, { tools: tools !== undefined });
  refuseLostRoles(template, example);
  if (tools && template.render({ messages, tools: example.tools }) === template.render({ messages }))
    throw new ApiError(400, "tools: the model's chat template has no place for tools", { param: "tools", code: "invalid_value" });
  return chatPrompt(tokenizer, template, { messages, tools: example.tools });
}

function jobOf(
  model: ServedModel,
  request: AnyRequest,
  prompt: readonly number[],
  param: string,
  limit: number | undefined,
): Job {
  const { maxTokens } = model.decoders[0]!;
  if (prompt.length === 0) throw new ApiError(400, `${param}: it has no tokens`, { param, code: "invalid_value" });
  if (prompt.length > maxTokens) {
    throw new ApiError(
      400,
      `${param}: ${prompt.length} tokens, more than the maximum context length of ${maxTokens} tokens; shorten it`,
      { param, code: "context_length_exceeded" },
    );
  }
  const { maxNewTokens, ...sampling } = model.sampling;
  return {
    prompt,
    limit: limit ?? maxNewTokens,
    sampling: {
      temperature: request.temperature ?? sampling.temperature,
      topP: request.top_p ?? sampling.topP,
      topK: request.top_k ?? sampling.topK,
      minP: request.min_p ?? sampling.minP,
      repetitionPenalty: request.repetition_penalty ?? sampling.repetitionPenalty,
      seed: request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
    },
    stopTexts: request.stop ?? [],
  };
}
