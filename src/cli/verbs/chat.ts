import { createInterface, type Interface } from "node:readline";
import { z } from "zod";
import { chatTemplateOf } from "../../data/chat/chat-template.ts";
import type { Tokenizer } from "../../data/tokens/tokenizer.ts";
import { UserError } from "../../base/errors.ts";
import { answer } from "../../generate/answer.ts";
import { createDecoder, type Decoder } from "../../generate/open-decoder.ts";
import { stopTokens } from "../../generate/generate.ts";
import { chatPrompt, rawPrompt } from "../../generate/prompts.ts";
import { createSampler, type Sampler } from "../../generate/sampler.ts";
import { printNote } from "../terminal/terminal.ts";
import { describeFlags } from "../flags/flags.ts";
import { chooseSampling, MODEL_FLAGS, readFlags, SAMPLING_FLAGS } from "../flags/model-flags.ts";
import { withModel } from "../../load/open-model.ts";

const schema = z.strictObject({
  ...MODEL_FLAGS,
  prompt: z.string().min(1).optional().describe("answer this and exit"),
  system: z.string().min(1).optional().describe("system message"),
  raw: z.boolean().default(false).describe("continue the text itself, without the chat template"),
  ...SAMPLING_FLAGS,
});

export { schema as flags };

export function help(): string {
  return `Talks with a model. Each line of input is a message; /reset starts anew, /exit or the end of input leaves, Ctrl-C ends an
answer. In a pipe only the answers are written.

Usage: remat chat --model DIR [--adapter DIR] [--prompt TEXT] [--flag value ...]

${describeFlags(schema)}`;
}

interface Message {
  readonly role: string;
  readonly content: string;
}

export async function run(args: readonly string[]): Promise<number> {
  const flags = readFlags("chat", schema, args);
  return withModel(
    flags,
    async (model, executor) => {
      const { config, tokenizer } = model;
      const { options, text } = chooseSampling(flags, model.folder);
      if (process.stderr.isTTY === true) process.stderr.write(`sampling: ${text}\n`);
      const toPrompt = flags.raw ? toRawPrompt(tokenizer) : toChatPrompt(tokenizer);
      const decoder = createDecoder(executor, {
        ...model,
        ...(flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens }),
      });
      const sampler = createSampler(options);
      const talk = { tokenizer, decoder, sampler, stop: stopTokens(config, tokenizer), limit: options.maxNewTokens };
      const start: Message[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
      if (flags.prompt !== undefined) {
        await say(talk, toPrompt([...start, { role: "user", content: flags.prompt }]));
        return 0;
      }
      await converse(talk, toPrompt, start);
      return 0;
    },
    { onNote: printNote },
  );
}

type ToPrompt = (messages: readonly Message[]) => Int32Array;

function toChatPrompt(tokenizer: Tokenizer): ToPrompt {
  const template = chatTemplateOf(tokenizer);
  return (messages) => chatPrompt(tokenizer, template, { messages: messages.map((message) => ({ ...message })) });
}

/** All that was said, one after the other. */
function toRawPrompt(tokenizer: Tokenizer): ToPrompt {
  return (messages) => rawPrompt(tokenizer, messages.map(({ content }) => content).join(""));
}

interface Talk {
  readonly tokenizer: Tokenizer;
  readonly decoder: Decoder;
  readonly sampler: Sampler;
  readonly stop: ReadonlySet<number>;
  readonly limit: number;
}

/** Streams an answer to stdout and returns it. */
async function say(talk: Talk, prompt: Int32Array, signal?: AbortSignal): Promise<string> {
  const onText = (piece: string) => void process.stdout.write(piece);
  const { text } = await answer(talk, [...prompt], { ...talk, onText, ...(signal ? { signal } : {}) });
  process.stdout.write("\n");
  return text;
}

async function converse(talk: Talk, toPrompt: ToPrompt, start: readonly Message[]): Promise<void> {
  const isTerminal = process.stdin.isTTY === true;
  const lines: Interface = createInterface({
    input: process.stdin,
    terminal: isTerminal,
    ...(isTerminal ? { output: process.stdout } : {}),
  });
  /** Of the answer that is being made. */
  let interrupter: AbortController | null = null;
  const interrupt = () => {
    if (interrupter) interrupter.abort();
    else lines.close();
  };
  lines.on("SIGINT", interrupt);
  process.on("SIGINT", interrupt);
  lines.setPrompt("> ");
  let messages = [...start];
  try {
    if (isTerminal) lines.prompt();
    for await (const line of lines) {
      const content = line.trim();
      if (content === "/exit") break;
      if (content === "/reset") messages = [...start];
      else if (content !== "") {
        messages.push({ role: "user", content });
        interrupter = new AbortController();
        try {
          messages.push({ role: "assistant", content: await say(talk, toPrompt(messages), interrupter.signal) });
        } catch (error) {
          // In a terminal, a conversation that has become too long is no reason to leave.
          if (!isTerminal || !(error instanceof UserError)) throw error;
          process.stderr.write(`${error.message}; /reset starts anew\n`);
          messages.pop();
        }
        interrupter = null;
      }
      if (isTerminal) lines.prompt();
    }
  } finally {
    process.off("SIGINT", interrupt);
    lines.close();
  }
}
