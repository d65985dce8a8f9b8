import { z } from "zod";
import { isRecord } from "../../base/json.ts";
import {
  type ChatAsk,
  choiceWord,
  ignored,
  jsonSchema,
  maybe,
  MOST_LOGPROBS,
  only,
  parse,
  sampling,
  unsupported,
  withoutNulls,
} from "./requests.ts";
import { chooseFormat, type Format, type JsonFormat } from "./formats.ts";

/** https://platform.openai.com/docs/api-reference/responses, as far as answers are texts and calls, and nothing is kept on the server. */
const NOT_KEPT = "no conversation is kept here; send it as input";

const textPart = z.preprocess(
  withoutNulls,
  z.looseObject(
    { type: z.enum(["input_text", "output_text", "text"]), text: z.string() },
    { error: 'expected a part {"type": "input_text", "text": ...}; the model reads nothing else' },
  ),
);
const content = z.union([z.string(), z.array(textPart).min(1)], {
  error: "expected a text or a list of parts of type input_text",
});

const ITEM_TYPES = ["message", "function_call", "function_call_output", "reasoning"] as const;
/** Fields that a server gave with an item, and does not need back. */
const given = { id: ignored, status: ignored } as const;

const item = z.preprocess(
  // A message may do without its type.
  (value) => (isRecord(value) ? withoutNulls({ ...value, type: value["type"] ?? "message" }) : value),
  z.discriminatedUnion(
    "type",
    [
      z.strictObject({
        type: z.literal("message"),
        role: z.enum(["user", "assistant", "system", "developer"]),
        content,
        phase: ignored,
        ...given,
      }),
      z.strictObject({
        type: z.literal("function_call"),
        call_id: z.string(),
        name: z.string().min(1),
        arguments: z.string(),
        ...given,
      }),
      z.strictObject({ type: z.literal("function_call_output"), call_id: z.string(), output: content, name: ignored, ...given }),
      z.strictObject({
        type: z.literal("reasoning"),
        summary: ignored,
        content: maybe(z.array(z.looseObject({ type: z.literal("reasoning_text"), text: z.string() }))),
        ...given,
      }),
    ],
    { error: `expected an item of type ${ITEM_TYPES.join(", ")}` },
  ),
);

type Item = z.output<typeof item>;

const textFormat = z.preprocess(
  withoutNulls,
  z.discriminatedUnion(
    "type",
    [
      z.strictObject({ type: z.literal("text") }),
      z.strictObject({ type: z.literal("json_object") }),
      z.strictObject({ type: z.literal("json_schema"), ...jsonSchema }),
    ],
    { error: 'expected "text", "json_object" or "json_schema"' },
  ),
);

const tool = z.preprocess(
  withoutNulls,
  z.strictObject({
    type: z.literal("function", { error: 'only tools of type "function" are supported' }),
    name: z.string().min(1),
    description: maybe(z.string()),
    parameters: maybe(z.record(z.string(), z.unknown())),
    strict: maybe(z.boolean()),
  }),
);

const LOGPROBS = "message.output_text.logprobs";

const responsesRequest = z.strictObject({
  ...sampling,
  // A text is a message of the user's.
  input: z.preprocess(
    (value) => (typeof value === "string" ? [{ role: "user", content: value }] : value),
    z.array(item, { error: "expected a text or a list of items" }).min(1),
  ),
  instructions: maybe(z.string()),
  max_output_tokens: sampling.max_tokens,
  max_tokens: z.null({ error: "it is max_output_tokens here" }).optional(),
  text: maybe(z.strictObject({ format: maybe(textFormat), verbosity: unsupported })),
  tools: maybe(z.array(tool)),
  tool_choice: maybe(
    z.union([choiceWord, z.strictObject({ type: z.literal("function"), name: z.string() })], {
      error: 'expected "auto", "none", "required" or {"type": "function", "name": ...}',
    }),
  ),
  parallel_tool_calls: ignored,
  chat_template_kwargs: maybe(z.record(z.string(), z.unknown())),
  include: maybe(z.array(z.literal(LOGPROBS, { error: `only "${LOGPROBS}" is supported` }))),
  top_logprobs: maybe(z.int().min(0).max(MOST_LOGPROBS)),
  stream_options: maybe(z.strictObject({ include_obfuscation: ignored })),
  truncation: only("disabled"),
  background: only(false),
  previous_response_id: z.null({ error: NOT_KEPT }).optional(),
  conversation: z.null({ error: NOT_KEPT }).optional(),
  prompt: unsupported,
  reasoning: unsupported,
  max_tool_calls: unsupported,
});

