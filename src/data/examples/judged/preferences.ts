import { UserError } from "../../../base/errors.ts";
import { isRecord, jsonKind, show } from "../../../base/json.ts";
import type { Mapping } from "../columns.ts";
import type { ChatExample, CompletionExample, LabelledExample, PreferenceExample, UnpairedExample } from "../example.ts";
import { contentText, type Message, messageList } from "../messages.ts";
import { argsOf, type DataRecord, onlyKeys, text, toolsOf } from "../values.ts";

/** Describes what a chat has beside its messages. */
type Rest = Pick<ChatExample, "tools" | "args">;

/** The names that a format has for the two answers. */
type SideKeys = readonly [chosen: string, rejected: string];

const TRL_KEYS: SideKeys = ["chosen", "rejected"];
const OPENAI_KEYS: SideKeys = ["preferred_output", "non_preferred_output"];

/**
 * `{"prompt", "chosen", "rejected"}`, all texts or all lists of messages; `{"chosen", "rejected"}`, lists of messages that begin alike,
 * maybe with the last message of that beginning as `prompt`, a text.
 * @throws {UserError}
 */
export function readPreference(record: DataRecord, where: string, mapping: Mapping): PreferenceExample {
  const { prompt = null, chosen, rejected } = record;
  if (typeof chosen === "string" && typeof rejected === "string") {
    if (prompt === null)
      throw new UserError(`${where}: "chosen" and "rejected" are texts; expected a "prompt" beside them, a text too`);
    if (toolsOf(record, where)) throw new UserError(`${where}: "tools" needs "chosen" and "rejected" to be lists of messages`);
    const side = (key: string): CompletionExample => ({
      kind: "completion",
      prompt: text(record, "prompt", where),
      completion: text(record, key, where),
      where,
    });
    return { kind: "preference", chosen: side("chosen"), rejected: side("rejected"), where };
  }
  const beside = { tools: toolsOf(record, where), args: argsOf(record, where) };
  const answers = TRL_KEYS.map((key) => messageList(record, key, where, mapping)) as [Message[], Message[]];
  if (Array.isArray(prompt))
    return sidesOf(messageList(record, "prompt", where, mapping, false), answers, TRL_KEYS, beside, where);
  const shared = sharedMessages(...answers);
  const says = shared.some(({ fields: { content } }) => content !== undefined && contentText(content) === prompt);
  if (prompt !== null && !says) {
    throw new UserError(
      `${where}: "prompt" must be one of the messages that "chosen" and "rejected" have in common, or a list of messages before both; got ${show(prompt)}`,
    );
  }
  const rest = answers.map((messages) => messages.slice(shared.length)) as [Message[], Message[]];
  return sidesOf(
    shared.map((each) => ({ ...each, weight: 0 })),
    rest,
    TRL_KEYS,
    beside,
    where,
  );
}

/** `{"input": {"messages", "tools"?}, "preferred_output", "non_preferred_output"}`. @throws {UserError} */
export function readOpenAiPreference(record: DataRecord, where: string, mapping: Mapping): PreferenceExample {
  const { input } = record;
  if (!isRecord(input)) throw new UserError(`${where}: "input" must be an object with "messages", got ${jsonKind(input)}`);
  onlyKeys(input, ["messages", "tools", "parallel_tool_calls"], `${where}, input`);
  const prompt = messageList(input, "messages", `${where}, input`, mapping, false);
  const answers = OPENAI_KEYS.map((key) => messageList(record, key, where, mapping)) as [Message[], Message[]];
  return sidesOf(prompt, answers, OPENAI_KEYS, { tools: toolsOf(input, `${where}, input`) }, where);
}

/** `{"prompt", "completion", "label"}`, both texts or both lists of messages. @throws {UserError} */
export function readUnpaired(record: DataRecord, where: string, mapping: Mapping): UnpairedExample {
  const desirable = desirableOf(record["label"], where);
  if (!Array.isArray(record["prompt"]) || !Array.isArray(record["completion"])) {
    if (toolsOf(record, where)) throw new UserError(`${where}: "tools" needs "prompt" and "completion" to be lists of messages`);
    const [prompt, completion] = [text(record, "prompt", where), text(record, "completion", where)];
    return { kind: "unpaired", answer: { kind: "completion", prompt, completion, where }, desirable, where };
  }
  const prompt = messageList(record, "prompt", where, mapping, false);
  const completion = messageList(record, "completion", where, mapping);
  const beside = { tools: toolsOf(record, where), args: argsOf(record, where) };
  return { kind: "unpaired", answer: answerOf(prompt, completion, "completion", beside, where), desirable, where };
}

/** A conversation with a label as an answer that is judged: the last message is, those in front of it are its prompt. @throws {UserError} */
export function unpairedOf({ content, label, where }: LabelledExample): UnpairedExample | null {
  if (content.kind !== "chat") return null;
  const { messages, tools, args } = content;
  const prompt = messages.slice(0, -1).map((each) => ({ ...each, weight: 0 }));
  const answer = answerOf(prompt, messages.slice(-1), "messages", { tools, args: args ?? null }, where);
  return { kind: "unpaired", answer, desirable: desirableOf(label, where), where };
}

/** What files have for true and false; tables have nothing but texts. */
const LABELS: ReadonlyMap<unknown, boolean> = new Map<unknown, boolean>([
  [true, true],
  [1, true],
  ["true", true],
  ["1", true],
  [false, false],
  [0, false],
  ["false", false],
  ["0", false],
]);

/** @throws {UserError} */
function desirableOf(label: unknown, where: string): boolean {
  const desirable = LABELS.get(typeof label === "string" ? label.trim().toLowerCase() : label);
  if (desirable === undefined)
    throw new UserError(`${where}: "label" must be true (a desirable answer) or false (an undesirable one), got ${show(label)}`);
  return desirable;
}

/** Returns what two conversations begin with; each has at least one message of its own. */
function sharedMessages(first: readonly Message[], second: readonly Message[]): readonly Message[] {
  const most = Math.min(first.length, second.length) - 1;
  const end = first.findIndex((each, i) => i >= most || !Bun.deepEquals(each.fields, second[i]!.fields));
  return first.slice(0, end);
}

/** @throws {UserError} an answer that does not begin with an assistant's message, or counts in parts */
function sidesOf(
  prompt: readonly Message[],
  answers: readonly [Message[], Message[]],
  keys: SideKeys,
  beside: Rest,
  where: string,
): PreferenceExample {
  const [chosen, rejected] = answers.map((messages, i) => answerOf(prompt, messages, keys[i]!, beside, where));
  return { kind: "preference", chosen: chosen!, rejected: rejected!, where };
}

/** @throws {UserError} an answer that does not begin with an assistant's message, or counts in parts */
function answerOf(
  prompt: readonly Message[],
  messages: readonly Message[],
  key: string,
  beside: Rest,
  where: string,
): ChatExample {
  const { role } = messages[0]!;
  if (role !== "assistant") {
    const got = `a message of role "assistant", got one of role ${show(role)}`;
    throw new UserError(
      key === "messages"
        ? `${where}: the last of "messages" must be the answer that "label" is about, ${got}`
        : `${where}: "${key}" must answer the prompt with ${got}; ${key === "completion" ? 'what stands before the answer belongs to "prompt"' : "both answers have the same prompt"}`,
    );
  }
  const odd = messages.find(({ weight }) => weight !== 0 && weight !== 1);
  if (odd)
    throw new UserError(`${where}: a "weight" in "${key}" must be 0 or 1, got ${odd.weight}; an answer is judged as a whole`);
  return { kind: "chat", messages: [...prompt, ...messages], ...beside, where };
}
