import { createInterface, type Interface } from "node:readline";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { chatOptionsSchema, type Conversation, openChat } from "../../library/chat.ts";
import { describeFlags } from "../flags/flags.ts";
import { readFlags } from "../flags/model-flags.ts";
import { createVerbSink } from "../terminal/verb-events.ts";

const schema = chatOptionsSchema.extend({
  prompt: z.string().min(1).optional().describe("answer this and exit"),
});

export { schema as flags };

export function help(): string {
  return `Talks with a model. Each line of input is a message; /reset starts anew, /exit or the end of input leaves, Ctrl-C ends an
answer. In a pipe only the answers are written.

Usage: remat chat --model DIR [--adapter DIR] [--prompt TEXT] [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { prompt, ...options } = readFlags("chat", schema, args);
  const sink = createVerbSink(false, (event) => {
    if (event.type === "sampling" && process.stderr.isTTY === true) process.stderr.write(`sampling: ${event.text}\n`);
  });
  const conversation = await openChat(options, { sink });
  try {
    if (prompt === undefined) await converse(conversation);
    else await say(conversation, prompt);
    return 0;
  } finally {
    conversation.close();
  }
}

/** Streams an answer to stdout. */
async function say(conversation: Conversation, text: string, signal?: AbortSignal): Promise<void> {
  await conversation.say(text, { onText: (piece) => void process.stdout.write(piece), signal });
  process.stdout.write("\n");
}

async function converse(conversation: Conversation): Promise<void> {
  const isTerminal = process.stdin.isTTY === true;
  const lines: Interface = createInterface({
    input: process.stdin,
    terminal: isTerminal,
    ...(isTerminal ? { output: process.stdout } : {}),
  });
  /** Cuts the answer that is being made. */
  let interrupter: AbortController | null = null;
  const interrupt = () => {
    if (interrupter) interrupter.abort();
    else lines.close();
  };
  lines.on("SIGINT", interrupt);
  process.on("SIGINT", interrupt);
  lines.setPrompt("> ");
  try {
    if (isTerminal) lines.prompt();
    for await (const line of lines) {
      const content = line.trim();
      if (content === "/exit") break;
      if (content === "/reset") conversation.reset();
      else if (content !== "") {
        interrupter = new AbortController();
        try {
          await say(conversation, content, interrupter.signal);
        } catch (error) {
          // In a terminal, a conversation that has become too long is no reason to leave.
          if (!isTerminal || !(error instanceof UserError)) throw error;
          process.stderr.write(`${error.message}; /reset starts anew\n`);
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
