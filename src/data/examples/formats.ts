import { UserError } from "../../base/errors.ts";
import { jsonKind, show } from "../../base/json.ts";
import {
  isKnownExtra,
  type Mapping,
  type MappingFlags,
  parseMapping,
  PLAIN_READING,
  type Reading,
  renameColumns,
} from "./columns.ts";
import type { ChatExample, CompletionExample, Example } from "./example.ts";
import { readQuery, readTriplet } from "./judged/contrasts.ts";
import { readLabelledChat, readLabelledText } from "./judged/labels.ts";
import { readScoredPair } from "./judged/contrasts.ts";
import { readRankedList, readRankedText } from "./judged/rankings.ts";
import { readTold } from "./told.ts";
import { message, type Message, messageList, shareGptTurn } from "./messages.ts";
import { readOpenAiPreference, readPreference, readUnpaired } from "./judged/preferences.ts";
import {
  argsOf,
  argument,
  type DataRecord,
  listText,
  onlyKeys,
  optionalText,
  parseRecord,
  records,
  text,
  toolsOf,
  wellFormed,
} from "./values.ts";

export type {
  ChatExample,
  CompletionExample,
  ContrastExample,
  Example,
  LabelledExample,
  PreferenceExample,
  RankedExample,
  ScoredExample,
  TextExample,
  ToldExample,
  UnpairedExample,
} from "./example.ts";
export { contentText, type Message } from "./messages.ts";

interface Format {
  /** The keys that tell the format; all must be there. */
  readonly required: readonly string[];
  readonly optional: readonly string[];
  /** Keys that say again what the others say. */
  readonly repeated?: readonly string[];
  read(record: DataRecord, where: string, mapping: Mapping): Example;
}

/**
 * Training examples, one record each, told apart by their keys:
 * - `{"messages": [{role, content}], "tools"?}` (OpenAI, Transformers)
 * - `{"prompt", "completion"}`, both texts or both lists of messages (TRL)
 * - `{"text"}`
 * - `{"instruction", "input"?, "output", "system"?, "history"?}` (Alpaca, whose `text` says the same again)
 * - `{"conversations": [{"from", "value"}], "system"?, "tools"?}` (ShareGPT)
 * - `{"conversation": [{"system"?, "input", "output"}]}` (XTuner)
 * - `{"question", "answer", "system"?}`
 *
 * Two answers to the same prompt, of which one is preferred:
 * - `{"prompt", "chosen", "rejected"}`, all texts or all lists of messages (TRL); or a prompt as text and both conversations whole
 * - `{"chosen", "rejected"}`, both lists of messages that begin alike: that is the prompt (TRL)
 * - `{"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}` (OpenAI)
 *
 * One answer, with true for a desirable and false for an undesirable one:
 * - `{"prompt", "completion", "label"}`, texts or lists of messages (TRL)
 *
 * An answer, and what the model that wrote it found likely in the place of each of its tokens:
 * - `{"messages", "logprobs"}`, `{"prompt", "completion", "logprobs"}` (`remat generate --logprobs`)
 *
 * A text or a conversation, and what it is to be judged as:
 * - `{"text", "text_pair"?, "label"}`, `{"messages", "label"}`: the label a text or a number, or a list of several; of a conversation that
 *   ends with an answer also true or false, for the answer is desirable or not
 *
 * A text, one that matches it, and hard negatives, which look as if they did:
 * - `{"anchor", "positive", "negative"?}`, the negative a text or a list (sentence-transformers)
 * - `{"query", "pos", "neg"?}`, lists of texts (FlagEmbedding)
 *
 * A query, and texts with how well each answers it, beside the two forms above:
 * - `{"query", "text", "label"}`, the label a number from 0 on, or true or false
 * - `{"query", "docs", "labels"}`, lists (sentence-transformers)
 *
 * Two texts, and how near they are:
 * - `{"sentence1", "sentence2", "score"}` (sentence-transformers)
 *
 * The first that fits is taken.
 */
