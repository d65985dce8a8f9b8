import { z } from "zod";
import { chatTemplateOf } from "../data/chat/chat-template.ts";
import { type Answer, answer } from "../generate/answer.ts";
import { stopTokens } from "../generate/generate.ts";
import { openDecoders } from "../generate/open-decoder.ts";
import { chatPrompt, rawPrompt } from "../generate/prompts.ts";
import { endsInReasoning, reasoningTokens, separateReasoning, writesReasoning } from "../generate/reasoning.ts";
import { createSampler } from "../generate/sampler.ts";
import { openModelOnDevice } from "../load/open-model.ts";
import { storageOf } from "../load/weights.ts";
import {
  type CallOptions,
  CHAT_OPTIONS,
  chooseSampling,
  checkOf,
  MODEL_OPTIONS,
  SAMPLING_OPTIONS,
  validateOptions,
  readingOf,
} from "./options.ts";

export const chatOptionsSchema = z.strictObject({
  ...MODEL_OPTIONS,
  ...CHAT_OPTIONS,
  system: z.string().min(1).optional().describe("system message"),
  raw: z.boolean().default(false).describe("continue the text itself, without the chat template"),
  ...SAMPLING_OPTIONS,
});

export type ChatOptions = z.input<typeof chatOptionsSchema>;

interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  readonly reasoning_content?: string;
}

export interface SayOptions {
  /** Takes the answer piece by piece, as its text becomes certain. */
  readonly onText?: ((piece: string) => void) | undefined;
  /** Cuts the answer between two tokens. */
  readonly signal?: AbortSignal | undefined;
}

/** A conversation with a model that is in memory. */
export interface Conversation {
  /**
   * Says something and returns the answer; both become part of the conversation. One answer is made at a time; the event loop
   * gets in between two tokens.
   * @throws {UserError} a conversation that has become too long, which leaves the conversation as it was
   */
  say(text: string, options?: SayOptions): Promise<string>;
  /** Forgets what was said. */
  reset(): void;
  /** Frees the model. */
  close(): void;
}

/** Opens a model to talk with. @throws {UserError} a model that is missing or does not fit */
export async function openChat(options: ChatOptions, { sink = () => {} }: Pick<CallOptions, "sink"> = {}): Promise<Conversation> {
  const flags = validateOptions(chatOptionsSchema, options);
  const { model, executor, close } = await openModelOnDevice(flags, {
    onNote: (text) => sink({ type: "note", text }),
    check: checkOf(flags),
  });
  try {
    const { config, tokenizer } = model;
    const warn = (text: string) => sink({ type: "warning", text });
    const { options: sampling, text: described } = chooseSampling(flags, model.folder, warn);
    sink({ type: "sampling", text: described });
    const template = flags.raw ? null : chatTemplateOf(tokenizer);
    const toPrompt = (messages: readonly Message[]): Int32Array =>
      template === null
        ? rawPrompt(tokenizer, messages.map(({ content }) => content).join(""))
        : chatPrompt(tokenizer, template, { messages: messages.map((message) => ({ ...message })) });
    const room = flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens };
    const reading = readingOf(flags, (text) => sink({ type: "note", text }));
    const decoders = await openDecoders(executor, { ...model, ...storageOf(flags), ...room }, 1, reading);
    const decoder = decoders.each[0]!;
    const sampler = createSampler(sampling);
    const keptTokens = flags.raw ? new Set<number>() : reasoningTokens(tokenizer);
    const limits = { sampler, keptTokens, stop: stopTokens(config, tokenizer), limit: sampling.maxNewTokens };
    const start: readonly Message[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
    let messages = start;
    /** The answer as templates take it: what was thought beside what was said. */
    const said = (answer: string, prompt: readonly number[]): Message => {
      if (template === null || !writesReasoning(template.source)) return { role: "assistant", content: answer };
      const { text, reasoning } = separateReasoning(answer, endsInReasoning(tokenizer, prompt));
      return { role: "assistant", content: text, ...(reasoning === null ? {} : { reasoning_content: reasoning }) };
    };
    return {
      async say(text, { onText = () => {}, signal } = {}) {
        const asked: readonly Message[] = [...messages, { role: "user", content: text }];
        const prompt = [...toPrompt(asked)];
        const made: Answer = await answer({ decoder, tokenizer }, prompt, { ...limits, onText, ...(signal ? { signal } : {}) });
        messages = [...asked, said(made.text, prompt)];
        return made.text;
      },
      reset() {
        messages = start;
      },
      close() {
        decoders.close();
        close();
      },
    };
  } catch (error) {
    close();
    throw error;
  }
}
