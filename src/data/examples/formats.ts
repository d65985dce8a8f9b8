import { UserError } from "../../base/errors.ts";
import { isRecord, jsonKind, parseJson, parseJsonObject, show } from "../../base/json.ts";

/**
 * Training examples, one JSON object per line, told apart by their keys:
 * - `{"messages": [{role, content}], "tools"?}` (OpenAI, Transformers)
 * - `{"prompt", "completion"}`, both texts or both lists of messages (TRL)
 * - `{"text"}`
 * - `{"instruction", "input"?, "output", "system"?, "history"?}` (Alpaca)
 * - `{"conversations": [{"from", "value"}], "system"?, "tools"?}` (ShareGPT)
 * - `{"conversation": [{"system"?, "input", "output"}]}` (XTuner)
 */
export type Example = ChatExample | CompletionExample | TextExample;

export interface ChatExample {
  readonly kind: "chat";
  readonly messages: readonly Message[];
  readonly tools: readonly unknown[] | null;
  /** `file:line`, for errors. */
  readonly where: string;
}

export interface CompletionExample {
  readonly kind: "completion";
  readonly prompt: string;
  readonly completion: string;
  readonly where: string;
}

export interface TextExample {
  readonly kind: "text";
  readonly text: string;
  readonly where: string;
}

export interface Message {
  readonly role: string;
  /** How much an assistant message counts in the loss, per token; 0 (and every other role): it is not trained on. */
  readonly weight: number;
  /** The message as the chat template sees it: role, content, tool_calls, ... */
  readonly fields: Readonly<Record<string, unknown>>;
}

interface Format {
  /** The keys that tell the format; all must be there. */
  readonly required: readonly string[];
  readonly optional: readonly string[];
  read(record: Readonly<Record<string, unknown>>, where: string): Example;
}

const FORMATS: readonly Format[] = [
  { required: ["messages"], optional: ["tools", "parallel_tool_calls"], read: readMessages },
  { required: ["prompt", "completion"], optional: ["tools"], read: readCompletion },
  { required: ["text"], optional: [], read: (record, where) => ({ kind: "text", text: text(record, "text", where), where }) },
  { required: ["instruction", "output"], optional: ["input", "system", "history"], read: readAlpaca },
  { required: ["conversations"], optional: ["system", "tools"], read: readShareGpt },
  { required: ["conversation"], optional: [], read: readXTuner },
];

/** One line of a JSONL file. @throws {UserError} with `where` */
export function parseExample(line: string, where: string): Example {
  return exampleOf(parseJsonObject(line, where), where);
}

/** @throws {UserError} unknown keys, missing keys, wrong types */
export function exampleOf(record: Readonly<Record<string, unknown>>, where: string): Example {
  const keys = Object.keys(record);
  const format = FORMATS.find(({ required }) => required.every((key) => Object.hasOwn(record, key)));
  if (!format) {
    const known = FORMATS.map(({ required }) => `{${required.map((key) => `"${key}"`).join(", ")}}`).join(", ");
    throw new UserError(`${where}: expected an object with one of the key sets ${known}; got the keys ${show(keys)}`);
  }
  const unknown = keys.find((key) => !format.required.includes(key) && !format.optional.includes(key));
  if (unknown !== undefined) {
    const allowed = [...format.required, ...format.optional].map((key) => `"${key}"`).join(", ");
    throw new UserError(
      `${where}: unknown key ${show(unknown)} beside "${format.required[0]}"; remove it (known there: ${allowed})`,
    );
  }
  return format.read(record, where);
}

/** A text value; lone surrogates, which no tokenizer can encode, become U+FFFD. */
function text(record: Readonly<Record<string, unknown>>, key: string, where: string): string {
  const value = record[key];
  if (typeof value !== "string") throw new UserError(`${where}: "${key}" must be a text, got ${jsonKind(value)}`);
  return value.toWellFormed();
}

function optionalText(record: Readonly<Record<string, unknown>>, key: string, where: string): string | null {
  return record[key] === undefined || record[key] === null ? null : text(record, key, where);
}