const FORMATS: readonly Format[] = [
  {
    required: ["chosen", "rejected"],
    optional: ["prompt", "tools", "chat_template_kwargs"],
    repeated: ["messages"],
    read: readPreference,
  },
  { required: ["input", "preferred_output", "non_preferred_output"], optional: [], read: readOpenAiPreference },
  { required: ["prompt", "completion", "label"], optional: ["tools", "chat_template_kwargs"], read: readUnpaired },
  {
    required: ["messages", "label"],
    optional: ["tools", "parallel_tool_calls", "chat_template_kwargs"],
    read: readLabelledChat,
  },
  {
    required: ["messages", "logprobs"],
    optional: ["tools", "parallel_tool_calls", "chat_template_kwargs"],
    read: (record, where, mapping) => readTold(readMessages(record, where, mapping), record),
  },
  {
    required: ["prompt", "completion", "logprobs"],
    optional: ["tools", "chat_template_kwargs"],
    read: (record, where, mapping) => readTold(readCompletion(record, where, mapping), record),
  },
  { required: ["messages"], optional: ["tools", "parallel_tool_calls", "chat_template_kwargs"], read: readMessages },
  { required: ["prompt", "completion"], optional: ["tools", "chat_template_kwargs"], read: readCompletion },
  { required: ["instruction", "output"], optional: ["input", "system", "history"], repeated: ["text"], read: readAlpaca },
  { required: ["conversations"], optional: ["system", "tools"], read: readShareGpt },
  { required: ["conversation"], optional: [], read: readXTuner },
  { required: ["question", "answer"], optional: ["system"], read: readQuestion },
  { required: ["query", "text", "label"], optional: [], read: readRankedText },
  { required: ["query", "docs", "labels"], optional: [], read: readRankedList },
  { required: ["text", "label"], optional: ["text_pair"], read: readLabelledText },
  { required: ["anchor", "positive"], optional: ["negative"], read: readTriplet },
  { required: ["query", "pos"], optional: ["neg"], read: readQuery },
  { required: ["sentence1", "sentence2", "score"], optional: [], read: readScoredPair },
  { required: ["text"], optional: [], read: (record, where) => ({ kind: "text", text: text(record, "text", where), where }) },
];

/** All names of columns that some format reads. */
export const COLUMNS: ReadonlySet<string> = new Set(FORMATS.flatMap(({ required, optional }) => [...required, ...optional]));

/** Returns what `--columns` and `--roles` say. @throws {UserError} */
export function readMapping(flags: MappingFlags): Mapping {
  return parseMapping(flags, COLUMNS);
}

/** One line of a JSONL file. @throws {UserError} with `where` */
export function parseExample(line: string, where: string, reading: Reading = PLAIN_READING): Example {
  return exampleOf(parseRecord(line, where), where, reading);
}

/** @throws {UserError} unknown keys, missing keys, wrong types */
export function exampleOf(record: DataRecord, where: string, reading: Reading = PLAIN_READING): Example {
  return exampleOfColumns(renameColumns(record, reading.mapping, where), where, reading);
}

/** The same of a record whose columns have our names. @throws {UserError} */
export function exampleOfColumns(record: DataRecord, where: string, { mapping, unused }: Reading): Example {
  const isThere = (key: string) => Object.hasOwn(record, key) && !mapping.ignored.has(key);
  const has = (key: string) => isThere(key) && record[key] !== undefined && record[key] !== null;
  // A column of a table that is empty in this row tells no format, unless no other does.
  const format = FORMATS.find(({ required }) => required.every(has)) ?? FORMATS.find(({ required }) => required.every(isThere));
  const keys = Object.keys(record);
  if (!format) {
    const known = FORMATS.map(({ required }) => `{${required.map((key) => `"${key}"`).join(", ")}}`).join(", ");
    throw new UserError(
      `${where}: expected an object with one of the key sets ${known}; got the keys ${show(keys)}; --columns says what other names are, such as --columns prompt=question,completion=reply`,
    );
  }
  for (const key of keys) {
    if (format.required.includes(key) || format.optional.includes(key)) continue;
    if (mapping.ignored.has(key) || format.repeated?.includes(key) || isKnownExtra(key)) unused(key);
    else if (has(key)) throw unknownKey(key, format, where);
  }
  return format.read(record, where, mapping);
}

