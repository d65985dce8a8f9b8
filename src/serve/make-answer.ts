import { type Answer, answer } from "../generate/answer.ts";
import { type ChosenToken, tellingLogprobs } from "../generate/logits/logprobs.ts";
import { createPenalties } from "../generate/logits/penalties.ts";
import { reasoningTokens } from "../generate/reasoning.ts";
import { createConstraint, NO_TOKEN } from "../generate/grammar/constraint.ts";
import { createSampler, type Sampler } from "../generate/sampler.ts";
import type { AnswerOrder, AnsweringModel } from "./answer-orders.ts";
import type { FinishReason, Piece } from "./api/endpoint.ts";
import { refusingLater } from "./http/errors.ts";
import { createPartReader, type Part } from "./parts.ts";
import { createTokenPlaces } from "./token-places.ts";
import type { Turns } from "./turns.ts";

/** One of the answers to an order, when it is over. */
export interface Made {
  /** null: it was cut. */
  readonly reason: FinishReason | null;
  readonly cached: number;
  readonly tokens: number;
  readonly reasoning: number;
}

/** Takes the answers to a request as they are made. */
export interface Receiver {
  piece(choice: number, piece: Piece): void;
  finish(choice: number, reason: FinishReason): void;
}

/**
 * Makes the answers to an order one after the other in the place that the request has, and beside it in places that nobody waits for.
 * @throws what keeps one from being made
 */
export async function makeChoices(
  prepared: { readonly order: AnswerOrder; readonly model: AnsweringModel },
  turns: Pick<Turns, "enterFree">,
  signal: AbortSignal,
  receiver: Receiver,
): Promise<Made[]> {
  const made: Made[] = [];
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  let next = 0;
  const makeNext = async (): Promise<void> => {
    const choice = next++;
    try {
      const one = await makeAnswer(prepared, choice, either, (piece) => receiver.piece(choice, piece));
      made[choice] = one;
      if (one.reason !== null) receiver.finish(choice, one.reason);
    } catch (error) {
      failed.abort(error);
    }
  };
  const isOver = () => next === prepared.order.choices || either.aborted;
  const inOwnPlace = async () => {
    while (!isOver()) await makeNext();
  };
  const inFreePlaces = async () => {
    while (!isOver()) {
      const leave = turns.enterFree();
      if (leave === null) return;
      await makeNext().finally(leave);
    }
  };
  const own = inOwnPlace();
  await Promise.all([own, ...Array.from({ length: prepared.order.choices - 1 }, inFreePlaces)]);
  if (failed.signal.aborted) throw failed.signal.reason;
  return made;
}

/**
 * Makes one of the answers to an order.
 * @param choice its number, from 0 on
 */
async function makeAnswer(
  { order, model }: { readonly order: AnswerOrder; readonly model: AnsweringModel },
  choice: number,
  signal: AbortSignal,
  onPiece: (piece: Piece) => void,
): Promise<Made> {
  const { prompt, limit, stopTexts, logprobs } = order;
  const { tokenizer } = model;
  const stop = order.form === null ? model.stop : new Set([...model.stop, NO_TOKEN]);
  const reader = createPartReader(order);
  const places = createTokenPlaces(tokenizer);
  let chosen: ChosenToken | null = null;
  const own = samplerOf(order, model, choice);
  const sampler = logprobs === null ? own : tellingLogprobs(own, logprobs, (token) => (chosen = token));
  let calls = 0;
  const give = (part: Part) => {
    if ("call" in part) calls++;
    onPiece({ part, tokens: places.take(part) });
  };
  const keptTokens = order.reasoning === "none" ? new Set<number>() : reasoningTokens(tokenizer);
  const seat = await model.seatFor(prompt);
  let made: Answer;
  try {
    if (order.isExact) seat.decoder.startAnew(prompt);
    const making = answer({ tokenizer, ...seat }, prompt, {
      limit,
      stop,
      stopTexts,
      keptTokens,
      sampler,
      signal,
      onToken: (characters) => places.add(characters, chosen),
      onText: (text) => reader.push(text).forEach(give),
    });
    // A schema may turn out to be too much on the way.
    made = await (order.form === null ? making : refusingLater(order.form.param, "invalid_value", making));
  } finally {
    seat.leave();
  }
  reader.end().forEach(give);
  const { reason, cached, tokens } = made;
  return { reason: reason === "cut" ? null : finishReason(reason, calls), cached, tokens, reasoning: places.reasoning };
}

function samplerOf(
  { prompt, limit, sampling, penalties, form }: AnswerOrder,
  { stop, maxTokens }: AnsweringModel,
  choice: number,
): Sampler {
  const { presence, frequency, bias } = penalties;
  const rules = presence === 0 && frequency === 0 && bias.size === 0 ? [] : [createPenalties(penalties)];
  // The context has room for one token more than it holds: its last one is not fed.
  const room = Math.min(limit, maxTokens - prompt.length + 1);
  const constraint = form === null ? null : createConstraint({ ...form, stop, limit: room });
  return createSampler({ ...sampling, seed: sampling.seed + choice }, rules, constraint);
}

/** An answer that ended by itself with calls in it waits for their results. */
function finishReason(reason: "stop" | "length", calls: number): FinishReason {
  return reason === "stop" && calls > 0 ? "tool_calls" : reason;
}
