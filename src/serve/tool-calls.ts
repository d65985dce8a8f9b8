import { isRecord, parseJsonExactly } from "../base/json.ts";
import { choice, type Expression, oneOf, repeat, sequence } from "../generate/grammar/expression.ts";
import { SPACE } from "../generate/grammar/json-text.ts";
import { overlap } from "../generate/stop-text.ts";

/** A call that the model asks for. */
export interface ToolCall {
  readonly id: string;
  readonly type: "function";
  /** `arguments` is JSON. */
  readonly function: { readonly name: string; readonly arguments: string };
}

/** A piece of a text; `from` is the place in the text at which it begins. */
export interface TextPart {
  readonly text: string;
  readonly from: number;
}

/** A piece of what is said in an answer. */
export type TextOrCall = TextPart | { readonly call: ToolCall };

/** Finds the calls in an answer that comes in pieces. No part has an empty text. */
export interface PartReader {
  push(piece: string): TextOrCall[];
  /** Returns what was held back. */
  end(): TextOrCall[];
}

/** All is text. */
export function createTextReader(): PartReader {
  let read = 0;
  return {
    push(text) {
      const from = read;
      read += text.length;
      return text === "" ? [] : [{ text, from }];
    },
    end: () => [],
  };
}

const OPEN = "<tool_call>";
const CLOSE = "</tool_call>";

/** Tells whether a model's template has calls written in the form that `createCallReader` reads. */
export function writesCalls(template: string): boolean {
  return template.includes(OPEN) && template.includes(CLOSE);
}

/**
 * Calls as Hermes 2 Pro writes them, and Qwen and many others after it: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`
 * (https://github.com/NousResearch/Hermes-Function-Calling). White space around calls is no text; what is between the marks
 * and is no call is text with its marks.
 */
export function createCallReader(): PartReader {
  let held = "";
  let read = 0;
  let isInside = false;
  let isAfterCall = false;
  /** The place of what is held back. */
  const place = () => read - held.length;
  const textPart = (text: string, from: number): TextOrCall[] => {
    if (text === "") return [];
    isAfterCall = false;
    return [{ text, from }];
  };
  const callPart = (call: ToolCall): TextOrCall[] => {
    isAfterCall = true;
    return [{ call }];
  };
  const take = (): TextOrCall[] => {
    if (isInside) {
      const end = held.indexOf(CLOSE);
      if (end < 0) return [];
      const body = held.slice(0, end);
      const from = place() - OPEN.length;
      held = held.slice(end + CLOSE.length);
      isInside = false;
      const call = readCall(body);
      return [...(call ? callPart(call) : textPart(OPEN + body + CLOSE, from)), ...take()];
    }
    if (isAfterCall) held = held.trimStart();
    const from = place();
    const start = held.indexOf(OPEN);
    if (start >= 0) {
      const text = held.slice(0, start).trimEnd();
      held = held.slice(start + OPEN.length);
      isInside = true;
      return [...textPart(text, from), ...take()];
    }
    // A call may begin here, and then the white space before it is none of the text.
    const certain = held.slice(0, held.length - overlap(held, OPEN)).trimEnd();
    held = held.slice(certain.length);
    return textPart(certain, from);
  };
  return {
    push(piece) {
      held += piece;
      read += piece.length;
      return take();
    },
    end() {
      // The token that ends the answer may stand for the closing mark.
      const call = isInside ? readCall(held) : null;
      const rest = isInside ? OPEN + held : held;
      const from = read - rest.length;
      [held, isInside] = ["", false];
      return call ? callPart(call) : textPart(rest, from);
    },
  };
}

/** Calls of tools as they are written, one at least. @param tools with the texts that their arguments may be */
export function callsOf(tools: readonly { readonly name: string; readonly parameters: Expression }[], most: number): Expression {
  const space = repeat(oneOf(" \n"), 0, 2);
  const bodies = tools.map(({ name, parameters }) =>
    sequence('{"name":', SPACE, JSON.stringify(name), ",", SPACE, '"arguments":', SPACE, parameters, "}"),
  );
  const call = sequence(OPEN, space, choice(...bodies), space, CLOSE);
  return sequence(call, repeat(sequence(space, call), 0, most - 1));
}

function readCall(body: string): ToolCall | null {
  let value: unknown;
  try {
    value = parseJsonExactly(body, "a call");
  } catch {
    return null;
  }
  if (!isRecord(value) || typeof value["name"] !== "string") return null;
  const given = value["arguments"] ?? {};
  const written = typeof given === "string" ? given : JSON.stringify(given);
  return {
    id: `call_${crypto.randomUUID().replaceAll("-", "")}`,
    type: "function",
    function: { name: value["name"], arguments: written },
  };
}