function list(record: Readonly<Record<string, unknown>>, key: string, where: string): readonly unknown[] {
  const value = record[key];
  if (!Array.isArray(value)) throw new UserError(`${where}: "${key}" must be a list, got ${jsonKind(value)}`);
  if (value.length === 0) throw new UserError(`${where}: "${key}" is empty; an example needs at least one entry`);
  return value;
}

function records(record: Readonly<Record<string, unknown>>, key: string, where: string): Record<string, unknown>[] {
  return list(record, key, where).map((entry, i) => {
    if (!isRecord(entry)) throw new UserError(`${where}: "${key}" entry ${i + 1} must be an object, got ${jsonKind(entry)}`);
    return entry;
  });
}

/** Tool descriptions: a list, or (ShareGPT) the same as JSON text. */
function toolsOf(record: Readonly<Record<string, unknown>>, where: string): readonly unknown[] | null {
  let tools = record.tools;
  if (tools === undefined || tools === null || tools === "") return null;
  if (typeof tools === "string") {
    tools = parseJson(tools, `${where}: "tools", a text,`);
  }
  if (!Array.isArray(tools)) throw new UserError(`${where}: "tools" must be a list, got ${jsonKind(tools)}`);
  return tools.length === 0 ? null : wellFormed(tools);
}

function wellFormed<T>(value: T): T {
  if (typeof value === "string") return value.toWellFormed() as T;
  if (Array.isArray(value)) return value.map(wellFormed) as T;
  if (isRecord(value)) return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, wellFormed(entry)])) as T;
  return value;
}

function readMessages(record: Readonly<Record<string, unknown>>, where: string): ChatExample {
  return { kind: "chat", messages: messageList(record, "messages", where), tools: toolsOf(record, where), where };
}

/** Messages as Transformers takes them: keys with a null value are left out, everything else goes to the template. */
function messageList(record: Readonly<Record<string, unknown>>, key: string, where: string, trainable = true): Message[] {
  return records(record, key, where).map((entry, i) => {
    const here = `${where}, message ${i + 1}`;
    const { weight, ...rest } = entry;
    const fields = wellFormed(Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null)));
    if (typeof fields.role !== "string") throw new UserError(`${here}: "role" must be a text, got ${jsonKind(fields.role)}`);
    const { content } = fields;
    if (content !== undefined) checkContent(content, here);
    else if (fields.tool_calls === undefined && fields.function_call === undefined) {
      throw new UserError(`${here}: "content" must be a text or a list of parts, got ${jsonKind(entry.content)}`);
    }
    const counts = weightOf(fields.role, weight, here);
    return { role: fields.role, weight: trainable ? counts : 0, fields };
  });
}

/** Weight of a message that has this one written beside it. A weight of another role than the assistant's is checked alone. */
function weightOf(role: string, written: unknown, where: string): number {
  const weight = written ?? 1;
  if (typeof weight !== "number" || !(weight >= 0 && weight <= MOST_WEIGHT)) {
    throw new UserError(`${where}: "weight" must be a number from 0 to ${MOST_WEIGHT}, got ${show(weight)}`);
  }
  return role === "assistant" ? weight : 0;
}

/** Far above what makes sense, so that a column of something else is noticed. */
const MOST_WEIGHT = 1000;

/** A part of a message, when its content is a list of them. */
interface TextPart {
  readonly type: "text";
  readonly text: string;
}

/** @throws {UserError} neither a text nor a list of parts that are texts */
function checkContent(content: unknown, where: string): void {
  if (typeof content === "string") return;
  if (!Array.isArray(content)) {
    throw new UserError(`${where}: "content" must be a text or a list of parts, got ${jsonKind(content)}`);
  }
  for (const [i, part] of content.entries()) {
    if (!isRecord(part)) throw new UserError(`${where}: part ${i + 1} of "content" must be an object, got ${jsonKind(part)}`);
    if (part.type === "text" && typeof part.text === "string") continue;
    throw new UserError(
      part.type === "text"
        ? `${where}: part ${i + 1} of "content" must have a "text", got ${jsonKind(part.text)}`
        : `${where}: part ${i + 1} of "content" has the type ${show(part.type)}; only parts of type "text" can be trained on`,
    );
  }
}

/** What a message says, as one text: parts become lines, as in llama.cpp and vLLM. */
export function contentText(content: unknown): string {
  return Array.isArray(content) ? content.map((part: TextPart) => part.text).join("\n") : String(content);
}

