import { createInterface, type Interface } from "node:readline";
import { z } from "zod";
import { chatTemplateOf } from "../data/chat-template.ts";
import type { Tokenizer } from "../data/tokenizer.ts";
import { UserError } from "../errors.ts";
import { createDecoder, type Decoder } from "../generate/decoder.ts";
import { generate, stopTokens } from "../generate/generate.ts";
import { createSampler, type Sampler } from "../generate/sampler.ts";
import { createTextStream } from "../generate/text-stream.ts";
import { describeFlags } from "./flags.ts";
import { chooseSampling, MODEL_FLAGS, readFlags, SAMPLING_FLAGS, withModel } from "./model-flags.ts";

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
  return withModel(flags, async (model, executor) => {
    const { config, tokenizer } = model;
    const { options, text } = chooseSampling(flags, model.folder);
    if (process.stderr.isTTY === true) process.stderr.write(`sampling: ${text}\n`);
    const toPrompt = flags.raw ? rawPrompt(tokenizer) : chatPrompt(tokenizer);
    const decoder = createDecoder(executor, {
      ...model,
      ...(flags.maxTokens === undefined ? {} : { maxTokens: flags.maxTokens }),
    });
    const sampler = createSampler(options);
    const talk = { tokenizer, decoder, sampler, stop: stopTokens(config, tokenizer), limit: options.maxNewTokens };
    const start: Message[] = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
    if (flags.prompt !== undefined) {
      await answer(talk, toPrompt([...start, { role: "user", content: flags.prompt }]), () => false);
      return 0;
    }
    await converse(talk, toPrompt, start);
    return 0;
  });
}

type ToPrompt = (messages: readonly Message[]) => Int32Array;

function chatPrompt(tokenizer: Tokenizer): ToPrompt {
  const template = chatTemplateOf(tokenizer);
  return (messages) =>
    tokenizer.encode(template.render({ messages: messages.map((message) => ({ ...message })), addGenerationPrompt: true }));
}

/** All that was said, one after the other. */
function rawPrompt(tokenizer: Tokenizer): ToPrompt {
  return (messages) =>
    Int32Array.from([...tokenizer.prefix, ...tokenizer.encode(messages.map(({ content }) => content).join(""))]);
}

interface Talk {
  readonly tokenizer: Tokenizer;
  readonly decoder: Decoder;
  readonly sampler: Sampler;
  readonly stop: ReadonlySet<number>;
  readonly limit: number;
}

/** Streams an answer to stdout and returns it. */
async function answer(talk: Talk, prompt: Int32Array, isStopped: () => boolean): Promise<string> {
  const stream = createTextStream(talk.tokenizer);
  let text = "";
  const write = (piece: string) => {
    text += piece;
    if (piece !== "") process.stdout.write(piece);
  };
  for (const id of generate(talk.decoder, [...prompt], talk)) {
    write(stream.push(id));
    // Signals and a closed pipe are noticed between two tokens.
    await new Promise((resolve) => setImmediate(resolve));
    if (isStopped()) break;
  }
  write(stream.end());
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
  let isAnswering = false;
  let isStopped = false;
  const interrupt = () => {
    if (isAnswering) isStopped = true;
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
        [isAnswering, isStopped] = [true, false];
        try {
          messages.push({ role: "assistant", content: await answer(talk, toPrompt(messages), () => isStopped) });
        } catch (error) {
          // In a terminal, a conversation that has become too long is no reason to leave.
          if (!isTerminal || !(error instanceof UserError)) throw error;
          process.stderr.write(`${error.message}; /reset starts anew\n`);
          messages.pop();
        }
        isAnswering = false;
      }
      if (isTerminal) lines.prompt();
    }
  } finally {
    process.off("SIGINT", interrupt);
    lines.close();
  }
}
