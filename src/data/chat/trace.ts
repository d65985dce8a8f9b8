import { attempt } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import type { Conversation, MessageFields, Range } from "./conversation.ts";
import { type Field, isPlain, markConversation, spanOf, unmark, type Unmarked, unusedCharacter } from "./marks.ts";

/** Describes what became of a conversation's fields in its rendering. */
export interface Trace {
  /** Fields that do not reach the text, or not whole. */
  readonly lost: readonly Field[];
  /** Where the words of a message stand, from the first to the last visible character; null: nowhere that can be told. */
  spanOf(message: number): Range | null;
}

/**
 * Follows each field of a conversation into its rendering. The conversation is rendered once more with marks in all of them; where
 * that gives the same text but for the marks, the marks say what is there and where. Where it does not, because the template
 * looks at what a text says, each field is marked alone, and what cannot be told by marks then is rendered without the field.
 * @param text the rendering of `conversation`
 */
export function traceConversation(template: ChatTemplate, conversation: Conversation, text: string): Trace {
  if (!isPlainlyThere(conversation, text, template.tags)) return traceByMarks(template, conversation, text);
  let marks: Trace | null = null;
  return { lost: [], spanOf: (message) => (marks ??= traceByMarks(template, conversation, text)).spanOf(message) };
}

/** Shorter words stand in a rendering by chance too: `a` in `assistant`. */
const SHORT = 12;

/**
 * Tells whether a conversation has nothing but contents, and each of them stands behind the one before, word for word. That takes no
 * rendering, and most conversations are so.
 */
function isPlainlyThere({ messages, tools }: Conversation, text: string, tags: RegExp | null): boolean {
  if (tools) return false;
  let from = 0;
  for (const message of messages) {
    for (const name in message) if (name !== "role" && name !== "content") return false;
    const { content } = message;
    if (typeof content !== "string" || tags?.test(content) === true) return false;
    const words = content.trim();
    if (words === "") continue;
    const at = words.length < SHORT ? -1 : text.indexOf(words, from);
    if (at < 0) return false;
    from = at + words.length;
  }
  return true;
}

function traceByMarks(template: ChatTemplate, conversation: Conversation, text: string): Trace {
  const character = unusedCharacter(text);
  if (character === null) return { lost: [], spanOf: () => null };
  const mark = (only?: Parameters<typeof markConversation>[3]) => markConversation(conversation, character, template.tags, only);
  const marked = mark();
  const lost: Field[] = unmarkable(conversation)
    .filter(({ changed }) => attempt(() => template.render(changed)) === text)
    .map(({ field }) => field);
  const whole = read(template, marked.conversation, character);
  if (whole?.text === text) {
    lost.push(...marked.fields.filter((field) => !isThere(field, whole, text)));
    const ofMessage = (message: number) => marked.fields.filter((field) => field.message === message);
    return { lost: sorted(lost), spanOf: (message) => spanOf(ofMessage(message), whole.at) };
  }
  for (const field of marked.fields) {
    const alone = mark((message, name) => message === field.message && name === field.name);
    const rendered = read(template, alone.conversation, character);
    // The template refuses the marks: it has read the field.
    if (rendered === null) continue;
    const own = alone.fields.find(({ isReasoning }) => isReasoning === field.isReasoning)!;
    if (isThere(own, rendered, text)) {
      // A template that looks at the words may show the marked ones alone.
      if (rendered.text === text || attempt(() => template.render(without(conversation, field))) !== text) continue;
    } else if (rendered.text !== text && !own.marks.some((number) => rendered.at.has(number))) {
      // Other words took their place. Without any it shows whether these have an effect, and with a mark behind them, whether all do.
      const isSame = (some: Conversation) => attempt(() => template.render(some)) === text;
      if (!isSame(without(conversation, field)) && !isSame(longer(conversation, field, character))) continue;
    }
    lost.push(field);
  }
  return {
    lost: sorted(lost),
    spanOf(message) {
      const alone = mark((index) => index === message);
      const rendered = read(template, alone.conversation, character);
      return rendered?.text === text ? spanOf(alone.fields, rendered.at) : null;
    },
  };
}

/** In the order of the messages; what belongs to all of them comes last. */
function sorted(fields: readonly Field[]): Field[] {
  return fields.toSorted((a, b) => (a.message ?? Infinity) - (b.message ?? Infinity));
}

