import { type Answer, answer } from "../generate/answer.ts";
import { reasoningTokens } from "../generate/reasoning.ts";
import { createSampler } from "../generate/sampler.ts";
import { ApiError, clientGone, errorResponse, internalError, stopping } from "./http/errors.ts";
import type { AnswerOrder, AnsweringModel } from "./answer-orders.ts";
import { createTurns } from "./turns.ts";
import { callsOf, type Endpoint, type FinishReason, type Head, serverSent, type Usage } from "./responses.ts";
import { createPartReader, type Part } from "./parts.ts";

/** Describes what became of a request for an answer. */
export interface AnswerReport {
  readonly promptTokens: number;
  /** The number of prompt tokens that were in the cache. */
  readonly cachedTokens: number;
  readonly answerTokens: number;
  /** null: it was not finished, for `error`. */
  readonly reason: Finished["reason"] | null;
  readonly error: ApiError | null;
  /** Seconds in the queue. */
  readonly waited: number;
}

/** How an answer goes out. */
export interface Delivery {
  readonly endpoint: Endpoint;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Aborted when the client does not wait any more. */
  readonly signal: AbortSignal;
  /** Called once, when all is over. */
  report(report: AnswerReport): void;
}

/** An order, and the model that it is for. */
export interface Prepared {
  readonly order: AnswerOrder;
  readonly model: AnsweringModel;
}

/**
 * Answers requests, so many at a time as there are places. A request has its place in the queue before `prepare` makes the order of it.
 * @throws {ApiError} the queue is full, or `prepare` refuses the request; nothing is reported then
 */
export type Responder = (prepare: (signal: AbortSignal) => Promise<Prepared>, delivery: Delivery) => Promise<Response>;

export interface ResponderOptions {
  /** Requests that may wait. */
  readonly waiting: number;
  /** Requests that are answered at a time (one). */
  readonly places?: number;
  /** Cuts the answers that are being made and those that wait. */
  readonly shutdown: AbortSignal;
}

export function createResponder({ waiting, places, shutdown }: ResponderOptions): Responder {
  const turns = createTurns(waiting, places);
  /** The seconds of the last answer: after about so long there is a place in the queue again. */
  let lastSeconds = 0;

  const enter = (signal: AbortSignal): Promise<() => void> => {
    const place = turns.enter(signal);
    if (place) return place;
    throw new ApiError(429, `${waiting} requests wait already; come back later`, {
      code: "rate_limit_exceeded",
      headers: { "retry-after": String(Math.max(1, Math.ceil(lastSeconds))) },
    });
  };

  const cut = () => (shutdown.aborted ? stopping() : clientGone());

  /** The answer, or why there is none. Reports either. */
  const make = async (
    { order, model }: Prepared,
    place: Promise<() => void>,
    { report }: Delivery,
    signal: AbortSignal,
    onPart: (part: Part) => void,
  ): Promise<Finished | ApiError> => {
    const begin = performance.now();
    const seconds = () => (performance.now() - begin) / 1000;
    let waited: number | null = null;
    let made: Answer | null = null;
    let outcome: Finished | ApiError;
    const reader = createPartReader(order);
    try {
      const leave = await place;
      waited = seconds();
      try {
        const { prompt, limit, stopTexts, sampling } = order;
        const { tokenizer, stop } = model;
        const sampler = createSampler(sampling);
        const keptTokens = order.reasoning === "none" ? new Set<number>() : reasoningTokens(tokenizer);
        const seat = await model.seatFor(prompt);
        try {
          if (order.isExact) seat.decoder.startAnew(prompt);
          const onText = (piece: string) => reader.push(piece).forEach(onPart);
          const options = { limit, stop, stopTexts, keptTokens, sampler, signal, onText };
          made = await answer({ tokenizer, ...seat }, prompt, options);
        } finally {
          seat.leave();
        }
      } finally {
        lastSeconds = seconds() - waited;
        leave();
      }
      reader.end().forEach(onPart);
      const { reason } = made;
      outcome = reason === "cut" ? cut() : { ...made, reason };
    } catch (error) {
      outcome = error === signal.reason ? cut() : internalError(error);
    }
    report({
      promptTokens: order.prompt.length,
      cachedTokens: made?.cached ?? 0,
      answerTokens: made?.tokens ?? 0,
      reason: outcome instanceof ApiError ? null : outcome.reason,
      error: outcome instanceof ApiError ? outcome : null,
      waited: waited ?? seconds(),
    });
    return outcome;
  };

  return async (prepare, delivery) => {
    const { endpoint, includeUsage } = delivery;
    const closed = new AbortController();
    const signal = AbortSignal.any([delivery.signal, shutdown, closed.signal]);
    const place = enter(signal);
    const prepared = await prepareInPlace(
      place,
      () => prepare(signal),
      (error) => {
        const isCut = error === signal.reason;
        closed.abort();
        return isCut ? cut() : error;
      },
    );
    const { order, model } = prepared;
    const head: Head = {
      id: `${endpoint.idPrefix}${crypto.randomUUID().replaceAll("-", "")}`,
      created: Math.floor(Date.now() / 1000),
      model: model.name,
    };
    if (!delivery.stream) {
      const parts: Part[] = [];
      return make(prepared, place, delivery, signal, (part) => parts.push(part)).then((made) =>
        made instanceof ApiError
          ? errorResponse(made)
          : Response.json(endpoint.whole(head, parts, finishReason(made, callsOf(parts).length), usageOf(order, made))),
      );
    }
    const body = new ReadableStream<string>({
      async start(controller) {
        const send = (data: object | "[DONE]" | null) => {
          if (data !== null && !closed.signal.aborted) controller.enqueue(serverSent(data));
        };
        send(endpoint.first(head));
        let calls = 0;
        const made = await make(prepared, place, delivery, signal, (part) => {
          send(endpoint.piece(head, part, calls));
          if ("call" in part) calls++;
        });
        if (made instanceof ApiError) send(made.body);
        else {
          send(endpoint.last(head, finishReason(made, calls)));
          if (includeUsage) send(endpoint.usage(head, usageOf(order, made)));
          send("[DONE]");
        }
        if (!closed.signal.aborted) controller.close();
      },
      cancel: () => closed.abort(),
    });
    return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" } });
  };
}

/**
 * Makes an order while its request has a place in the queue. A request that fails gives up waiting, by `giveUp`, or gives the turn back that it
 * has already.
 * @throws the answer of `giveUp`
 */
async function prepareInPlace(
  place: Promise<() => void>,
  prepare: () => Promise<Prepared>,
  giveUp: (error: unknown) => unknown,
): Promise<Prepared> {
  // It may fail while nobody waits for it yet.
  place.catch(() => {});
  try {
    return await prepare();
  } catch (error) {
    const reason = giveUp(error);
    place.then(
      (leave) => leave(),
      () => {},
    );
    throw reason;
  }
}

/** An answer that was not cut. */
interface Finished extends Answer {
  readonly reason: "stop" | "length";
}

/** An answer that ended by itself with calls in it waits for their results. */
function finishReason({ reason }: Finished, calls: number): FinishReason {
  return reason === "stop" && calls > 0 ? "tool_calls" : reason;
}

function usageOf({ prompt }: AnswerOrder, { tokens, cached }: Answer): Usage {
  return {
    prompt_tokens: prompt.length,
    completion_tokens: tokens,
    total_tokens: prompt.length + tokens,
    prompt_tokens_details: { cached_tokens: cached },
  };
}
