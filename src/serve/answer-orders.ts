import { fieldsOf, refuseLostContext } from "../data/chat/losses.ts";
import { type ChatTemplate, chatTemplateOf } from "../data/chat/chat-template.ts";
import { exampleOf } from "../data/examples/formats.ts";
import { reachOf } from "../data/tokens/reach.ts";
import { type Tokenizer, withPrefix } from "../data/tokens/tokenizer.ts";
import { UserError } from "../base/errors.ts";
import type { Decoder } from "../generate/open-decoder.ts";
import { chatText } from "../generate/prompts.ts";
import { endsInReasoning, type ReasoningPlace, writesReasoning } from "../generate/reasoning.ts";
import type { Penalties } from "../generate/logits/penalties.ts";
import { type SamplingOptions } from "../generate/sampler.ts";
import { createCaches } from "./caches.ts";
import { type AnswerForm, formOf } from "./formats.ts";
import { ApiError, refusing, refusingLater } from "./http/errors.ts";
import type { AnyAsk, ChatAsk, TextRequest } from "./api/requests.ts";
import { checkTextSize, type Room, tooLong } from "./size.ts";
import { withArguments } from "../data/chat/call-arguments.ts";
import { writesCalls } from "./tool-calls.ts";

/** The model that is served. */
export interface ServedModel {
  /** As clients call it. */
  readonly name: string;
  readonly tokenizer: Tokenizer;
  /** At least one. Each holds one text in its cache. */
  readonly decoders: readonly Decoder[];
  readonly vocabSize: number;
  readonly stop: ReadonlySet<number>;
  /** The settings of requests that name none. */
  readonly sampling: Omit<SamplingOptions, "seed"> & { readonly maxNewTokens: number };
}

/** A model, as far as answers are made with it. */
export interface AnsweringModel extends Omit<ServedModel, "decoders"> {
  /** The longest text, in tokens. */
  readonly maxTokens: number;
  /** Finds a place for an answer to a prompt. Called in the request's turn. */
  seatFor(prompt: readonly number[]): Seat | Promise<Seat>;
}

/** The place of an answer that is being made. */
export interface Seat {
  readonly decoder: Decoder;
  /** The logits behind a text that has grown by a token; perhaps computed together with those of other answers. */
  readonly next?: ((ids: readonly number[]) => Promise<Float32Array>) | undefined;
  leave(): void;
}

/** A model that is served alone, whose decoders are chosen by what is in their caches. */
export function answeringModel({ decoders, ...model }: ServedModel): AnsweringModel {
  const decoderFor = createCaches(decoders);
  return {
    ...model,
    maxTokens: decoders[0]!.maxTokens,
    seatFor: (prompt) => ({ decoder: decoderFor(prompt), leave: () => {} }),
  };
}

/** Describes what a request asks of the decoder. */
export interface AnswerOrder {
  readonly prompt: readonly number[];
  /** Tokens of the answer at most. */
  readonly limit: number;
  /** With the seed of the first choice; each other one's is one more. */
  readonly sampling: SamplingOptions;
  readonly penalties: Penalties;
  /** Answers to the prompt. */
  readonly choices: number;
  /** Tokens whose log-probabilities are told in the place of each; null: not even those of the answer's own tokens. */
  readonly logprobs: number | null;
  readonly stopTexts: readonly string[];
  /** The answer is to the bit that of a server that has just begun: the request has a seed. */
  readonly isExact: boolean;
  /** Calls of tools are looked for in the answer. */
  readonly calls: boolean;
  readonly reasoning: ReasoningPlace;
  /** What the answer is kept to; null: nothing. */
  readonly form: AnswerForm | null;
}

/** Tokens of a text, made while the event loop runs on (see `Encoder`). */
export type Encode = (text: string, plain: readonly number[]) => Promise<Int32Array>;

/** Returns how much a model can hold in its context. */
export function roomOf({ maxTokens, tokenizer }: Pick<AnsweringModel, "maxTokens" | "tokenizer">): Room {
  return { tokens: maxTokens, reach: reachOf(tokenizer.json) };
}

/**
 * The conversation as the template renders it on the day that it is: a server lives longer than one.
 * @throws {ApiError} a conversation that the template refuses, tools that it has no place for, a prompt without room
 */
