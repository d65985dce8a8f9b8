import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { Decoder } from "./decoders.ts";
import { generateInPieces, generateLater, type GenerateOptions } from "./generate.ts";
import { createStopText } from "./stop-text.ts";
import { createTextStream } from "./text-stream.ts";

export interface AnswerOptions extends GenerateOptions {
  /** Texts that end the answer; they are not part of it. */
  readonly stopTexts?: readonly string[];
  /** Special tokens whose texts are written. */
  readonly keptTokens?: ReadonlySet<number>;
  /** Cuts the answer between two tokens. */
  readonly signal?: AbortSignal;
  /** Told of each token of the answer how many characters become certain with it, before `onText` is. */
  readonly onToken?: ((characters: number) => void) | undefined;
  /** Takes the text as it becomes certain: whole characters, and nothing of a stop text. Never `""`. */
  onText(piece: string): void;
}

export interface Answer {
  readonly text: string;
  /** A stop token or a stop text, the limit or the end of the room, or the signal. */
  readonly reason: "stop" | "length" | "cut";
  /** Tokens of the prompt that the cache held. */
  readonly cached: number;
  /** Tokens that were generated, with those that ended the text. */
  readonly tokens: number;
}

/** The decoder and tokenizer that make an answer. */
export interface Answerer {
  readonly decoder: Decoder;
  readonly tokenizer: Tokenizer;
  /** The logits behind a text that has grown by a token, where they may be computed together with those of others; see `generateLater`. */
  readonly next?: ((ids: readonly number[]) => Promise<Float32Array>) | undefined;
}

/** Continues a prompt as text. Signals, timers and connections get in between two tokens, and between chunks of the prompt. */
export async function answer(
  { decoder, tokenizer, next }: Answerer,
  prompt: readonly number[],
  options: AnswerOptions,
): Promise<Answer> {
  const { signal } = options;
  const { stopTexts = [], keptTokens } = options;
  const stream = createTextStream(tokenizer, keptTokens);
  const stops = createStopText(stopTexts);
  // A special token is not written, so its text would never come.
  const stop = new Set([...options.stop, ...stopTexts.flatMap((text) => tokenizer.specialTokens.get(text) ?? [])]);
  let text = "";
  const write = (piece: string) => {
    text += piece;
    if (piece !== "") options.onText(piece);
  };
  let cached: number | null = null;
  let tokens = 0;
  const ended = (reason: Answer["reason"]): Answer => ({ text, reason, cached: cached ?? 0, tokens });
  const generation = { ...options, stop };
  const steps = next ? generateLater(decoder, prompt, generation, next) : generateInPieces(decoder, prompt, generation);
  let step = await steps.next();
  for (; !step.done; step = await steps.next()) {
    if ("held" in step.value) cached ??= step.value.held;
    else {
      tokens++;
      const certain = stream.push(step.value.id);
      options.onToken?.(certain.length);
      const { text: piece, isStopped } = stops.push(certain);
      write(piece);
      if (isStopped) return ended("stop");
    }
    await new Promise((resolve) => setImmediate(resolve));
    if (signal?.aborted === true) break;
  }
  const last = stops.push(stream.end());
  write(last.text);
  if (last.isStopped) return ended("stop");
  write(stops.end());
  if (step.done !== true) return ended("cut");
  if (step.value) tokens++;
  return ended(step.value ? "stop" : "length");
}
