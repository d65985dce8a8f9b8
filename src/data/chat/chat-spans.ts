import type { ChatExample } from "../examples/formats.ts";
import { answerStart } from "./answer-start.ts";
import { attempt, UserError } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import type { Conversation, Range } from "./conversation.ts";
import { asCalled, fieldsOf, refuseFields, refuseLostRoles } from "./losses.ts";
import type { Field } from "./marks.ts";
import type { Notice } from "./notices.ts";
import { renderExample } from "./refusals.ts";
import { createRenderings } from "./renderings.ts";
import { type Trace, traceConversation } from "./trace.ts";

/** A rendered conversation and the parts of it that are trained on. */
export interface TrainedText {
  readonly text: string;
  readonly ranges: readonly Range[];
  /** The weight of each range's tokens. */
  readonly weights: readonly number[];
  /** The conversation that `text` renders; null: no conversation as a whole. */
  readonly conversation: Conversation | null;
}

/**
 * Renders a conversation and finds what the assistant says in it.
 *
 * A template with `{% generation %}` blocks says so itself. Otherwise the conversation is rendered up to each assistant
 * turn: the turn starts where the generation prompt ends (see `answerStart`) and ends where the rendering through it ends (behind its end
 * token, so that the line break after it is not trained on; a token that closes whole conversations only, as Phi-3's, is no turn's).
 * Where these renderings are the beginnings of the whole one, the conversation is one text.
 * Where they are not (Qwen3 drops the reasoning of earlier turns, Mistral moves the system prompt to the last user turn),
 * the model would never see the whole conversation as one text; then every trained turn becomes a text of its own, with
 * the context as the model will see it. A template that leaves something out once the answer is there (Mistral's system prompt
 * stands in the last turn, if it is the user's) gives the generation prompt's text, and the answer behind it.
 * Empty when no message is trained on.
 * @param endTokens tokens that may end a turn
 * @param notice takes what the template leaves out on purpose
 * @throws {UserError} a template that leaves something out, or whose answers cannot be found
 */
export function trainedTexts(
  template: ChatTemplate,
  written: ChatExample,
  endTokens: Iterable<string>,
  notice: (notice: Notice) => void = () => {},
): TrainedText[] {
  const example = asCalled(template, written);
  const { messages, tools, args } = example;
  const trained = messages.flatMap((message, i) => (message.weight > 0 ? [i] : []));
  if (trained.length === 0) return [];
  refuseLostRoles(template, example);
  const upTo = (count: number): Conversation => ({ messages: fieldsOf(messages.slice(0, count)), tools, args });
  const losses = createLosses(template, example, upTo);
  const marked = generationBlocks(template, example, trained, upTo(messages.length));
  if (marked) {
    losses.read(messages.length, marked.text);
    losses.finish(notice);
    return [marked];
  }
  const renderings = createRenderings(template, upTo);
  const full = renderings.plain(messages.length) ?? renderExample(template, upTo(messages.length), example.where);
  const ends = [...endTokens];
  const turns = trained.map((index): Turn => {
    const through = renderings.plain(index + 1);
    // A template that wants something to follow (the result of a call): the turn is looked for in the whole conversation.
    const count = through === null ? messages.length : index + 1;
    const text = through ?? full;
    const trace = () => losses.trace(count, text);
    const start = answerStart({ template, example, renderings, index, count, text, ends, trace });
    if (start === null) {
      // Its own words may be gone, which says more.
      losses.read(count, text);
      throw unclear(example, index);
    }
    if (through === null) {
      const range = [start, middleEnd(text, index, ends, trace(), example)] as const;
      return { text, body: text, count, range, isRendering: true };
    }
    // The closing token is the turn's own where no other ends it.
    const open = renderings.unclosed(index + 1, ends) ?? through;
    const body = turnEnd(open, start, ends) === null ? through : open;
    const end = turnEnd(body, start, ends) ?? body.length;
    const prompt = losses.isKeptByAsking(index, text) ? renderings.asking(index) : null;
    if (prompt === null) return { text, body, count, range: [start, end], isRendering: true };
    const asked = prompt + text.slice(start);
    return { text: asked, body: asked, count, range: [prompt.length, prompt.length + end - start], isRendering: false };
  });
  const weights = trained.map((index) => messages[index]!.weight);
  const isOne = turns.every((turn) => full.startsWith(turn.body));
  if (isOne) losses.read(messages.length, full);
  else for (const { count, text, isRendering } of turns) if (isRendering) losses.read(count, text);
  losses.finish(notice);
  if (isOne) return [{ text: full, ranges: turns.map((turn) => turn.range), weights, conversation: upTo(messages.length) }];
  return turns.map(({ text, range, count, isRendering }, i) => ({
    text,
    ranges: [range],
    weights: [weights[i]!],
    conversation: isRendering ? upTo(count) : null,
  }));
}

