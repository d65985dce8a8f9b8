import { z } from "zod";
import { isRecord } from "../../base/json.ts";
import { SAMPLING } from "../../generate/sampling.ts";
import { ApiError } from "../http/errors.ts";
import { chooseFormat, type Format, type JsonFormat } from "./formats.ts";

/**
 * The requests of OpenAI's API, as far as a model on this machine can fulfil them, with the sampling fields that vLLM and
 * llama.cpp add (`top_k`, `min_p`, `repetition_penalty`). null is as good as absent, in a field that does not exist too. A field that this
 * model cannot follow is refused, unless it has the value that changes nothing; so is one that does not exist.
 * https://platform.openai.com/docs/api-reference
 */
export const maybe = <T extends z.ZodType>(schema: T) => schema.nullish().transform((value) => value ?? undefined);

const number = (least: number, most: number) => z.number().min(least).max(most);

/** A field of which one value alone is implemented. */
export const only = (...values: readonly z.core.util.Literal[]) =>
  maybe(z.literal(values, { error: `only ${values.map((value) => JSON.stringify(value)).join(" or ")} is supported` }));

export const unsupported = z.null({ error: "it is not supported" }).optional();
/** Says something about the caller, not about the answer. */
export const ignored = z.unknown().optional();

/** Answers to one request, at most. */
const MOST_CHOICES = 8;
/** Tokens whose log-probabilities are told beside the chosen one's, at most. */
export const MOST_LOGPROBS = 20;

/** By token id. */
const logitBias = z.record(z.string(), number(-100, 100)).superRefine((biases, { addIssue }) => {
  const strange = Object.keys(biases).find((id) => !/^(?:0|[1-9]\d{0,15})$/.test(id));
  if (strange !== undefined) addIssue({ code: "custom", path: [strange], message: "expected the id of a token" });
});

const STOPS = 4;
const stopText = z.string().min(1);
const count = maybe(SAMPLING.maxNewTokens.values);

/** Fields that all endpoints have, n and stream_options aside, which are not the same everywhere. */
export const sampling = {
  model: maybe(z.string()),
  max_tokens: count,
  temperature: maybe(SAMPLING.temperature.values),
  top_p: maybe(SAMPLING.topP.values),
  top_k: maybe(SAMPLING.topK.values),
  min_p: maybe(SAMPLING.minP.values),
  repetition_penalty: maybe(SAMPLING.repetitionPenalty.values),
  presence_penalty: maybe(number(-2, 2)),
  frequency_penalty: maybe(number(-2, 2)),
  logit_bias: maybe(logitBias),
  seed: maybe(z.int()),
  stop: maybe(
    z.union([stopText.transform((text) => [text]), z.array(stopText).max(STOPS)], {
      error: `expected a text or a list of at most ${STOPS} texts, none of them empty`,
    }),
  ),
  stream: maybe(z.boolean()),
  user: ignored,
  metadata: ignored,
  store: ignored,
  service_tier: ignored,
  safety_identifier: ignored,
  prompt_cache_key: ignored,
  prompt_cache_retention: ignored,
} as const;

const common = {
  ...sampling,
  stream_options: maybe(z.object({ include_usage: maybe(z.boolean()) })),
  n: maybe(z.int().min(1).max(MOST_CHOICES)),
} as const;

/** An object without its fields that are null: OpenAI's API has them absent, whether a server knows them or not. */
export function withoutNulls(value: unknown): unknown {
  if (!isRecord(value) || !Object.values(value).includes(null)) return value;
  // A spread keeps what readers of exact JSON put beside the keys.
  const rest: Record<string, unknown> = { ...value };
  for (const key of Object.keys(rest)) if (rest[key] === null) delete rest[key];
  return rest;
}

const part = z.preprocess(
  withoutNulls,
  z.strictObject(
    { type: z.literal("text"), text: z.string() },
    { error: 'expected a part {"type": "text", "text": ...}; the model reads nothing else' },
  ),
);
const message = z.looseObject({
  role: z.string().min(1),
  content: z.union([z.string(), z.array(part).min(1)], { error: "expected a text or a list of parts of type text" }).nullish(),
});
const tool = z.preprocess(
  withoutNulls,
  z.looseObject({
    type: z.literal("function"),
    function: z.preprocess(withoutNulls, z.looseObject({ name: z.string().min(1) })),
  }),
);

const schemaName = z.string().regex(/^[\w-]{1,64}$/, { error: "expected up to 64 letters, digits, underscores and dashes" });

/** What a schema is called and told about changes nothing; every schema is followed strictly. */
export const jsonSchema = {
  name: schemaName,
  description: ignored,
  strict: maybe(z.boolean()),
  schema: z.record(z.string(), z.unknown()),
};

const responseFormat = z.discriminatedUnion(
  "type",
  [
    z.strictObject({ type: z.literal("text") }),
    z.strictObject({ type: z.literal("json_object") }),
    z.strictObject({ type: z.literal("json_schema"), json_schema: z.preprocess(withoutNulls, z.strictObject(jsonSchema)) }),
  ],
  { error: 'expected "text", "json_object" or "json_schema"' },
);

