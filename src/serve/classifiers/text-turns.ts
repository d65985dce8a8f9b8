import type { LoadedTexts, ModelKind } from "../../generate/texts/open-texts.ts";
import { ApiError, clientGone, stopping } from "../http/errors.ts";
import { createTurns } from "../turns.ts";

/** A model that a request has named. */
export interface NamedTexts {
  readonly name: string;
  /** Runs with the model in memory; it stays there until the end. @throws {ApiError} memory that others hold */
  use<T>(run: (texts: LoadedTexts) => Promise<T>): Promise<T>;
}

/** Returns the model of a request. @throws {ApiError} there is none of the name, or it reads no whole texts */
export type FindTexts = (model: string | undefined) => NamedTexts;

/** The time of one request. */
export interface Turn {
  /** Seconds in the queue. */
  readonly waited: number;
  /** Lets others get in. @throws {ApiError} nobody waits for the answer any more */
  breathe(): Promise<void>;
}

/** Gives requests their turns, one at a time; so many wait. */
export type TextTurns = <T>(signal: AbortSignal, run: (turn: Turn) => Promise<T>) => Promise<T>;

export function createTextTurns({
  waiting,
  shutdown,
}: {
  readonly waiting: number;
  /** From when it is aborted nothing is answered any more. */
  readonly shutdown: AbortSignal;
}): TextTurns {
  const turns = createTurns(waiting);
  /** Seconds of the last request: after about so long there is a place in the queue again. */
  let lastSeconds = 0;
  return async (client, run) => {
    const signal = AbortSignal.any([client, shutdown]);
    const cut = () => (shutdown.aborted ? stopping() : clientGone());
    const place = turns.enter(signal);
    if (place === null)
      throw new ApiError(429, `${waiting} requests wait already; come back later`, {
        code: "rate_limit_exceeded",
        headers: { "retry-after": String(Math.max(1, Math.ceil(lastSeconds))) },
      });
    const asked = performance.now();
    let leave: () => void;
    try {
      leave = await place;
    } catch {
      throw cut();
    }
    const begin = performance.now();
    try {
      return await run({
        waited: (begin - asked) / 1000,
        async breathe() {
          await Bun.sleep(0);
          if (signal.aborted) throw cut();
        },
      });
    } finally {
      lastSeconds = (performance.now() - begin) / 1000;
      leave();
    }
  };
}

/** @throws {ApiError} a model of another kind */
export function expectKind<K extends LoadedTexts["kind"]>(
  name: string,
  texts: LoadedTexts,
  kind: K,
): Extract<LoadedTexts, { readonly kind: K }> {
  if (texts.kind === kind) return texts as Extract<LoadedTexts, { readonly kind: K }>;
  throw otherEndpoint(name, texts.kind);
}

/** @throws {ApiError} a model that generates no text */
export function expectAnswers(name: string, kind: ModelKind): void {
  if (kind !== "answers") throw otherEndpoint(name, kind);
}

/** Says what a model is asked for. */
export function otherEndpoint(name: string, kind: ModelKind): ApiError {
  const what = {
    answers: "generates text: POST /v1/chat/completions, /v1/responses or /v1/completions",
    embeds: "makes embeddings: POST /v1/embeddings",
    judges: "judges texts: POST /v1/classify or /v1/rerank",
  }[kind];
  return new ApiError(400, `${name} ${what}`, { param: "model", code: "unsupported" });
}
