import { ApiError, clientGone, errorResponse, internalError, stopping } from "./http/errors.ts";
import type { AnswerOrder, AnsweringModel } from "./answer-orders.ts";
import type { Endpoint, FinishReason, Head, Piece, Usage } from "./api/endpoint.ts";
import { type Made, makeChoices, type Receiver } from "./make-answer.ts";
import { createTurns } from "./turns.ts";

/** Describes what became of a request for an answer. */
export interface AnswerReport {
  readonly promptTokens: number;
  /** The number of prompt tokens that were in the cache. */
  readonly cachedTokens: number;
  /** Tokens of all choices. */
  readonly answerTokens: number;
  /** "length": the limit cut one of the choices; null: there is no answer, for `error`. */
  readonly reason: "stop" | "length" | null;
  readonly error: ApiError | null;
  /** Seconds in the queue. */
  readonly waited: number;
}

/** How an answer goes out. */
export interface Delivery {
  readonly endpoint: Endpoint;
  readonly stream: boolean;
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
  /** Answers that are made at a time (one). */
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

  /** The answers, or why there are none. Reports either. */
  const make = async (
    prepared: Prepared,
    place: Promise<() => void>,
    { report }: Delivery,
    signal: AbortSignal,
    receiver: Receiver,
  ): Promise<Usage | ApiError> => {
    const begin = performance.now();
    const seconds = () => (performance.now() - begin) / 1000;
    let waited: number | null = null;
    let made: readonly Made[] = [];
    let error: ApiError | null = null;
    try {
      const leave = await place;
      waited = seconds();
      try {
        made = await makeChoices(prepared, turns, signal, receiver);
      } finally {
        lastSeconds = seconds() - waited;
        leave();
      }
      if (made.length < prepared.order.choices || made.some(({ reason }) => reason === null)) error = cut();
    } catch (thrown) {
      error = thrown === signal.reason ? cut() : internalError(thrown);
    }
    const usage = usageOf(prepared.order, made);
    const { promptTokens, cachedTokens, answerTokens } = usage;
    const reason = error ? null : made.some((one) => one.reason === "length") ? "length" : "stop";
    report({ promptTokens, cachedTokens, answerTokens, reason, error, waited: waited ?? seconds() });
    return error ?? usage;
  };

  return async (prepare, delivery) => {
    const { endpoint } = delivery;
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
    const head: Head = {
      id: `${endpoint.idPrefix}${crypto.randomUUID().replaceAll("-", "")}`,
      created: Math.floor(Date.now() / 1000),
      model: prepared.model.name,
    };
    if (!delivery.stream) {
      const choices = Array.from({ length: prepared.order.choices }, () => ({
        pieces: [] as Piece[],
        reason: "stop" as FinishReason,
      }));
      const usage = await make(prepared, place, delivery, signal, {
        piece: (choice, piece) => void choices[choice]!.pieces.push(piece),
        finish: (choice, reason) => void (choices[choice]!.reason = reason),
      });
      return usage instanceof ApiError ? errorResponse(usage) : Response.json(endpoint.whole(head, choices, usage));
    }
    const body = new ReadableStream<string>({
      async start(controller) {
        const events = endpoint.stream(head);
        const send = (written: string) => {
          if (written !== "" && !closed.signal.aborted) controller.enqueue(written);
        };
        send(events.begin());
        const usage = await make(prepared, place, delivery, signal, {
          piece: (choice, piece) => send(events.piece(choice, piece)),
          finish: (choice, reason) => send(events.finish(choice, reason)),
        });
        send(usage instanceof ApiError ? events.fail(usage) : events.end(usage));
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

function usageOf({ prompt, reasoning }: AnswerOrder, made: readonly Made[]): Usage {
  const sum = (of: (one: Made) => number) => made.reduce((total, one) => total + of(one), 0);
  return {
    promptTokens: prompt.length,
    // The other choices find the prompt there.
    cachedTokens: made[0]?.cached ?? 0,
    answerTokens: sum(({ tokens }) => tokens),
    reasoningTokens: reasoning === "none" ? null : sum((one) => one.reasoning),
  };
}