export const choiceWord = z.literal(["auto", "none", "required"]);

const chatRequest = z.strictObject({
  ...common,
  messages: z.array(message).min(1),
  tools: maybe(z.array(tool)),
  // Variables of the chat template, as vLLM takes them.
  chat_template_kwargs: maybe(z.record(z.string(), z.unknown())),
  tool_choice: maybe(
    z.union([choiceWord, z.strictObject({ type: z.literal("function"), function: z.strictObject({ name: z.string() }) })], {
      error: 'expected "auto", "none", "required" or {"type": "function", "function": {"name": ...}}',
    }),
  ),
  parallel_tool_calls: ignored,
  max_completion_tokens: count,
  response_format: maybe(responseFormat),
  modalities: maybe(z.array(z.literal("text", { error: 'only "text" is supported' }))),
  logprobs: maybe(z.boolean()),
  top_logprobs: maybe(z.int().min(0).max(MOST_LOGPROBS)),
});

const one = <T extends z.ZodType>(schema: T) =>
  z
    .array(schema)
    .length(1)
    .transform(([value]) => value!);
const tokenIds = z.array(z.int().min(0)).min(1);

const textRequest = z.strictObject({
  ...common,
  prompt: z.union([z.string(), one(z.string()), tokenIds, one(tokenIds)], {
    error: "expected a text, a list of one text, a list of token ids, or a list of one such list",
  }),
  best_of: only(1),
  echo: only(false),
  suffix: unsupported,
  logprobs: maybe(z.int().min(0).max(MOST_LOGPROBS)),
});

export type ChatRequest = z.output<typeof chatRequest>;
export type TextRequest = z.output<typeof textRequest>;

/** A request for the next turn of a conversation, whichever endpoint it came to. */
export interface ChatAsk extends Omit<ChatRequest, "response_format" | "stream_options" | "modalities"> {
  /** The field with the conversation, as the endpoint calls it. */
  readonly field: "messages" | "input";
  /** null: any text. */
  readonly format: Format | null;
}
export type AnyAsk = ChatAsk | TextRequest;

export function parseChatRequest(body: unknown): ChatRequest {
  const request = checkStream(parse(chatRequest, body));
  if (request.top_logprobs !== undefined && request.logprobs !== true) {
    throw new ApiError(400, "top_logprobs: only with logprobs", { param: "top_logprobs", code: "invalid_value" });
  }
  formatOf(request);
  return request;
}
export const parseTextRequest = (body: unknown): TextRequest => checkStream(parse(textRequest, body));
export const askOf = (request: ChatRequest): ChatAsk => ({ ...request, field: "messages", format: formatOf(request) });

function checkStream<R extends ChatRequest | TextRequest>(request: R): R {
  if (request.stream_options === undefined || request.stream === true) return request;
  throw new ApiError(400, "stream_options: only with stream", { param: "stream_options", code: "invalid_value" });
}

/** @throws {ApiError} the first problem, with the field's name */
export function parse<S extends z.ZodType>(schema: S, body: unknown): z.output<S> {
  const result = schema.safeParse(withoutNulls(body));
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  if (issue.code === "unrecognized_keys") {
    const param = fieldName([...issue.path, issue.keys[0]!]);
    throw new ApiError(400, `unknown field ${param}; remove it`, { param, code: "unknown_parameter" });
  }
  if (issue.path.length === 0) throw new ApiError(400, `the request's body: ${issue.message}`);
  const param = fieldName(issue.path);
  throw new ApiError(400, `${param}: ${issue.message}`, { param, code: "invalid_value" });
}

function formatOf({
  response_format: format,
  tools = [],
  tool_choice: choice,
  parallel_tool_calls: parallel,
}: ChatRequest): Format | null {
  return chooseFormat({
    json: jsonFormatOf(format),
    tools: tools.map(({ function: called }, i) => ({
      name: called.name,
      parameters: called["parameters"] ?? undefined,
      path: `tools[${i}].function.parameters`,
    })),
    choice: typeof choice === "object" ? choice.function : (choice ?? "auto"),
    parallel,
  });
}

function jsonFormatOf(format: ChatRequest["response_format"]): JsonFormat | null {
  const param = "response_format";
  if (format === undefined || format.type === "text") return null;
  if (format.type === "json_object") return { kind: "json", schema: null, param, path: param };
  return { kind: "json", schema: format.json_schema.schema, param, path: `${param}.json_schema.schema` };
}

const LONGEST_NAME = 80;

/** `messages[0].content`, cut to a readable length: the keys are the client's. */
function fieldName(path: readonly PropertyKey[]): string {
  const name = path.map((key, i) => (typeof key === "number" ? `[${key}]` : `${i > 0 ? "." : ""}${String(key)}`)).join("");
  return name.length <= LONGEST_NAME ? name : `${name.slice(0, LONGEST_NAME - 3)}...`;
}