export type ResponsesRequest = z.output<typeof responsesRequest>;

export function parseResponsesRequest(body: unknown): ResponsesRequest {
  const request = parse(responsesRequest, body);
  formatOf(request);
  return request;
}

function formatOf({
  text,
  tools = [],
  tool_choice: choice = "auto",
  parallel_tool_calls: parallel,
}: ResponsesRequest): Format | null {
  return chooseFormat({
    json: jsonFormatOf(text?.format),
    tools: tools.map(({ name, parameters }, i) => ({ name, parameters, path: `tools[${i}].parameters` })),
    choice,
    parallel,
  });
}

function jsonFormatOf(format: NonNullable<ResponsesRequest["text"]>["format"]): JsonFormat | null {
  const param = "text.format";
  if (format === undefined || format.type === "text") return null;
  return { kind: "json", schema: format.type === "json_object" ? null : format.schema, param, path: `${param}.schema` };
}

/** Tells whether log-probabilities are asked for: by name, or by how many. */
export const wantsLogprobs = ({ include, top_logprobs: top }: ResponsesRequest): boolean =>
  (include?.includes(LOGPROBS) ?? false) || (top ?? 0) > 0;

/** The same request as one for a chat. */
export function chatOf(request: ResponsesRequest): ChatAsk {
  const { input, instructions, tools, tool_choice: choice, max_output_tokens: limit, top_logprobs: top } = request;
  return {
    ...request,
    max_tokens: limit,
    max_completion_tokens: limit,
    n: 1,
    logprobs: wantsLogprobs(request),
    top_logprobs: top,
    field: "input",
    tool_choice: typeof choice === "object" ? { type: "function", function: { name: choice.name } } : choice,
    format: formatOf(request),
    messages: [...(instructions === undefined ? [] : [{ role: "system", content: instructions }]), ...messagesOf(input)],
    tools: tools?.map(({ name, description, parameters }) => ({
      type: "function" as const,
      function: {
        name,
        ...(description === undefined ? {} : { description }),
        ...(parameters === undefined ? {} : { parameters }),
      },
    })),
  };
}

interface Message {
  role: string;
  content?: string | null;
  [field: string]: unknown;
}

/** Reasoning, text and calls in a row are one turn of the model's. */
function messagesOf(items: readonly Item[]): Message[] {
  const messages: Message[] = [];
  /** The turn that is still going on, and what may not come into it any more. */
  let turn: { readonly message: Message; readonly calls: object[] } | null = null;
  const turnFor = (kind: "reasoning" | "text" | "call"): NonNullable<typeof turn> => {
    const isOver =
      turn === null ||
      (kind !== "call" && (turn.calls.length > 0 || turn.message.content !== null)) ||
      (kind === "reasoning" && "reasoning_content" in turn.message);
    if (!isOver) return turn!;
    const message: Message = { role: "assistant", content: null };
    messages.push(message);
    return (turn = { message, calls: [] });
  };
  for (const each of items) {
    if (each.type === "reasoning") {
      const text = (each.content ?? []).map((part) => part.text).join("");
      if (text !== "") turnFor("reasoning").message["reasoning_content"] = text;
    } else if (each.type === "function_call") {
      const { message, calls } = turnFor("call");
      calls.push({ id: each.call_id, type: "function", function: { name: each.name, arguments: each.arguments } });
      message["tool_calls"] = calls;
    } else if (each.type === "message" && each.role === "assistant") turnFor("text").message.content = textOf(each.content);
    else {
      turn = null;
      if (each.type === "message") messages.push({ role: each.role, content: textOf(each.content) });
      else messages.push({ role: "tool", tool_call_id: each.call_id, content: textOf(each.output) });
    }
  }
  return messages;
}

const textOf = (written: z.output<typeof content>): string =>
  typeof written === "string" ? written : written.map(({ text }) => text).join("");
