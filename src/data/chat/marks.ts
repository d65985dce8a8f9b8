import { type Conversation, type MessageFields, type Range, REASONING } from "./conversation.ts";

/** A field of a conversation that its rendering must hold. */
export interface Field {
  /** Index of its message; null: `tools`, which belong to the whole conversation. */
  readonly message: number | null;
  readonly name: string;
  /** True for the model's thoughts before its answer, which templates leave out of earlier turns on purpose. */
  readonly isReasoning: boolean;
  /** Numbers of the marks in it. */
  readonly marks: readonly number[];
  /** The words between each two marks; none of calls and tools, whose texts have one mark. */
  readonly words: readonly string[];
}

/** A conversation with marks around its texts. */
export interface Marked {
  readonly conversation: Conversation;
  readonly fields: readonly Field[];
}

/** A rendering without its marks, and where they stood. */
export interface Unmarked {
  readonly text: string;
  /** By the number of a mark, in UTF-16 units of the text; a mark that is written several times counts where it is first. */
  readonly at: ReadonlyMap<number, number>;
}

/** Code points that Unicode reserves for use inside a program: texts do not hold them, and templates do not know them. */
const NONCHARACTERS = Array.from({ length: 34 }, (_, i) =>
  String.fromCodePoint(((16 - (i >> 1)) << 16) | (i % 2 === 0 ? 0xffff : 0xfffe)),
);

/** A noncharacter that a text does not hold, or null when it holds them all. */
export function unusedCharacter(text: string): string | null {
  return NONCHARACTERS.find((character) => !text.includes(character)) ?? null;
}

/** Tags that end a model's reasoning inside of a content. */
const REASONING_END = /^(?:<\/.*think.*>|<\/.*thought.*>|\[\/THINK\])$/i;

/**
 * The tags that a template looks for in texts, as far as they can be told: those that its source writes out. A content is cut at
 * them, for the template may treat what is before such a tag otherwise than what is behind it.
 */