function unknownKey(key: string, { required, optional }: Format, where: string): UserError {
  const known = [...required, ...optional].map((name) => `"${name}"`).join(", ");
  return new UserError(
    `${where}: unknown key ${show(key)} beside "${required[0]}"; remove it, or leave it out with --columns ignore=${argument(key)} (known there: ${known}; --columns NAME=${argument(key)} makes it one of them)`,
  );
}

function readMessages(record: DataRecord, where: string, mapping: Mapping): ChatExample {
  const messages = messageList(record, "messages", where, mapping);
  return { kind: "chat", messages, tools: toolsOf(record, where), args: argsOf(record, where), where };
}

function readCompletion(record: DataRecord, where: string, mapping: Mapping): ChatExample | CompletionExample {
  if (Array.isArray(record["prompt"]) && Array.isArray(record["completion"])) {
    const prompt = messageList(record, "prompt", where, mapping, false);
    const completion = messageList(record, "completion", where, mapping);
    return {
      kind: "chat",
      messages: [...prompt, ...completion],
      tools: toolsOf(record, where),
      args: argsOf(record, where),
      where,
    };
  }
  const chats = ["tools", "chat_template_kwargs"].find((key) => record[key] !== undefined && record[key] !== null);
  if (chats !== undefined) throw new UserError(`${where}: "${chats}" needs "prompt" and "completion" to be lists of messages`);
  return { kind: "completion", prompt: text(record, "prompt", where), completion: text(record, "completion", where), where };
}

/** The user's turn is instruction and input, a line each. */
function readAlpaca(record: DataRecord, where: string): ChatExample {
  const messages: Message[] = systemOf(record, where);
  const history = listText(record["history"] ?? [], "history", where);
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

function readQuestion(record: DataRecord, where: string): ChatExample {
  const turns = [message("user", text(record, "question", where)), message("assistant", text(record, "answer", where))];
  return { kind: "chat", messages: [...systemOf(record, where), ...turns], tools: null, where };
}

/** The system's message of records that have a column for it. */
function systemOf(record: DataRecord, where: string): Message[] {
  const system = optionalText(record, "system", where);
  return system ? [message("system", system)] : [];
}

/** Turns of `from` and `value`, or the messages that others put under the same name. */
function readShareGpt(record: DataRecord, where: string, mapping: Mapping): ChatExample {
  const turns = records(record, "conversations", where);
  const [role, content] = [mapping.columns.get("role") ?? "role", mapping.columns.get("content") ?? "content"];
  const messages = turns.some((turn) => Object.hasOwn(turn, role) || Object.hasOwn(turn, content))
    ? messageList(record, "conversations", where, mapping)
    : turns.map((turn, i) => shareGptTurn(turn, `${where}, conversations entry ${i + 1}`, mapping));
  return { kind: "chat", messages: [...systemOf(record, where), ...messages], tools: toolsOf(record, where), where };
}

/** A single turn with an empty input is text to continue from nothing: XTuner's form of pre-training data. */
function readXTuner(record: DataRecord, where: string): Example {
  const turns = records(record, "conversation", where);
  const messages: Message[] = [];
  for (const [i, turn] of turns.entries()) {
    const here = `${where}, conversation entry ${i + 1}`;
    onlyKeys(turn, ["system", "input", "output", "output_with_loss"], here);
    const system = optionalText(turn, "system", here);
    const input = optionalText(turn, "input", here);
    const output = text(turn, "output", here);
    if (turns.length === 1 && !system && !input) return { kind: "text", text: output, where };
    if (system) messages.push(message("system", system));
    if (input) messages.push(message("user", input));
    messages.push(message("assistant", output, turn["output_with_loss"] === false ? 0 : 1));
  }
  return { kind: "chat", messages, tools: null, where };
}