/** A marked rendering; null: the template refuses it. */
function read(template: ChatTemplate, conversation: Conversation, character: string): Unmarked | null {
  const rendered = attempt(() => template.render(conversation));
  return rendered === null ? null : unmark(rendered, character);
}

/**
 * Whether all of a field stands in a text: each of its marks is in the marked rendering, or where one was cut off (by a template that
 * cuts texts at a length) the words stand in the text beside the other.
 */
function isThere({ marks, words }: Field, rendered: Unmarked, text: string): boolean {
  if (words.length === 0) return marks.every((number) => rendered.at.has(number));
  return words.every((word, i) => {
    const [from, to] = [rendered.at.get(marks[2 * i]!), rendered.at.get(marks[2 * i + 1]!)];
    if (from !== undefined && to !== undefined) return true;
    if (from !== undefined) return text.startsWith(word, from) && text.startsWith(rendered.text.slice(0, from));
    return (
      to !== undefined &&
      text.endsWith(rendered.text.slice(to)) &&
      text.slice(0, text.length - rendered.text.length + to).endsWith(word)
    );
  });
}

/** The conversation without a field, or, of a content, without the words of it that are the field's. */
function without(conversation: Conversation, field: Field): Conversation {
  const { message, name } = field;
  if (message === null) return { ...conversation, tools: null };
  if (name === "content") return withWords(conversation, field, () => "");
  const { [name]: _, ...rest } = conversation.messages[message]!;
  return { ...conversation, messages: conversation.messages.with(message, rest) };
}

/** The conversation with something behind the field's words. */
function longer(conversation: Conversation, field: Field, character: string): Conversation {
  return withWords(conversation, field, (word) => word + character);
}

/** The conversation with other words in the place of a field's; a content that is no text becomes empty. */
function withWords(
  conversation: Conversation,
  { message, name, words, isReasoning }: Field,
  change: (word: string) => string,
): Conversation {
  if (message === null) return conversation;
  const value = conversation.messages[message]![name];
  const changed = (text: string, word: string): string => {
    const at = isReasoning ? text.indexOf(word) : text.lastIndexOf(word);
    return text.slice(0, at) + change(word) + text.slice(at + word.length);
  };
  const fields = { ...conversation.messages[message]!, [name]: typeof value === "string" ? words.reduce(changed, value) : "" };
  return { ...conversation, messages: conversation.messages.with(message, fields) };
}

/** Fields that have no text to be marked, each with a conversation that says something else there. */
function unmarkable(conversation: Conversation): { readonly field: Field; readonly changed: Conversation }[] {
  const { messages, tools } = conversation;
  const found = messages.flatMap((message, index) => {
    const changed = withOtherNumbers(message["tool_calls"]);
    if (changed === null) return [];
    const field = { message: index, name: "tool_calls", isReasoning: false, marks: [], words: [] };
    return [{ field, changed: { ...conversation, messages: messages.with(index, { ...message, tool_calls: changed }) } }];
  });
  if (!tools || tools.some((tool) => isPlain(tool) && (isPlain(tool["function"]) || typeof tool["name"] === "string")))
    return found;
  const field = { message: null, name: "tools", isReasoning: false, marks: [], words: [] };
  return [...found, { field, changed: { ...conversation, tools: null } }];
}

/** Calls with one argument more, where some of them have arguments and none is a text; else null. */
function withOtherNumbers(calls: unknown): unknown {
  if (!Array.isArray(calls)) return null;
  const changed = calls.map((call: unknown) => {
    if (!isPlain(call)) return null;
    if (!isPlain(call["function"])) return otherArguments(call);
    const inner = otherArguments(call["function"]);
    return inner && { ...call, function: inner };
  });
  return changed.some((call) => call !== null) ? changed.map((call, i) => call ?? (calls[i] as unknown)) : null;
}

function otherArguments(call: MessageFields): MessageFields | null {
  const { arguments: given } = call;
  if (!isPlain(given) || Object.keys(given).length === 0 || holdsText(given)) return null;
  return { ...call, arguments: { ...given, probe: 1 } };
}

function holdsText(value: unknown): boolean {
  if (typeof value === "string") return value !== "";
  if (Array.isArray(value)) return value.some(holdsText);
  return isPlain(value) && Object.values(value).some(holdsText);
}
