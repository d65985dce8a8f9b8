import { type ChatTemplate, chatTemplateOf, type Conversation } from "../data/chat/chat-template.ts";
import { exampleOf } from "../data/examples/formats.ts";
import { refuseForeign } from "../data/examples/wrong-files.ts";
import { readLines, textOf } from "../data/examples/lines.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { parseJsonObject } from "../base/json.ts";

/** Asks for an answer to a conversation. @throws {UserError} the template refuses it */
export function chatPrompt(tokenizer: Tokenizer, template: ChatTemplate, conversation: Conversation): Int32Array {
  return tokenizer.encode(template.render({ ...conversation, addGenerationPrompt: true }));
}

/** Asks for the continuation of a text. */
export function rawPrompt(tokenizer: Tokenizer, text: string): Int32Array {
  return Int32Array.from([...tokenizer.prefix, ...tokenizer.encode(text)]);
}

/** What a model is asked, as tokens, and the line that the answer goes into. */
export interface Prompt {
  readonly ids: Int32Array;
  readonly where: string;
  /** The record that says what was answered. */
  withAnswer(answer: string): Readonly<Record<string, unknown>>;
}

/**
 * The prompts of a JSONL file: any training format, of which answers at the end are left away, or `{"prompt"}` alone.
 * @throws {UserError} at the first bad line, with file and line
 */
export function* readPrompts(path: string, tokenizer: Tokenizer): Generator<Prompt> {
  refuseForeign(path);
  for (const line of readLines(path)) {
    const where = `${path}:${line.number}`;
    yield promptOf(parseJsonObject(textOf(line, where), where), where, tokenizer);
  }
}

/** The prompt of one record; `where` names its place in errors. @throws {UserError} */
export function promptOf(record: Record<string, unknown>, where: string, tokenizer: Tokenizer): Prompt {
  const isBare = "prompt" in record && !("completion" in record);
  const completion = Array.isArray(record["prompt"]) ? [{ role: "assistant", content: "-" }] : "-";
  const example = exampleOf(isBare ? { ...record, completion } : withAssistant(record), where);
  if (example.kind !== "chat") {
    const prompt = example.kind === "text" ? example.text : example.prompt;
    return { ids: rawPrompt(tokenizer, prompt), where, withAnswer: (answer) => ({ prompt, completion: answer }) };
  }
  const last = example.messages.findLastIndex((message) => message.role !== "assistant");
  const messages = example.messages.slice(0, last + 1).map((message) => message.fields);
  const template = chatTemplateOf(tokenizer, { tools: example.tools !== null });
  const ids = chatPrompt(tokenizer, template, { messages, tools: example.tools });
  const tools = example.tools === null ? {} : { tools: example.tools };
  return { ids, where, withAnswer: (content) => ({ messages: [...messages, { role: "assistant", content }], ...tools }) };
}

/** Training examples end with an answer; a conversation that waits for one gets a stand-in. */
function withAssistant(record: Record<string, unknown>): Record<string, unknown> {
  const { messages } = record;
  if (!Array.isArray(messages)) return record;
  const last = messages.at(-1) as { role?: unknown } | undefined;
  return last?.role === "assistant" ? record : { ...record, messages: [...messages, { role: "assistant", content: "-" }] };
}
