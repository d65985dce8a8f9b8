import { type ChatTemplate, chatTemplateOf } from "../data/chat/chat-template.ts";
import { fieldsOf, refuseLostContext } from "../data/chat/losses.ts";
import { holdsSpecialText, specialTextPattern, specialTextPlaces } from "../data/chat/special-text.ts";
import type { Conversation } from "../data/chat/conversation.ts";
import { createUnusedCounter, type Mapping } from "../data/examples/columns.ts";
import { readEntries } from "../data/examples/dataset.ts";
import {
  type CompletionExample,
  type ContrastExample,
  type Example,
  exampleOf,
  type RankedExample,
  type ScoredExample,
  type TextExample,
} from "../data/examples/formats.ts";
import type { DataRecord } from "../data/examples/values.ts";
import { type Tokenizer, withPrefix } from "../data/tokens/tokenizer.ts";
import { endsInReasoning, separateReasoning, type SeparateAnswer, writesReasoning } from "./reasoning.ts";

/** A text that asks for an answer. */
export interface PromptText {
  readonly text: string;
  /** Places (UTF-16 units, ascending) where a special token's text is text like any other. */
  readonly plain: readonly number[];
}

/** Asks for an answer to a conversation. @throws {UserError} the template refuses it */
export function chatPrompt(tokenizer: Tokenizer, template: ChatTemplate, conversation: Conversation): Int32Array {
  const { text, plain } = chatText(tokenizer, template, conversation);
  return tokenizer.encode(text, plain);
}

/** The same as text. @throws {UserError} the template refuses it */
export function chatText(tokenizer: Tokenizer, template: ChatTemplate, conversation: Conversation): PromptText {
  const asking = { ...conversation, addGenerationPrompt: true };
  const text = template.render(asking);
  const special = tokenizer.specialText === "escape" ? specialTextPattern(tokenizer.specialTokens.keys()) : null;
  const isPlain = special === null || !holdsSpecialText([conversation.messages, conversation.tools], special);
  return { text, plain: isPlain ? [] : specialTextPlaces(template, asking, text, special, "the conversation") };
}

/** Asks for the continuation of a text. */
export function rawPrompt(tokenizer: Tokenizer, text: string): Int32Array {
  return withPrefix(tokenizer, tokenizer.encode(text));
}

/** Describes what a model is asked, as tokens, and the line that the answer goes into. */
export interface Prompt {
  readonly ids: Int32Array;
  readonly where: string;
  /** The answer without the reasoning before it. */
  separate(answer: string): SeparateAnswer;
  /** The record that says what was answered. */
  withAnswer(answer: SeparateAnswer): Readonly<Record<string, unknown>>;
}

/** The answer in a record that `withAnswer` made. */
export function answerIn(record: Readonly<Record<string, unknown>>): SeparateAnswer {
  const { completion, messages } = record as { completion?: string; messages?: readonly Readonly<Record<string, string>>[] };
  const last = messages?.at(-1);
  return { text: completion ?? last?.["content"] ?? "", reasoning: last?.["reasoning_content"] ?? null };
}

/**
 * The prompts of a file: any training format, of which answers at the end are left away, or a record without an answer, such as
 * `{"prompt"}` alone.
 * @param onNote told which columns are not used, at the end
 * @throws {UserError} at the first bad record, with its place
 */
export async function* readPrompts(
  path: string,
  tokenizer: Tokenizer,
  { mapping, onNote }: { readonly mapping: Mapping; readonly onNote: (note: string) => void },
): AsyncGenerator<Prompt> {
  const unused = createUnusedCounter();
  for await (const entry of readEntries(path, { mapping, unused: unused.count }))
    yield promptOfExample(entry.parse(withAnswer), entry.where, tokenizer);
  const note = unused.note(path);
  if (note !== null) onNote(note);
}

/** The prompt of one record; `where` names its place in errors. @throws {UserError} */
export function promptOf(record: DataRecord, where: string, tokenizer: Tokenizer): Prompt {
  return promptOfExample(exampleOf(withAnswer(record), where), where, tokenizer);
}

function questionOf(example: TextExample | CompletionExample | ContrastExample | RankedExample | ScoredExample): string {
  switch (example.kind) {
    case "text":
      return example.text;
    case "completion":
      return example.prompt;
    case "contrast":
      return example.anchor;
    case "ranked":
      return example.query;
    case "scored":
      return example.first;
  }
}

function promptOfExample(example: Example, where: string, tokenizer: Tokenizer): Prompt {
  if (example.kind === "preference") return promptOfExample(example.chosen, where, tokenizer);
  if (example.kind === "unpaired" || example.kind === "told") return promptOfExample(example.answer, where, tokenizer);
  if (example.kind === "labelled") return promptOfExample(example.content, where, tokenizer);
  if (example.kind !== "chat") {
    const prompt = questionOf(example);
    return {
      ids: rawPrompt(tokenizer, prompt),
      where,
      separate: (text) => ({ text, reasoning: null }),
      withAnswer: ({ text }) => ({ prompt, completion: text }),
    };
  }
  const last = example.messages.findLastIndex((message) => message.role !== "assistant");
  const asked = { ...example, messages: example.messages.slice(0, last + 1) };
  const messages = fieldsOf(asked.messages);
  const template = chatTemplateOf(tokenizer, { tools: example.tools !== null });
  refuseLostContext(template, asked);
  const ids = chatPrompt(tokenizer, template, { messages, tools: example.tools, args: example.args });
  const more = {
    ...(example.tools ? { tools: example.tools } : {}),
    ...(example.args ? { chat_template_kwargs: example.args } : {}),
  };
  const isOpen = endsInReasoning(tokenizer, ids);
  const separate = (answer: string): SeparateAnswer =>
    writesReasoning(template.source) ? separateReasoning(answer, isOpen) : { text: answer, reasoning: null };
  return {
    ids,
    where,
    separate,
    withAnswer({ text: content, reasoning }) {
      const thought = reasoning === null ? {} : { reasoning_content: reasoning };
      return { messages: [...messages, { role: "assistant", content, ...thought }], ...more };
    },
  };
}

/** Keys that ask, and those that answer: a record that only asks gets a stand-in for its answer. */
const ANSWERS = [
  ["prompt", "completion"],
  ["question", "answer"],
  ["instruction", "output"],
] as const;

const STAND_IN = "-";

/** Training examples end with an answer; a record that waits for one gets a stand-in. */
function withAnswer(record: DataRecord): DataRecord {
  const { messages } = record;
  if (Array.isArray(messages)) {
    const last = messages.at(-1) as { role?: unknown } | undefined;
    return last?.role === "assistant" ? record : { ...record, messages: [...messages, { role: "assistant", content: STAND_IN }] };
  }
  const waiting = ANSWERS.find(
    ([ask, answer]) => Object.hasOwn(record, ask) && (record[answer] ?? null) === null && !Object.hasOwn(record, "chosen"),
  );
  if (!waiting) return record;
  const [ask, answer] = waiting;
  return { ...record, [answer]: Array.isArray(record[ask]) ? [{ role: "assistant", content: STAND_IN }] : STAND_IN };
}
