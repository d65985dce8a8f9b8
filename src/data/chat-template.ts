import { Environment, Interpreter, Template } from "@huggingface/jinja";
import { messageOf, UserError } from "../errors.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Renders conversations to text with a model's Jinja template, as Transformers' `apply_chat_template` does. */
export interface ChatTemplate {
  /** Jinja source, for saving beside a model. */
  readonly source: string;
  render(conversation: Conversation): string;
  /**
   * The text and the character ranges inside `{% generation %}` blocks, or null when the template has none (or when
   * they cannot be followed through its filters).
   */
  renderMarked(conversation: Conversation): { readonly text: string; readonly ranges: readonly Range[] } | null;
}

export interface Conversation {
  readonly messages: readonly Readonly<Record<string, unknown>>[];
  readonly tools?: readonly unknown[] | null;
  readonly addGenerationPrompt?: boolean;
}

/** Half open, in UTF-16 units. */
export type Range = readonly [start: number, end: number];

/** Marks the edges of generation blocks in the rendered text: two private characters that no tokenizer's text holds. */
const MARK = "\u{10FFFD}\u{F0001}";

const GENERATION_TAG = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g;

/** ChatML (OpenAI 2023), for models without a template whose vocabulary has its tokens. */
const CHATML =
  "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** For models without a template and without ChatML's tokens: `role: content`, the assistant's turns ended by eos. */
const PLAIN =
  "{% if add_bos %}{{ bos_token }}{% endif %}" +
  "{% for message in messages %}{{ message.role + ': ' + message.content }}" +
  "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}";

/**
 * The template of a model: its own (the one named `tool_use` when there are tools), else a default.
 * @param now what `strftime_now` reads, fixed for a run so that the same data gives the same tokens tomorrow
 * @throws {UserError} a template that cannot be parsed
 */
export function chatTemplateOf(
  tokenizer: Tokenizer,
  options: { readonly tools?: boolean; readonly now?: Date } = {},
): ChatTemplate {
  const { chatTemplates, specialTokens, namedTokens } = tokenizer;
  const variables: Record<string, unknown> = { ...namedTokens };
  let source = options.tools ? chatTemplates.get("tool_use") : undefined;
  source ??= chatTemplates.get("default");
  if (source === undefined && chatTemplates.size > 0) {
    throw new UserError(
      `${tokenizer.folder} has no chat template named "default"; it has ${[...chatTemplates.keys()].join(", ")}`,
    );
  }
  if (source === undefined && specialTokens.has("<|im_start|>") && specialTokens.has("<|im_end|>")) source = CHATML;
  if (source === undefined) {
    if (namedTokens.eos_token === undefined) {
      throw new UserError(`${tokenizer.folder} has neither a chat template nor an eos_token; add one to tokenizer_config.json`);
    }
    source = PLAIN;
    variables.add_bos = tokenizer.prefix.length > 0 && namedTokens.bos_token !== undefined;
  }
  return createChatTemplate(source, variables, options.now, tokenizer.folder);
}

/** @param where names the template in errors */
export function createChatTemplate(
  source: string,
  variables: Readonly<Record<string, unknown>> = {},
  now = new Date(),
  where = "chat template",
): ChatTemplate {
  const parse = (text: string): Template => {
    try {
      return new Template(text);
    } catch (error) {
      throw new UserError(`${where}: the chat template cannot be parsed: ${messageOf(error)}`);
    }
  };
  const plain = parse(source);
  // An {% if %} takes the place of the tag: it trims white space around it just as the tag does.
  const marked =
    source.search(GENERATION_TAG) >= 0
      ? parse(
          source.replaceAll(
            GENERATION_TAG,
            (_, left: string, _end, right: string) => `{%${left} if true %}${MARK}{% endif ${right}%}`,
          ),
        )
      : null;
  const run = (template: Template, conversation: Conversation): string => {
    const environment = new Environment();
    const globals = { ...globalsAt(now), ...variables };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    environment.set("messages", conversation.messages.map(withReasoning));
    environment.set("tools", conversation.tools ?? null);
    environment.set("documents", null);
    environment.set("add_generation_prompt", conversation.addGenerationPrompt ?? false);
    try {
      return (new Interpreter(environment).run(template.parsed) as { value: string }).value;
    } catch (error) {
      throw new UserError(`${where}: the chat template refuses the conversation: ${messageOf(error)}`);
    }
  };
  return {
    source,
    render: (conversation) => run(plain, conversation),
    renderMarked(conversation) {
      if (!marked) return null;
      const parts = run(marked, conversation).split(MARK);
      const text = parts.join("");
      if (parts.length % 2 === 0 || text !== run(plain, conversation)) return null;
      const ranges: Range[] = [];
      let at = 0;
      parts.forEach((part, i) => {
        if (i % 2 === 1) ranges.push([at, at + part.length]);
        at += part.length;
      });
      return { text, ranges };
    },
  };
}

/** Names under which a message's reasoning comes; templates read the first (gpt-oss: `thinking`). */
const REASONING = ["reasoning_content", "thinking", "reasoning"];

function withReasoning(message: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>> {
  const name = REASONING.find((key) => message[key] !== undefined);
  if (name === undefined) return message;
  return { thinking: message[name], ...message, reasoning_content: message[name] };
}

/** What Transformers offers to a template, beside the filters that the engine has. */
function globalsAt(now: Date): Record<string, unknown> {
  return {
    true: true,
    True: true,
    false: false,
    False: false,
    none: null,
    None: null,
    raise_exception(message: unknown) {
      throw new Error(String(message));
    },
    range,
    strftime_now: (format: string) => strftime(now, format),
  };
}

/** Far above any conversation's needs; a template cannot fill the memory. */
const MAX_RANGE = 1_000_000;

function range(first: number, second?: number, step = 1): number[] {
  const [start, stop] = second === undefined ? [0, first] : [first, second];
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (!(count <= MAX_RANGE)) throw new Error(`range() of ${count} numbers is too long`);
  return Array.from({ length: count }, (_, i) => start + i * step);
}

const MONTHS = [
  "January",
  "February",
  "March",
  "April",
  "May",
  "June",
  "July",
  "August",
  "September",
  "October",
  "November",
  "December",
];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** C's strftime in the C locale: the conversions that chat templates use. */
function strftime(date: Date, format: string): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const fields: Record<string, string> = {
    Y: String(date.getFullYear()),
    y: two(date.getFullYear() % 100),
    m: two(date.getMonth() + 1),
    d: two(date.getDate()),
    e: String(date.getDate()).padStart(2),
    B: MONTHS[date.getMonth()]!,
    b: MONTHS[date.getMonth()]!.slice(0, 3),
    A: DAYS[date.getDay()]!,
    a: DAYS[date.getDay()]!.slice(0, 3),
    H: two(date.getHours()),
    I: two(date.getHours() % 12 || 12),
    M: two(date.getMinutes()),
    S: two(date.getSeconds()),
    p: date.getHours() < 12 ? "AM" : "PM",
    "%": "%",
  };
  return format.replace(/%(.)/g, (whole, key: string) => fields[key] ?? whole);
}
