import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import type { ChatTemplate, Range } from "./chat-template.ts";
import type { ChatExample, Message } from "../examples/formats.ts";

/** A rendered conversation and the parts of it that are trained on. */
export interface TrainedText {
  readonly text: string;
  readonly ranges: readonly Range[];
  /** Of each range, how much its tokens count. */
  readonly weights: readonly number[];
}

/**
 * Renders a conversation and finds what the assistant says in it.
 *
 * A template with `{% generation %}` blocks says so itself. Otherwise the conversation is rendered up to each assistant
 * turn: the turn starts where the generation prompt ends and ends where the rendering through it ends (behind its end
 * token, so that the line break after it is not trained on). That needs each rendering to be the beginning of the next, but for
 * a token that closes whole conversations only (Phi-3).
 * Where it is not (Qwen3 drops the reasoning of earlier turns, Mistral moves the system prompt to the last user turn),
 * the model would never see the whole conversation as one text; then every trained turn becomes a text of its own, with
 * the context exactly as the model will see it.
 * Empty when no message is trained on.
 * @param endTokens special tokens, which may end a turn
 * @throws {UserError} a template that changes the context when the answer is added, or that leaves out a message
 */
export function trainedTexts(template: ChatTemplate, example: ChatExample, endTokens: Iterable<string>): TrainedText[] {
  const { messages, tools } = example;
  const trained = messages.flatMap((message, i) => (message.weight > 0 ? [i] : []));
  if (trained.length === 0) return [];
  const render = (count: number, addGenerationPrompt = false) =>
    template.render({ messages: fieldsOf(messages.slice(0, count)), tools, addGenerationPrompt });

  refuseLostRoles(template, example);
  const marked = template.renderMarked({ messages: fieldsOf(messages), tools });
  if (marked && marked.ranges.length > 0) {
    const assistants = messages.flatMap((message, i) => (message.role === "assistant" ? [i] : []));
    if (assistants.every((index) => messages[index]!.weight === 1)) return [{ ...marked, weights: marked.ranges.map(() => 1) }];
    if (marked.ranges.length === assistants.length) {
      const ranges = marked.ranges.filter((_, i) => messages[assistants[i]!]!.weight > 0);
      return [{ text: marked.text, ranges, weights: trained.map((index) => messages[index]!.weight) }];
    }
  }

  const ends = [...endTokens];
  const full = render(messages.length);
  /** A rendering without the token that closes it where no answer is asked for. */
  const unclosed = (text: string, count: number): string => {
    const closing = ends.find((token) => text.endsWith(token));
    if (closing === undefined) return text;
    const open = text.slice(0, -closing.length);
    const asking = attempt(() => render(count, true));
    return asking !== null && !asking.startsWith(text) && asking.startsWith(open) ? open : text;
  };
  const turns = trained.map((index): Turn => {
    const through = index === messages.length - 1 ? full : render(index + 1);
    const context = index === 0 ? "" : unclosed(render(index), index);
    const start = index === 0 ? firstTurnStart(template, example, through) : commonPrefix(render(index, true), through);
    // The closing token is the turn's own where no other ends it.
    const open = unclosed(through, index + 1);
    const body = turnEnd(open, start, ends) === null ? through : open;
    return {
      text: through,
      body,
      range: [start, turnEnd(body, start, ends) ?? body.length],
      stable: start >= context.length && through.startsWith(context),
    };
  });
  for (const [i, turn] of turns.entries()) {
    if (!turn.stable) {
      throw new UserError(
        `${example.where}: the chat template renders the messages before message ${trained[i]! + 1} differently once it is there, ` +
          "so its tokens cannot be told from the prompt's; give the template {% generation %} blocks or another chat template",
      );
    }
  }
  const weights = trained.map((index) => messages[index]!.weight);
  if (turns.every((turn) => full.startsWith(turn.body)))
    return [{ text: full, ranges: turns.map((turn) => turn.range), weights }];
  return turns.map((turn, i) => ({ text: turn.text, ranges: [turn.range], weights: [weights[i]!] }));
}

/** Roles that every template is expected to know, or to refuse. */
const USUAL_ROLES: readonly string[] = ["system", "user", "assistant", "tool"];

/** Many templates pass over roles that they do not know (such as `developer`) without a word. @throws {UserError} */
export function refuseLostRoles(template: ChatTemplate, { messages, tools, where }: ChatExample): void {
  for (const [i, { role }] of messages.entries()) {
    if (USUAL_ROLES.includes(role)) continue;
    const render = (some: readonly Message[]) => attempt(() => template.render({ messages: fieldsOf(some), tools }));
    if (render(messages) !== render(messages.toSpliced(i, 1))) continue;
    throw new UserError(
      `${where}: the chat template leaves out message ${i + 1}, whose role is ${show(role)}; give it one of ${USUAL_ROLES.join(", ")}`,
    );
  }
}

interface Turn {
  /** The conversation up to and with the turn. */
  readonly text: string;
  /** The same without a token that closes the conversation. */
  readonly body: string;
  readonly range: Range;
  /** The messages before it are the beginning of `text`. */
  readonly stable: boolean;
}

function fieldsOf(messages: readonly Message[]): Message["fields"][] {
  return messages.map((message) => message.fields);
}

/** Where the first message's own words start; many templates refuse to render an empty conversation. */
function firstTurnStart(template: ChatTemplate, { messages, tools }: ChatExample, through: string): number {
  const empty = attempt(() => template.render({ messages: [], tools, addGenerationPrompt: true }));
  if (empty !== null) return commonPrefix(empty, through);
  const { fields } = messages[0]!;
  if (typeof fields.content !== "string") return 0;
  // The same message with another first character differs from there on.
  const other = { ...fields, content: (fields.content.startsWith("a") ? "b" : "a") + fields.content };
  return commonPrefix(template.render({ messages: [other], tools }), through);
}

/** null: the template refuses. */
function attempt(render: () => string): string | null {
  try {
    return render();
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return null;
  }
}

function commonPrefix(a: string, b: string): number {
  const limit = Math.min(a.length, b.length);
  let i = 0;
  while (i < limit && a.charCodeAt(i) === b.charCodeAt(i)) i++;
  return i;
}

/** Behind the token that ends the turn; null: none does. */
function turnEnd(text: string, start: number, endTokens: readonly string[]): number | null {
  const turn = text.slice(start).trimEnd();
  return endTokens.some((token) => turn.endsWith(token)) ? start + turn.length : null;
}