interface Turn {
  /** The conversation up to and with the turn, or, where the template does not render that, the whole. */
  readonly text: string;
  /** The same without a token that closes the conversation. */
  readonly body: string;
  /** Messages that are rendered in `text`. */
  readonly count: number;
  readonly range: Range;
  /** `text` is what the template renders, and not a prompt with the answer behind it. */
  readonly isRendering: boolean;
}

function unclear({ where }: ChatExample, index: number): UserError {
  return new UserError(
    `${where}: the chat template renders the messages before message ${index + 1} differently once it is there, ` +
      "so its tokens cannot be told from the prompt's; give the template {% generation %} blocks, or another one with --chat-template",
  );
}

/** Returns what the template's own `{% generation %}` blocks say; null where it has none, or they do not tell the messages apart. */
function generationBlocks(
  template: ChatTemplate,
  { messages }: ChatExample,
  trained: readonly number[],
  conversation: Conversation,
): TrainedText | null {
  const marked = attempt(() => template.renderMarked(conversation));
  if (!marked || marked.ranges.length === 0) return null;
  const assistants = messages.flatMap((message, i) => (message.role === "assistant" ? [i] : []));
  if (assistants.every((index) => messages[index]!.weight === 1))
    return { ...marked, weights: marked.ranges.map(() => 1), conversation };
  if (marked.ranges.length !== assistants.length) return null;
  const ranges = marked.ranges.filter((_, i) => messages[assistants[i]!]!.weight > 0);
  return { text: marked.text, ranges, weights: trained.map((index) => messages[index]!.weight), conversation };
}

/** Behind the token that ends the turn; null: none does. */
function turnEnd(text: string, start: number, endTokens: readonly string[]): number | null {
  const turn = text.slice(start).trimEnd();
  return endTokens.some((token) => turn.endsWith(token)) ? start + turn.length : null;
}

/** Where a turn ends that others follow: behind the first end token between its last word and the next message's first, or there. @throws {UserError} */
function middleEnd(text: string, index: number, ends: readonly string[], trace: Trace, example: ChatExample): number {
  const span = trace.spanOf(index);
  if (span === null) throw unclear(example, index);
  const behind = text.slice(span[1], trace.spanOf(index + 1)?.[0]);
  const found = ends.flatMap((token) => {
    const at = behind.indexOf(token);
    return at < 0 ? [] : [{ at, to: at + token.length }];
  });
  const [first] = found.toSorted((a, b) => a.at - b.at || b.to - a.to);
  return span[1] + (first?.to ?? 0);
}

/** Follows what the texts of an example leave out. */
interface Losses {
  /** @param count messages that `text` renders */
  trace(count: number, text: string): Trace;
  /** Takes a text as one that is trained on. @throws {UserError} anything but reasoning is lost in it */
  read(count: number, text: string): void;
  /** Tells whether the messages before a turn lose something once the turn is there, of which nothing is lost when it is asked for. */
  isKeptByAsking(index: number, text: string): boolean;
  /** @throws {UserError} the reasoning of a trained turn is in no text, and not because others follow it */
  finish(notice: (notice: Notice) => void): void;
}

function createLosses(template: ChatTemplate, example: ChatExample, upTo: (count: number) => Conversation): Losses {
  const { messages, where } = example;
  const traces = new Map<number, Trace>();
  const traceOf = (count: number, text: string): Trace => {
    let trace = traces.get(count);
    if (!trace) traces.set(count, (trace = traceConversation(template, upTo(count), text)));
    return trace;
  };
  const read = new Map<number, readonly Field[]>();
  const isLost = ({ isReasoning }: Field) => !isReasoning;
  return {
    trace: traceOf,
    isKeptByAsking(index, text) {
      const before = traceOf(index + 1, text).lost.filter((field) => isLost(field) && field.message !== index);
      if (before.length === 0 || index === 0) return false;
      const asking = { ...upTo(index), addGenerationPrompt: true };
      const prompt = attempt(() => template.render(asking));
      return prompt !== null && !text.startsWith(prompt) && !traceConversation(template, asking, prompt).lost.some(isLost);
    },
    read(count, text) {
      const trace = traceOf(count, text);
      const lost = trace.lost.filter(({ isReasoning }) => isReasoning);
      refuseFields(
        trace.lost.filter(({ isReasoning }) => !isReasoning),
        example,
      );
      read.set(count, lost);
    },
    finish(notice) {
      const lostIn = (message: number) => (fields: readonly Field[]) => fields.find((field) => field.message === message);
      for (const [index, { weight }] of messages.entries()) {
        const holding = [...read].filter(([count]) => count > index).map(([, fields]) => fields);
        const field = holding.map(lostIn(index)).find((one) => one !== undefined);
        if (field === undefined || !holding.every(lostIn(index))) continue;
        const until = weight > 0 && index + 1 < messages.length ? attempt(() => template.render(upTo(index + 1))) : null;
        const isMeant = weight === 0 || (until !== null && !lostIn(index)(traceOf(index + 1, until).lost));
        if (!isMeant) refuseFields([field], example);
        notice({ kind: "reasoning", where: `${where}, message ${index + 1}` });
      }
    },
  };
}
