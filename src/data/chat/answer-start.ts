import type { ChatExample } from "../examples/formats.ts";
import { attempt } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import { type MessageFields, REASONING } from "./conversation.ts";
import { fieldsOf } from "./losses.ts";
import { unusedCharacter } from "./marks.ts";
import type { Renderings } from "./renderings.ts";
import type { Trace } from "./trace.ts";

/** A trained turn within a rendering. */
interface TurnIn {
  readonly template: ChatTemplate;
  readonly example: ChatExample;
  readonly renderings: Renderings;
  /** The index of the turn's message. */
  readonly index: number;
  /** Messages that `text` renders, the turn's among them. */
  readonly count: number;
  readonly text: string;
  /** Tokens that may end a turn. */
  readonly ends: readonly string[];
  trace(): Trace;
}

/**
 * Where a turn starts that the model is to write: behind the generation prompt, as far as the rendering has it.
 *
 * - The prompt is the beginning of the text: behind it.
 * - The text goes another way within the prompt's last words (`<think>\n` of DeepSeek-R1, which its own answers of earlier turns lack):
 *   where it does so, but not behind the first of the message's own words: an answer that begins with `<b>` is none of the prompt's.
 * - The messages before are rendered otherwise once the turn is there (a result of a tool that is last): behind the last place
 *   before the message's own words that the generation prompt's own part stands in; where there is no such part, behind what follows
 *   the message before in the prompt.
 *
 * null: the message's own words cannot be found.
 */
export function answerStart(turn: TurnIn): number | null {
  const { renderings, index, text, ends, count } = turn;
  if (index === 0) return firstTurnStart(turn);
  const prompt = renderings.asking(index);
  if (prompt !== null && text.startsWith(prompt)) return prompt.length;
  const own = ownStart(turn);
  const context = renderings.unclosed(index, ends);
  if (prompt !== null && context !== null && count === index + 1) {
    const start = Math.min(commonPrefix(prompt, text), own ?? Infinity);
    if (start >= context.length && text.startsWith(context)) return start;
  }
  if (own === null) return null;
  const head = text.slice(0, own);
  const { before, isNext } = endOfEarlier(turn);
  const asked = prompt !== null && context !== null && prompt.startsWith(context) ? prompt.slice(context.length) : "";
  if (asked !== "") {
    // The most of it right in front of the words is nearer than all of it further away, which may be an earlier turn's.
    const near = beginningAtEnd(head, asked);
    const at = head.lastIndexOf(asked);
    if (at >= before && at >= 0 && near <= asked.length / 2) return at + asked.length;
    if (near > 0) return own;
  }
  const last = prompt === null ? null : endOfLast(turn, prompt);
  if (prompt === null || last === null || !isNext) return own;
  return Math.min(own, before + commonTurnEnd(text.slice(before), prompt.slice(last), ends));
}

/** Length of the longest beginning of `tail`, shorter than it, that `head` ends with. */
function beginningAtEnd(head: string, tail: string): number {
  let length = tail.length - 1;
  while (length > 0 && !head.endsWith(tail.slice(0, length))) length--;
  return length;
}

/** How far two texts behind a message's words are alike; a token that ends the turn in the one may be another in the other. */
function commonTurnEnd(text: string, prompt: string, ends: readonly string[]): number {
  const endOf = (behind: string) =>
    ends.filter((token) => behind.startsWith(token)).reduce((a, b) => (b.length > a.length ? b : a), "");
  const [own, asked] = [endOf(text), endOf(prompt)];
  if (own === "" || asked === "") return commonPrefix(text, prompt);
  return own.length + commonPrefix(text.slice(own.length), prompt.slice(asked.length));
}

/** Where the first message's own words start; many templates refuse to render an empty conversation. */
function firstTurnStart(turn: TurnIn): number {
  const { renderings, text } = turn;
  const empty = renderings.asking(0);
  const own = ownStart(turn);
  if (empty !== null) return text.startsWith(empty) ? empty.length : Math.min(commonPrefix(empty, text), own ?? Infinity);
  return own ?? 0;
}

/**
 * The first character of the text that is the turn's own: where the text differs as soon as one of the message's texts begins otherwise.
 * null: none makes a difference.
 */
function ownStart({ template, example: { messages, tools, args }, index, count, text, trace }: TurnIn): number | null {
  const mark = unusedCharacter(text);
  if (mark === null) return null;
  const fields = fieldsOf(messages.slice(0, count));
  const starts = beginningOtherwise(fields[index]!, mark).flatMap((message) => {
    const rendered = attempt(() => template.render({ messages: fields.with(index, message), tools, args }));
    return rendered === null || rendered === text ? [] : [commonPrefix(rendered, text)];
  });
  // A template that cuts a text at its tags shows nothing of what is put before them.
  const visible = trace().spanOf(index)?.[0];
  if (visible !== undefined) starts.push(visible);
  return starts.length === 0 ? null : Math.min(...starts);
}

/** The message, each time with another text of its own that begins with a mark. */
function beginningOtherwise(message: MessageFields, mark: string): MessageFields[] {
  const { content, tool_calls: calls } = message;
  const changed: MessageFields[] = REASONING.filter((name) => typeof message[name] === "string").map((name) => ({
    ...message,
    [name]: mark + (message[name] as string),
  }));
  if (typeof content === "string" || content === undefined) changed.push({ ...message, content: mark + (content ?? "") });
  if (Array.isArray(content)) {
    const [first, ...parts] = content as readonly MessageFields[];
    changed.push({ ...message, content: [{ ...first, text: mark + String(first?.["text"]) }, ...parts] });
  }
  if (Array.isArray(calls)) {
    const [first, ...rest] = calls as readonly MessageFields[];
    const call = first?.["function"] as MessageFields | undefined;
    if (call)
      changed.push({ ...message, tool_calls: [{ ...first, function: { ...call, name: mark + String(call["name"]) } }, ...rest] });
  }
  return changed;
}

/** Where the last words before the turn end that can be told, and whether those of the message before it are among them. */
function endOfEarlier({ index, trace }: TurnIn): { readonly before: number; readonly isNext: boolean } {
  for (let earlier = index - 1; earlier >= 0; earlier--) {
    const span = trace().spanOf(earlier);
    if (span) return { before: span[1], isNext: earlier === index - 1 };
  }
  return { before: 0, isNext: false };
}

/** Where the words of the message before the turn end in the generation prompt. */
function endOfLast({ template, example: { messages, tools, args }, index }: TurnIn, prompt: string): number | null {
  const mark = unusedCharacter(prompt);
  const fields = fieldsOf(messages.slice(0, index));
  const last = fields[index - 1]!;
  if (mark === null || typeof last["content"] !== "string" || last["content"].trim() === "") return null;
  const content = last["content"].trimEnd();
  const marked = { ...last, content: content + mark + last["content"].slice(content.length) };
  const rendered = attempt(() =>
    template.render({ messages: fields.with(index - 1, marked), tools, args, addGenerationPrompt: true }),
  );
  const at = rendered?.lastIndexOf(mark) ?? -1;
  return rendered !== null && at >= 0 && rendered.replaceAll(mark, "") === prompt ? at : null;
}

function commonPrefix(a: string, b: string): number {
  const limit = Math.min(a.length, b.length);
  let i = 0;
  while (i < limit && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  return i;
}
