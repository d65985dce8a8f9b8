import { endOfTurn } from "../data/chat/end-of-turn.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { ModelConfig } from "../models/config.ts";
import type { Decoder, Decoders } from "./decoders.ts";
import type { Sampler } from "./sampler.ts";

export interface GenerateOptions {
  /** New tokens at most. */
  readonly limit: number;
  /** Tokens that end the text; they are not part of it. */
  readonly stop: ReadonlySet<number>;
  readonly sampler: Sampler;
}

/** Describes what happens on the way of a generation: the cache holds so many tokens of the prompt and more are to come, or a new token. */
export type GenerateStep = { readonly held: number } | { readonly id: number };

/** Continues a prompt, token by token, until a stop token, the limit, or the end of the decoder's room. */
export function* generate(decoder: Decoder, prompt: readonly number[], options: GenerateOptions): Generator<number, void> {
  for (const step of generateInPieces(decoder, prompt, options)) if ("id" in step) yield step.id;
}

/**
 * As `generate`, with a pause between two chunks of the prompt too; the first is before anything is computed. Returns whether
 * a stop token ended the text.
 */
export function* generateInPieces(
  decoder: Decoder,
  prompt: readonly number[],
  { limit, stop, sampler }: GenerateOptions,
): Generator<GenerateStep, boolean> {
  const ids = [...prompt];
  for (let count = 0; count < limit && (count === 0 || ids.length <= decoder.maxTokens); count++) {
    const pieces = decoder.feedInPieces(ids);
    let piece = pieces.next();
    for (; !piece.done; piece = pieces.next()) if (count === 0) yield { held: piece.value };
    const id = sampler(piece.value, ids);
    if (stop.has(id)) return true;
    yield { id };
    ids.push(id);
  }
  return false;
}

/**
 * As `generateInPieces`, where the logits behind each new token may be computed later, together with those of other texts.
 * @param next as `Decoder.feed`, of a text that has grown by a token
 */
export async function* generateLater(
  decoder: Decoder,
  prompt: readonly number[],
  { limit, stop, sampler }: GenerateOptions,
  next: (ids: readonly number[]) => Promise<Float32Array>,
): AsyncGenerator<GenerateStep, boolean, void> {
  const ids = [...prompt];
  for (let count = 0; count < limit && (count === 0 || ids.length <= decoder.maxTokens); count++) {
    let logits: Float32Array;
    if (count === 0) {
      const pieces = decoder.feedInPieces(ids);
      let piece = pieces.next();
      for (; !piece.done; piece = pieces.next()) yield { held: piece.value };
      logits = piece.value;
    } else logits = await next(ids);
    const id = sampler(logits, ids);
    if (stop.has(id)) return true;
    yield { id };
    ids.push(id);
  }
  return false;
}

/**
 * As `generate`, of many prompts, of which as many as there are decoders are under way at a time. Yields each prompt's number and its new
 * tokens in the order in which they end, and null after each round of one token for all that are under way. The tokens are those of a
 * decoder that is new for each prompt.
 */
export function* generateAll(
  decoders: Decoders,
  prompts: readonly ArrayLike<number>[],
  optionsOf: (prompt: number) => GenerateOptions,
): Generator<readonly [prompt: number, ids: readonly number[]] | null, void> {
  const waiting = prompts.entries();
  const running = new Map<
    number,
    GenerateOptions & { readonly prompt: number; readonly text: number[]; readonly ids: number[] }
  >();
  for (;;) {
    for (const [number, decoder] of decoders.each.entries()) {
      if (running.has(number)) continue;
      const next = waiting.next();
      if (next.done === true) break;
      const [prompt, ids] = next.value;
      const text = Array.from(ids);
      decoder.startAnew(text);
      running.set(number, { ...optionsOf(prompt), prompt, text, ids: [] });
    }
    if (running.size === 0) return;
    const logits = decoders.feed(new Map([...running].map(([number, { text }]) => [number, text])));
    for (const [number, { prompt, text, ids, sampler, stop, limit }] of running) {
      const id = sampler(logits.get(number)!, text);
      const isStop = stop.has(id);
      if (!isStop) {
        ids.push(id);
        text.push(id);
      }
      if (!isStop && ids.length < limit && text.length <= decoders.each[number]!.maxTokens) continue;
      running.delete(number);
      yield [prompt, ids];
    }
    yield null;
  }
}

/** The tokens that end an answer: the model's, the tokenizer's and the chat template's. */
export function stopTokens(config: ModelConfig, tokenizer: Tokenizer): Set<number> {
  const ids = [...config.eosTokenIds, tokenizer.eosId, endOfTurn(tokenizer)?.id ?? null];
  return new Set(ids.filter((id) => id !== null));
}