export async function chatOrder(model: AnsweringModel, room: Room, request: ChatAsk, encode: Encode): Promise<AnswerOrder> {
  const { tokenizer } = model;
  const { field, format } = request;
  const tools = request.tool_choice === "none" || request.tools?.length === 0 ? undefined : request.tools;
  const template = refusing(field, "invalid_value", () => chatTemplateOf(tokenizer, { tools: tools !== undefined }));
  if (tools) refusing("tools", "invalid_value", () => checkTools(template, tools));
  const { text, plain } = refusing(field, "invalid_value", () => {
    const { messages: written, chat_template_kwargs: args } = request;
    const record = { messages: written, ...(tools ? { tools } : {}), ...(args ? { chat_template_kwargs: args } : {}) };
    const example = exampleOf(record, "the request");
    if (example.kind !== "chat") throw new Error("messages are a chat");
    const messages = example.messages.map((message) => ({ ...message, fields: withArguments(message.fields) }));
    refuseLostContext(template, { ...example, messages });
    return chatText(tokenizer, template, { messages: fieldsOf(messages), tools: example.tools, args: example.args });
  });
  checkTextSize(room, text, field);
  const prompt = await refusingLater(field, "invalid_value", encode(text, plain));
  const calls = tools !== undefined && writesCalls(template.source);
  if (format?.kind === "calls" && !calls) {
    const message = `${format.param}: the model's chat template writes calls in another way than <tool_call>, the only one that answers are kept to`;
    throw new ApiError(400, message, { param: format.param, code: "unsupported" });
  }
  const reasoning = !writesReasoning(template.source) ? "none" : endsInReasoning(tokenizer, prompt) ? "open" : "looked for";
  return {
    ...orderOf(model, request, prompt, field, request.max_completion_tokens ?? request.max_tokens),
    logprobs: request.logprobs === true ? (request.top_logprobs ?? 0) : null,
    calls,
    reasoning,
    form: format === null ? null : formOf(tokenizer, format, reasoning),
  };
}

/** @throws {UserError} */
function checkTools(template: ChatTemplate, tools: readonly unknown[]): void {
  const messages = [{ role: "user", content: "x" }];
  if (template.render({ messages, tools }) === template.render({ messages }))
    throw new UserError("tools: the model's chat template has no place for tools");
}

/** A text goes in with the tokens that begin texts, token ids as they are. @throws {ApiError} */
export async function textOrder(model: AnsweringModel, room: Room, request: TextRequest, encode: Encode): Promise<AnswerOrder> {
  const { prompt } = request;
  let ids: ArrayLike<number>;
  if (typeof prompt === "string") {
    checkTextSize(room, prompt, "prompt");
    ids = withPrefix(model.tokenizer, await refusingLater("prompt", "invalid_value", encode(prompt.toWellFormed(), [])));
  } else {
    const strange = prompt.find((id) => id >= model.vocabSize);
    if (strange !== undefined) {
      const message = `prompt: there is no token ${strange}; the vocabulary has ${model.vocabSize}`;
      throw new ApiError(400, message, { param: "prompt", code: "invalid_value" });
    }
    ids = prompt;
  }
  const order = orderOf(model, request, ids, "prompt", request.max_tokens);
  return { ...order, logprobs: request.logprobs ?? null, calls: false, reasoning: "none", form: null };
}

function orderOf(
  model: AnsweringModel,
  request: AnyAsk,
  prompt: ArrayLike<number>,
  param: string,
  limit: number | undefined,
): Omit<AnswerOrder, "logprobs" | "calls" | "reasoning" | "form"> {
  const { maxTokens } = model;
  if (prompt.length === 0) throw new ApiError(400, `${param}: it has no tokens`, { param, code: "invalid_value" });
  if (prompt.length > maxTokens) throw tooLong(param, `${prompt.length} tokens`, { tokens: maxTokens });
  const { maxNewTokens, ...sampling } = model.sampling;
  return {
    prompt: Array.from(prompt),
    limit: limit ?? maxNewTokens,
    sampling: {
      temperature: request.temperature ?? sampling.temperature,
      topP: request.top_p ?? sampling.topP,
      topK: request.top_k ?? sampling.topK,
      minP: request.min_p ?? sampling.minP,
      repetitionPenalty: request.repetition_penalty ?? sampling.repetitionPenalty,
      seed: request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
    },
    penalties: {
      presence: request.presence_penalty ?? 0,
      frequency: request.frequency_penalty ?? 0,
      bias: biasOf(request.logit_bias ?? {}, model),
    },
    choices: request.n ?? 1,
    stopTexts: request.stop ?? [],
    isExact: request.seed !== undefined,
  };
}

function biasOf(written: Readonly<Record<string, number>>, { vocabSize }: AnsweringModel): Map<number, number> {
  const bias = new Map(Object.entries(written).map(([id, value]) => [Number(id), value]));
  for (const id of bias.keys()) {
    if (id < vocabSize) continue;
    const message = `logit_bias: there is no token ${id}; the vocabulary has ${vocabSize}`;
    throw new ApiError(400, message, { param: "logit_bias", code: "invalid_value" });
  }
  return bias;
}
