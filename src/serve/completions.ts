import { type AnswerOrder, type AnsweringModel, chatOrder, type Encode, roomOf, textOrder } from "./answer-orders.ts";
import type { AnswerReport, Responder } from "./answers.ts";
import type { Encoder } from "./encoder.ts";
import { readJson } from "./http/body.ts";
import { CHAT_PATH, chatEndpoint } from "./api/chat.ts";
import type { Endpoint, Wishes } from "./api/endpoint.ts";
import { type AnyRequest, parseChatRequest, parseTextRequest } from "./api/requests.ts";
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

/** The endpoints for answers, by path. */
export function createCompletions({ respond, find, check }: CompletionOptions): Readonly<Record<string, Complete>> {
  const complete =
    <R extends AnyRequest>(
      endpointOf: (wishes: Wishes) => Endpoint,
      parse: (body: unknown) => R,
      toOrder: (model: AnsweringModel, room: Room, request: R, encode: Encode) => Promise<AnswerOrder>,
    ): Complete =>
    async (request, { report, wait }) => {
      const body = await readJson(request);
      const { model, encoder } = find(body);
      const room = roomOf(model);
      checkBodySize(room, body);
      const asked = parse(body);
      wait();
      check(asked.model);
      const prepare = async (signal: AbortSignal) => ({
        model,
        order: await toOrder(model, room, asked, (text, plain) => encoder.encode(text, plain, signal)),
      });
      return respond(prepare, {
        endpoint: endpointOf({
          includeUsage: asked.stream_options?.include_usage ?? false,
          logprobs: asked.logprobs !== undefined && asked.logprobs !== false,
        }),
        stream: asked.stream ?? false,
        signal: request.signal,
        report,
      });
    };
  return {
    [CHAT_PATH]: complete(chatEndpoint, parseChatRequest, chatOrder),
    [TEXT_PATH]: complete(textEndpoint, parseTextRequest, textOrder),
  };
}
