import { type AnswerOrder, type AnsweringModel, chatOrder, type Encode, roomOf, textOrder } from "./answer-orders.ts";
import type { AnswerReport, Responder } from "./answers.ts";
import type { Encoder } from "./encoder.ts";
import { readJson } from "./http/body.ts";
import { CHAT_PATH, chatEndpoint } from "./api/chat.ts";
import type { Endpoint } from "./api/endpoint.ts";
import { askOf, type ChatRequest, parseChatRequest, parseTextRequest, type TextRequest } from "./api/requests.ts";
import { RESPONSES_PATH, responsesEndpoint } from "./api/responses.ts";
import { chatOf, parseResponsesRequest, type ResponsesRequest } from "./api/responses-request.ts";
import { TEXT_PATH, textEndpoint } from "./api/text.ts";
import { checkBodySize, type Room } from "./size.ts";

/** A model that a request has named, and what tokenizes for it. */
export interface NamedModel {
  readonly model: AnsweringModel;
  readonly encoder: Encoder;
}

/** The parts of a server that the endpoints for answers need. */
export interface CompletionOptions {
  readonly respond: Responder;
  /**
   * The model that a request of an unchecked body is for.
   * @throws {ApiError} there is none of the name, where that has to be known to go on
   */
  find(body: unknown): NamedModel;
  /** Checks the name in a request whose body is in order. @throws {ApiError} */
  check(name: string | undefined): void;
}

/** Answers a request for a text or a chat. `wait` is called when the request is one that may take long. */
export type Complete = (request: Request, exchange: { wait(): void; report(answer: AnswerReport): void }) => Promise<Response>;

/** How requests to an endpoint are read and answered. */
interface Kind<R> {
  readonly path: string;
  /** @throws {ApiError} */
  parse(body: unknown): R;
  endpointOf(request: R): Endpoint;
  toOrder(model: AnsweringModel, room: Room, request: R, encode: Encode): Promise<AnswerOrder>;
}

const CHAT: Kind<ChatRequest> = {
  path: CHAT_PATH,
  parse: parseChatRequest,
  endpointOf: ({ stream_options: options, logprobs }) =>
    chatEndpoint({ includeUsage: options?.include_usage ?? false, logprobs: logprobs ?? false }),
  toOrder: (model, room, request, encode) => chatOrder(model, room, askOf(request), encode),
};

const TEXT: Kind<TextRequest> = {
  path: TEXT_PATH,
  parse: parseTextRequest,
  endpointOf: ({ stream_options: options, logprobs }) =>
    textEndpoint({ includeUsage: options?.include_usage ?? false, logprobs: logprobs !== undefined }),
  toOrder: textOrder,
};

const RESPONSES: Kind<ResponsesRequest> = {
  path: RESPONSES_PATH,
  parse: parseResponsesRequest,
  endpointOf: responsesEndpoint,
  toOrder: (model, room, request, encode) => chatOrder(model, room, chatOf(request), encode),
};

/** The endpoints for answers, by path. */
export function createCompletions({ respond, find, check }: CompletionOptions): Readonly<Record<string, Complete>> {
  const complete = <R extends { readonly model: string | undefined; readonly stream: boolean | undefined }>(
    kind: Kind<R>,
  ): [path: string, Complete] => [
    kind.path,
    async (request, { report, wait }) => {
      const body = await readJson(request);
      const { model, encoder } = find(body);
      const room = roomOf(model);
      checkBodySize(room, body);
      const asked = kind.parse(body);
      wait();
      check(asked.model);
      const prepare = async (signal: AbortSignal) => ({
        model,
        order: await kind.toOrder(model, room, asked, (text, plain) => encoder.encode(text, plain, signal)),
      });
      const stream = asked.stream ?? false;
      return respond(prepare, { endpoint: kind.endpointOf(asked), stream, signal: request.signal, report });
    },
  ];
  return Object.fromEntries([complete(CHAT), complete(TEXT), complete(RESPONSES)]);
}
