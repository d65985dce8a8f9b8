import { isRecord } from "../../base/json.ts";
import { mapValues } from "../../base/exact-json.ts";
import { UserError } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import type { Conversation } from "./conversation.ts";
import { isPlain, unusedCharacter } from "./marks.ts";

/**
 * Finds text in messages that is a special token's. Tags of reasoning are left out: a message that holds them means them, and templates
 * look at them.
 */
export function specialTextPattern(specialTokens: Iterable<string>): RegExp | null {
  const tokens = [...specialTokens].filter((token) => token !== "" && !/think|thought/i.test(token));
  if (tokens.length === 0) return null;
  tokens.sort((a, b) => b.length - a.length);
  return new RegExp(tokens.map((token) => RegExp.escape(token)).join("|"), "g");
}

/** Tells whether a message, a list of tools or the like holds such text. */
export function holdsSpecialText(value: unknown, pattern: RegExp): boolean {
  if (typeof value === "string") return value.search(pattern) >= 0;
  if (Array.isArray(value)) return value.some((entry) => holdsSpecialText(entry, pattern));
  return isRecord(value) && Object.values(value).some((entry) => holdsSpecialText(entry, pattern));
}

/**
 * The places in a rendering where text of the messages or tools is a special token's text, in UTF-16 units. The conversation is
 * rendered once more with a mark inside each such text, which has to give the same text but for the marks.
 * @param where names the example
 * @throws {UserError} a template that looks at the text
 */
export function specialTextPlaces(
  template: ChatTemplate,
  conversation: Conversation | null,
  text: string,
  pattern: RegExp,
  where: string,
): number[] {
  const mark = unusedCharacter(text);
  const refuse = (): never => {
    throw new UserError(
      `${where}: the chat template treats text otherwise that is a special token's; --special-text escape cannot keep it text`,
    );
  };
  if (mark === null || conversation === null) return refuse();
  const { messages, tools } = conversation;
  const inside = (value: unknown): unknown => {
    if (typeof value === "string") return value.replace(pattern, (token) => token.slice(0, 1) + mark + token.slice(1));
    if (Array.isArray(value)) return value.map(inside);
    return isPlain(value) ? mapValues(value, inside) : value;
  };
  const marked = template.render({
    ...conversation,
    messages: messages.map((message) => ({ ...(inside(message) as typeof message), role: message["role"] })),
    ...(tools ? { tools: inside(tools) as typeof tools } : {}),
  });
  const parts = marked.split(mark);
  if (parts.join("") !== text) return refuse();
  const places: number[] = [];
  let at = 0;
  for (const part of parts.slice(0, -1)) places.push((at += part.length) - 1);
  return places;
}
