import { UserError } from "../../base/errors.ts";
import { JsonNumber } from "../../base/exact-json.ts";
import { isRecord, jsonKind, parseJsonExactly, show } from "../../base/json.ts";
import { type Mapping, renameMessage } from "./columns.ts";
import { argument, type DataRecord, onlyKeys, records, text, wellFormed } from "./values.ts";

export interface Message {
  readonly role: string;
  /** How much an assistant message counts in the loss, per token; 0 (and every other role): it is not trained on. */
  readonly weight: number;
  /** The message as the chat template sees it: role, content, tool_calls, ... */
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A message that is a text. */
export function message(role: string, content: string, weight = role === "assistant" ? 1 : 0): Message {
  return { role, weight, fields: { role, content } };
}

/**
 * Messages as Transformers takes them: keys with a null value are left out, everything else goes to the template. Entries of
 * ShareGPT's kind (`from`, `value`) may stand in the list too.
 * @throws {UserError}
 */
export function messageList(record: DataRecord, key: string, where: string, mapping: Mapping, trainable = true): Message[] {
  return records(record, key, where).map((written, i) => {
    const entry = renameMessage(written, mapping);
    if (entry["role"] === undefined && entry["from"] !== undefined) {
      const turn = shareGptTurn(entry, `${where}, ${key} entry ${i + 1}`, mapping);
      return trainable ? turn : { ...turn, weight: 0 };
    }
    return messageOf(entry, `${where}, message ${i + 1}`, mapping, trainable);
  });
}

function messageOf(entry: DataRecord, where: string, { roles }: Mapping, trainable: boolean): Message {
  const { weight, ...rest } = entry;
  const given = wellFormed(Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null)));
  if (typeof given["role"] !== "string")
    throw new UserError(`${where}: "role" must be a text, got ${jsonKind(given["role"])}${roleHint(entry)}`);
  const mapped = roles.get(given["role"]);
  const fields = withToolCalls(mapped === undefined ? given : { ...given, role: mapped }, where);
  const { content } = fields;
  checkCalls(fields["tool_calls"], where);
  if (content !== undefined) checkContent(content, where);
  else if (fields["tool_calls"] === undefined) {
    throw new UserError(`${where}: "content" must be a text or a list of parts, got ${jsonKind(entry["content"])}`);
  }
  const role = fields["role"] as string;
  const counts = weightOf(role, weight, where);
  return { role, weight: trainable ? counts : 0, fields };
}

/** @throws {UserError} calls that are no list of objects */
function checkCalls(calls: unknown, where: string): void {
  if (calls === undefined) return;
  if (!Array.isArray(calls)) throw new UserError(`${where}: "tool_calls" must be a list, got ${jsonKind(calls)}`);
  const other = calls.findIndex((call) => !isRecord(call));
  if (other >= 0)
    throw new UserError(`${where}: call ${other + 1} of "tool_calls" must be an object, got ${jsonKind(calls[other])}`);
}

function roleHint(entry: DataRecord): string {
  const keys = Object.keys(entry);
  return keys.length === 0 || Object.hasOwn(entry, "role")
    ? ""
    : `; the keys are ${show(keys)}: --columns role=KEY,content=KEY says which`;
}

/**
 * OpenAI's older form of one call, `function_call` and answers of the role `function`, as the one that templates know:
 * `tool_calls` and the role `tool`.
 */
function withToolCalls(fields: Record<string, unknown>, where: string): Record<string, unknown> {
  if (fields["role"] === "function") return { ...fields, role: "tool" };
  const call = fields["function_call"];
  if (call === undefined) return fields;
  if (fields["tool_calls"] !== undefined)
    throw new UserError(`${where}: "function_call" and "tool_calls" say the same; remove the former`);
  if (!isRecord(call)) throw new UserError(`${where}: "function_call" must be an object, got ${jsonKind(call)}`);
  const { function_call: _, ...rest } = fields;
  return { ...rest, tool_calls: [{ type: "function", function: checkCall(call, `${where}, "function_call"`) }] };
}

/** @throws {UserError} a call without a name */
function checkCall(call: DataRecord, where: string): DataRecord {
  if (typeof call["name"] !== "string") throw new UserError(`${where}: "name" must be a text, got ${jsonKind(call["name"])}`);
  return call;
}

/** Weight of a message that has this one written beside it. A weight of another role than the assistant's is checked alone. */
function weightOf(role: string, written: unknown, where: string): number {
  const weight = written instanceof JsonNumber ? written.valueOf() : (written ?? 1);
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
    if (part["type"] === "text" && typeof part["text"] === "string") continue;
    throw new UserError(
      part["type"] === "text"
        ? `${where}: part ${i + 1} of "content" must have a "text", got ${jsonKind(part["text"])}`
        : `${where}: part ${i + 1} of "content" has the type ${show(part["type"])}; only parts of type "text" can be trained on`,
    );
  }
}

/** Returns what a message says, as one text: parts become lines, as in llama.cpp and vLLM. */
export function contentText(content: unknown): string {
  return Array.isArray(content) ? content.map((part: TextPart) => part.text).join("\n") : String(content);
}

const SHAREGPT_ROLES: Readonly<Record<string, string>> = {
  system: "system",
  human: "user",
  user: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  assistant: "assistant",
  model: "assistant",
  function_call: "assistant",
  tool: "tool",
  observation: "tool",
};

/** A turn of ShareGPT's `conversations`. Its `function_call` is a call as JSON text (LLaMA-Factory). @throws {UserError} */
export function shareGptTurn(turn: DataRecord, where: string, { roles }: Mapping): Message {
  onlyKeys(turn, ["from", "value", "weight"], where);
  const from = text(turn, "from", where);
  const role = roles.get(from) ?? (Object.hasOwn(SHAREGPT_ROLES, from) ? SHAREGPT_ROLES[from] : undefined);
  if (!role) {
    throw new UserError(
      `${where}: "from" is ${show(from)}, expected one of ${Object.keys(SHAREGPT_ROLES).join(", ")}; --roles ${argument(from)}=user says whose it is`,
    );
  }
  const value = text(turn, "value", where);
  const weight = weightOf(role, turn["weight"], where);
  if (from !== "function_call") return message(role, value, weight);
  return { role, weight, fields: { role, content: "", tool_calls: callsOf(value, where) } };
}

/** @throws {UserError} a text that holds neither a call nor a list of calls */
function callsOf(value: string, where: string): unknown[] {
  const parsed = parseJsonExactly(value, `${where}: "value", a call,`);
  const calls = Array.isArray(parsed) ? parsed : [parsed];
  if (calls.length === 0) throw new UserError(`${where}: "value" holds no call`);
  return calls.map((call: unknown) => {
    if (!isRecord(call)) throw new UserError(`${where}: a call must be an object, got ${jsonKind(call)}`);
    return { type: "function", function: wellFormed(checkCall(call, where)) };
  });
}