function readCompletion(record: Readonly<Record<string, unknown>>, where: string): Example {
  if (Array.isArray(record.prompt) && Array.isArray(record.completion)) {
    const prompt = messageList(record, "prompt", where, false);
    const completion = messageList(record, "completion", where);
    return { kind: "chat", messages: [...prompt, ...completion], tools: toolsOf(record, where), where };
  }
  if (record.tools !== undefined)
    throw new UserError(`${where}: "tools" needs "prompt" and "completion" to be lists of messages`);
  return { kind: "completion", prompt: text(record, "prompt", where), completion: text(record, "completion", where), where };
}

function message(role: string, content: string, weight = role === "assistant" ? 1 : 0): Message {
  return { role, weight, fields: { role, content } };
}

/** The user's turn is instruction and input, a line each. */
function readAlpaca(record: Readonly<Record<string, unknown>>, where: string): ChatExample {
  const messages: Message[] = [];
  const system = optionalText(record, "system", where);
  if (system) messages.push(message("system", system));
  const history = record.history ?? [];
  if (!Array.isArray(history)) throw new UserError(`${where}: "history" must be a list, got ${jsonKind(history)}`);
  for (const turn of history as readonly unknown[]) {
    if (!Array.isArray(turn) || turn.length !== 2 || !turn.every((part) => typeof part === "string")) {
      throw new UserError(`${where}: "history" must be a list of [question, answer], got ${show(turn)}`);
    }
    const [question, answer] = wellFormed(turn) as [string, string];
    messages.push(message("user", question), message("assistant", answer));
  }
  const input = optionalText(record, "input", where);
  const instruction = text(record, "instruction", where);
  messages.push(
    message("user", input ? `${instruction}\n${input}` : instruction),
    message("assistant", text(record, "output", where)),
  );
  return { kind: "chat", messages, tools: null, where };
}

const SHAREGPT_ROLES: Readonly<Record<string, string>> = {
  system: "system",
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  assistant: "assistant",
  model: "assistant",
  tool: "tool",
  observation: "tool",
};

function readShareGpt(record: Readonly<Record<string, unknown>>, where: string): ChatExample {
  const messages: Message[] = [];
  const system = optionalText(record, "system", where);
  if (system) messages.push(message("system", system));
  for (const [i, turn] of records(record, "conversations", where).entries()) {
    const here = `${where}, conversations entry ${i + 1}`;
    const unknown = Object.keys(turn).find((key) => key !== "from" && key !== "value" && key !== "weight");
    if (unknown !== undefined) throw new UserError(`${here}: unknown key ${show(unknown)}; expected "from" and "value"`);
    const from = text(turn, "from", here);
    const role = Object.hasOwn(SHAREGPT_ROLES, from) ? SHAREGPT_ROLES[from] : undefined;
    if (!role) throw new UserError(`${here}: "from" is ${show(from)}, expected one of ${Object.keys(SHAREGPT_ROLES).join(", ")}`);
    messages.push(message(role, text(turn, "value", here), weightOf(role, turn.weight, here)));
  }
  return { kind: "chat", messages, tools: toolsOf(record, where), where };
}

/** A single turn with an empty input is text to continue from nothing: XTuner's form of pre-training data. */
function readXTuner(record: Readonly<Record<string, unknown>>, where: string): Example {
  const turns = records(record, "conversation", where);
  const messages: Message[] = [];
  for (const [i, turn] of turns.entries()) {
    const here = `${where}, conversation entry ${i + 1}`;
    const unknown = Object.keys(turn).find((key) => !["system", "input", "output", "output_with_loss"].includes(key));
    if (unknown !== undefined)
      throw new UserError(`${here}: unknown key ${show(unknown)}; expected "system", "input" and "output"`);
    const system = optionalText(turn, "system", here);
    const input = optionalText(turn, "input", here);
    const output = text(turn, "output", here);
    if (turns.length === 1 && !system && !input) return { kind: "text", text: output, where };
    if (system) messages.push(message("system", system));
    if (input) messages.push(message("user", input));
    messages.push(message("assistant", output, turn.output_with_loss === false ? 0 : 1));
  }
  return { kind: "chat", messages, tools: null, where };
}
