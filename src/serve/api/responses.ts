import { BASE, type Endpoint, type FinishReason, type Head, type Usage } from "./endpoint.ts";
import { createResponseItems, type ResponseEvent } from "./response-items.ts";
import type { ResponsesRequest } from "./responses-request.ts";

export const RESPONSES_PATH = `${BASE}/responses`;

/** https://platform.openai.com/docs/api-reference/responses, and its streaming events */
export function responsesEndpoint(request: ResponsesRequest): Endpoint {
  return {
    idPrefix: "resp_",
    whole(head, [choice], usage) {
      const items = createResponseItems();
      choice!.pieces.forEach(items.add);
      items.end(statusOf(choice!.reason));
      return responseOf(head, request, items.output, { reason: choice!.reason, usage });
    },
    stream(head) {
      const items = createResponseItems();
      let number = 0;
      let reason: FinishReason = "stop";
      const write = (events: readonly ResponseEvent[]): string =>
        events
          .map((event) => `event: ${event.type}\ndata: ${JSON.stringify({ ...event, sequence_number: number++ })}\n\n`)
          .join("");
      return {
        begin() {
          const response = responseOf(head, request, [], null);
          return write([
            { type: "response.created", response },
            { type: "response.in_progress", response },
          ]);
        },
        piece: (_, piece) => write(items.add(piece)),
        finish(_, ended) {
          reason = ended;
          return write(items.end(statusOf(ended)));
        },
        end(usage) {
          const response = responseOf(head, request, items.output, { reason, usage });
          return write([{ type: `response.${statusOf(reason)}`, response }]);
        },
        fail({ body: { error } }) {
          return write([{ type: "error", code: error.code, message: error.message, param: error.param }]);
        },
      };
    },
  };
}

const statusOf = (reason: FinishReason) => (reason === "length" ? "incomplete" : "completed");

/** @param ended null: it is being made */
function responseOf(
  { id, created, model }: Head,
  request: ResponsesRequest,
  output: readonly object[],
  ended: { readonly reason: FinishReason; readonly usage: Usage } | null,
): object {
  return {
    id,
    object: "response",
    created_at: created,
    completed_at: ended === null ? null : Math.floor(Date.now() / 1000),
    status: ended === null ? "in_progress" : statusOf(ended.reason),
    error: null,
    incomplete_details: ended?.reason === "length" ? { reason: "max_output_tokens" } : null,
    access_programs: null,
    background: false,
    instructions: request.instructions ?? null,
    max_output_tokens: request.max_output_tokens ?? null,
    metadata: request.metadata ?? {},
    model,
    output,
    parallel_tool_calls: true,
    previous_response_id: null,
    reasoning: { effort: null, summary: null },
    store: false,
    temperature: request.temperature ?? null,
    text: { format: request.text?.format ?? { type: "text" } },
    tool_choice: request.tool_choice ?? "auto",
    tools: request.tools ?? [],
    top_logprobs: request.top_logprobs ?? 0,
    top_p: request.top_p ?? null,
    truncation: "disabled",
    usage: ended === null ? null : usageOf(ended.usage),
    user: request.user ?? null,
  };
}

function usageOf({ promptTokens, cachedTokens, answerTokens, reasoningTokens }: Usage): object {
  return {
    input_tokens: promptTokens,
    input_tokens_details: { cached_tokens: cachedTokens, cache_write_tokens: 0 },
    output_tokens: answerTokens,
    output_tokens_details: { reasoning_tokens: reasoningTokens ?? 0 },
    total_tokens: promptTokens + answerTokens,
  };
}
