import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { UserError } from "../../src/base/errors.ts";
import { parseJson } from "../../src/base/json.ts";
import { GREEDY } from "../../src/generate/sampler.ts";
import { ApiError, refusing } from "../../src/serve/http/errors.ts";
import { chatOf, parseResponsesRequest } from "../../src/serve/api/responses-request.ts";
import {
  type AnswerOrder,
  answeringModel,
  chatOrder,
  roomOf,
  type ServedModel,
  textOrder,
} from "../../src/serve/answer-orders.ts";
import { askOf, parseChatRequest, parseTextRequest } from "../../src/serve/api/requests.ts";
import { checkBodySize } from "../../src/serve/size.ts";
import { fuzz, INPUTS, mutateJson } from "../support/fuzz.ts";
import { scriptedDecoder } from "../support/served.ts";

setDefaultTimeout(120_000);

const tokenizer = loadTokenizer(join(import.meta.dir, "../../recipes/base/model"));
const model: ServedModel = {
  name: "served",
  tokenizer,
  decoders: [scriptedDecoder(tokenizer, tokenizer.size, "")],
  vocabSize: tokenizer.size,
  stop: new Set(),
  sampling: { ...GREEDY, maxNewTokens: 10 },
};

const answering = answeringModel(model);
const room = roomOf(answering);
const encode = async (text: string, plain: readonly number[]) => tokenizer.encode(text, plain);

const fields = {
  model: "served",
  max_tokens: 5,
  temperature: 0.5,
  top_p: 0.9,
  top_k: 3,
  min_p: 0.1,
  repetition_penalty: 1.1,
  seed: 7,
  stop: ["a", "b"],
  stream: true,
  stream_options: { include_usage: true },
  n: 1,
  logit_bias: {},
  metadata: { a: 1 },
};
const call = { role: "assistant", content: null, tool_calls: [{ type: "function", function: { name: "f", arguments: "{}" } }] };
const messages = [
  { role: "system", content: "s" },
  { role: "user", content: [{ type: "text", text: "q" }] },
  { role: "assistant", content: "a" },
];
const tools = [{ type: "function", function: { name: "f", parameters: {} } }];
const schema = {
  type: "object",
  properties: {
    a: { type: ["string", "null"], minLength: 1, maxLength: 9 },
    b: { type: "array", items: { $ref: "#/$defs/c" }, minItems: 1, maxItems: 3 },
    d: { enum: ["x", 5, null], description: "d" },
    e: { type: "integer", minimum: -5, exclusiveMaximum: 100 },
    f: { type: "number", exclusiveMinimum: -2.5, maximum: 1.75 },
    g: { type: "string", pattern: "^(?:[a-z]{2,3}|\\d+)-x?$" },
  },
  required: ["a", "b"],
  additionalProperties: false,
  $defs: { c: { anyOf: [{ type: "string", format: "date" }, { $ref: "#" }] } },
};
const CHATS = [
  { messages, response_format: { type: "json_schema", json_schema: { name: "n", strict: true, schema } } },
  { messages, n: 2, logprobs: true, top_logprobs: 3, presence_penalty: 1, frequency_penalty: -1, logit_bias: { "5": 1 } },
  { ...fields, messages, response_format: { type: "text" } },
  { messages: [...messages, call, { role: "tool", content: "r" }], tools, tool_choice: "none" },
].map((body) => JSON.stringify(body));
const RESPONSES = [
  { input: "q", instructions: "s", max_output_tokens: 5, include: ["message.output_text.logprobs"], top_logprobs: 2 },
  {
    input: [
      { role: "developer", content: [{ type: "input_text", text: "s" }] },
      { type: "reasoning", id: "rs", summary: [], content: [{ type: "reasoning_text", text: "r" }] },
      { type: "message", role: "assistant", content: [{ type: "output_text", text: "a", annotations: [] }], status: "completed" },
      { type: "function_call", call_id: "c", name: "f", arguments: "{}" },
      { type: "function_call_output", call_id: "c", output: "o" },
      { role: "user", content: "q" },
    ],
    text: { format: { type: "json_schema", name: "n", schema } },
    tools: [{ type: "function", name: "f", parameters: {}, strict: true }],
    tool_choice: "none",
  },
].map((body) => JSON.stringify(body));
const TEXTS = [{ ...fields, prompt: "p", echo: false }, { prompt: ["p"] }, { prompt: [5, 6, 7] }, { prompt: [[5, 6, 7]] }].map(
  (body) => JSON.stringify(body),
);

const KINDS: readonly { readonly bodies: readonly string[]; order(body: unknown): Promise<AnswerOrder> }[] = [
  { bodies: CHATS, order: (body) => chatOrder(answering, room, askOf(parseChatRequest(body)), encode) },
  { bodies: TEXTS, order: (body) => textOrder(answering, room, parseTextRequest(body), encode) },
  { bodies: RESPONSES, order: (body) => chatOrder(answering, room, chatOf(parseResponsesRequest(body)), encode) },
];

test(`${INPUTS} mutated requests: a order for the decoder, or a 400 that is clear`, async () => {
  const counts = await fuzz(
    "requests",
    (random) => {
      const kind = KINDS[random.below(KINDS.length)]!;
      return { kind, text: mutateJson(random, kind.bodies[random.below(kind.bodies.length)]!) };
    },
    async ({ kind, text }) => {
      try {
        const body = refusing(null, "invalid_json", () => parseJson(text, "the request's body"));
        checkBodySize(room, body);
        const order = await kind.order(body);
        expect(order.prompt.length).toBeGreaterThan(0);
        expect(order.prompt.every((id) => Number.isInteger(id) && id >= 0 && id < model.vocabSize)).toBe(true);
        expect(order.limit).toBeGreaterThanOrEqual(1);
        expect(order.sampling.temperature).toBeGreaterThanOrEqual(0);
        if (order.form !== null) {
          const { automaton } = order.form.grammar;
          expect(automaton.start.least).toBeLessThan(Infinity);
          expect(order.form.grammar.allowed(automaton.start).some((word) => word !== 0)).toBe(true);
        }
      } catch (error) {
        if (error instanceof ApiError && error.status === 400) throw new UserError(error.message);
        throw error;
      }
    },
  );
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.05 * INPUTS);
});