export function tagsOf(source: string): RegExp | null {
  const tags = new Set(source.match(/<\/?[^<>\s'"{}%]{1,60}>|\[\/?[A-Z_]{2,40}\]/g) ?? []);
  return tags.size === 0 ? null : new RegExp(`(${[...tags].map((tag) => RegExp.escape(tag)).join("|")})`);
}

/**
 * Puts marks at the first and the last visible character of each text: content, reasoning, and of calls and tools a name and a value,
 * so that white space at the ends, and what a text begins with, stays what templates look at.
 * @param character begins and ends each mark; the conversation must not hold it
 * @param only the fields that are marked; default: all
 */
export function markConversation(
  conversation: Conversation,
  character: string,
  tags: RegExp | null,
  only: (message: number | null, name: string) => boolean = () => true,
): Marked {
  const fields: Field[] = [];
  let marks: number[] = [];
  let words: string[] = [];
  let count = 0;
  const next = (): string => {
    marks.push(count);
    return `${character}${count++}${character}`;
  };
  const around = (text: string): string => {
    const core = text.trim();
    if (core === "") return text;
    words.push(core);
    const from = text.indexOf(core);
    return text.slice(0, from) + next() + core + next() + text.slice(from + core.length);
  };
  const close = (message: number | null, name: string, isReasoning = false): void => {
    if (marks.length > 0) fields.push({ message, name, isReasoning, marks, words });
    [marks, words] = [[], []];
  };
  const content = (text: string, message: number): string => {
    const pieces = tags?.test(text) && !isTagsAlone(text, tags) ? text.split(tags) : [text];
    const end = pieces.findLastIndex((piece, i) => i % 2 === 1 && REASONING_END.test(piece));
    return pieces
      .map((piece, i) => {
        if (i % 2 === 0) return around(piece);
        if (i === end) close(message, "content", true);
        return piece;
      })
      .join("");
  };
  const markMessage = (message: MessageFields, index: number): MessageFields => {
    const changed: Record<string, unknown> = {};
    const wants = (name: string) => message[name] !== undefined && message[name] !== null && only(index, name);
    const reasoning = REASONING.find((name) => typeof message[name] === "string");
    if (reasoning !== undefined && wants(reasoning)) {
      changed[reasoning] = around(message[reasoning] as string);
      close(index, reasoning, true);
    }
    const { content: said } = message;
    if (wants("content")) {
      if (typeof said === "string") changed["content"] = content(said, index);
      else if (Array.isArray(said)) {
        changed["content"] = said.map((part: unknown) =>
          isPlain(part) && typeof part["text"] === "string" ? { ...part, text: around(part["text"]) } : part,
        );
      }
      close(index, "content");
    }
    if (wants("tool_calls") && Array.isArray(message["tool_calls"])) {
      changed["tool_calls"] = message["tool_calls"].map((call: unknown) => {
        if (!isPlain(call)) return call;
        return isPlain(call["function"]) ? { ...call, function: markCall(call["function"], next) } : markCall(call, next);
      });
      close(index, "tool_calls");
    }
    return { ...message, ...changed };
  };
  let { tools } = conversation;
  if (tools && only(null, "tools")) {
    tools = tools.map((tool) => {
      if (!isPlain(tool)) return tool;
      return isPlain(tool["function"]) ? { ...tool, function: markName(tool["function"], next) } : markName(tool, next);
    });
    close(null, "tools");
  }
  const messages = conversation.messages.map(markMessage);
  return { conversation: { ...conversation, messages, ...(tools ? { tools } : {}) }, fields };
}

/** Whether a text is nothing but tags, of which some are not of reasoning: then they are what is said. */
function isTagsAlone(text: string, tags: RegExp): boolean {
  const pieces = text.split(tags);
  const isTag = (_: string, i: number) => i % 2 === 1;
  return (
    pieces.every((piece, i) => isTag(piece, i) || piece.trim() === "") &&
    pieces.filter(isTag).some((tag) => !/think|thought/i.test(tag))
  );
}

function markName(fields: MessageFields, next: () => string): MessageFields {
  return typeof fields["name"] === "string" && fields["name"] !== "" ? { ...fields, name: fields["name"] + next() } : fields;
}

/** Marks the first argument that is a text, or the name of a call without arguments. */
function markCall(call: MessageFields, next: () => string): MessageFields {
  const { arguments: given } = call;
  if (typeof given === "string" && given.trim() !== "") return { ...call, arguments: given + next() };
  const marked = markFirstText(given, next);
  if (marked !== null) return { ...call, arguments: marked };
  return isEmpty(given) ? markName(call, next) : call;
}

/** Tells whether a call has no arguments. */
function isEmpty(given: unknown): boolean {
  if (given === undefined || given === null || given === "") return true;
  return isPlain(given) && Object.keys(given).length === 0;
}

/** The value with a mark behind the first text in it, or null when there is none. */
function markFirstText(value: unknown, next: () => string): unknown {
  if (typeof value === "string") return value === "" ? null : value + next();
  if (Array.isArray(value)) {
    for (const [i, entry] of value.entries()) {
      const marked = markFirstText(entry, next);
      if (marked !== null) return value.with(i, marked);
    }
  } else if (isPlain(value)) {
    for (const [key, entry] of Object.entries(value)) {
      const marked = markFirstText(entry, next);
      if (marked !== null) return { ...value, [key]: marked };
    }
  }
  return null;
}

/** Tells whether a value is an object of JSON, and not of a class (`JsonNumber`). */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== "object" || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Takes the marks out of a rendering. What is left of a torn one stays in the text. */
export function unmark(rendered: string, character: string): Unmarked {
  const at = new Map<number, number>();
  let text = "";
  let from = 0;
  for (let open = rendered.indexOf(character); open >= 0; open = rendered.indexOf(character, open + 1)) {
    const inside = open + character.length;
    const close = rendered.indexOf(character, inside);
    const number = close < 0 ? NaN : Number(rendered.slice(inside, close));
    if (close <= inside || !Number.isInteger(number)) continue;
    text += rendered.slice(from, open);
    if (!at.has(number)) at.set(number, text.length);
    from = close + character.length;
    open = from - 1;
  }
  return { text: text + rendered.slice(from), at };
}

/** From the first to the last of some marks; null: none is there. */
export function spanOf(fields: readonly Field[], at: Unmarked["at"]): Range | null {
  const places = fields.flatMap(({ marks }) => marks.flatMap((mark) => at.get(mark) ?? []));
  return places.length === 0 ? null : [Math.min(...places), Math.max(...places)];
}
