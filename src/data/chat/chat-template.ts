import { attempt, explanationOf, UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import { contentText } from "../examples/formats.ts";
import { hasTextArguments, withArguments, wantsObjects } from "./call-arguments.ts";
import { type Conversation, type MessageFields, type Range, withReasoning } from "./conversation.ts";
import { parseTemplate, type RenderOptions, runTemplate, type Template } from "./jinja/template.ts";
import { tagsOf } from "./marks.ts";
import type { Tokenizer } from "../tokens/tokenizer.ts";

/** Renders conversations to text with a model's Jinja template, as Transformers' `apply_chat_template` does. */
export interface ChatTemplate {
  /** Jinja source, for saving beside a model. */
  readonly source: string;
  /** Tags that the source writes out (see `tagsOf`). */
  readonly tags: RegExp | null;
  /** The message with its calls' arguments as the template wants them: JSON texts as objects, or as they are. */
  asCalled(message: MessageFields): MessageFields;
  render(conversation: Conversation): string;
  /**
   * The text and the character ranges inside `{% generation %}` blocks, or null when the template has none (or when
   * they cannot be followed through its filters).
   */
  renderMarked(conversation: Conversation): { readonly text: string; readonly ranges: readonly Range[] } | null;
}

/** Marks the edges of generation blocks in the rendered text: two private characters that no tokenizer's text holds. */
const MARK = "\u{10FFFD}\u{F0001}";

/** A text that no template treats in a way of its own. */
const PROBE = "probe";

const GENERATION_TAG = /\{%[-+]?\s*generation\s*[-+]?%\}/;

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
  const { chatTemplates, specialTokens, namedTokens, templateArgs } = tokenizer;
  const variables: Record<string, unknown> = { ...namedTokens, ...templateArgs };
  let source = options.tools ? chatTemplates.get("tool_use") : undefined;
  source ??= chatTemplates.get("default");
  if (source === undefined && chatTemplates.size > 0) {
    throw new UserError(`${tokenizer.folder} has no chat template named "default"; it has ${show([...chatTemplates.keys()])}`);
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

/** Tells whether a model's template writes the date, so that tokens depend on it. */
export function readsDate({ chatTemplates }: Pick<Tokenizer, "chatTemplates">): boolean {
  return [...chatTemplates.values()].some((source) => source.includes("strftime_now"));
}

/** @param where names the template in errors */
export function createChatTemplate(
  source: string,
  variables: Readonly<Record<string, unknown>> = {},
  now = new Date(),
  where = "chat template",
): ChatTemplate {
  const parse = (): Template => {
    try {
      return parseTemplate(source);
    } catch (error) {
      throw new UserError(
        `${where}: the chat template cannot be parsed: ${explanationOf(error, "a tag or a bracket is not closed")}`,
      );
    }
  };
  const template = parse();
  const hasBlocks = GENERATION_TAG.test(source);
  let known: boolean | null = null;
  /** Tells whether the template goes through a list of parts; others would write the list itself into the text. */
  const readsParts = (): boolean => {
    if (known !== null) return known;
    known = true;
    const say = (content: unknown) => attempt(() => run({ messages: [{ role: "user", content }] }));
    const asParts = say([{ type: "text", text: PROBE }]);
    return (known = asParts !== null && asParts === say(PROBE));
  };
  let objects: boolean | null = null;
  const asCalled = (message: MessageFields): MessageFields => {
    if (!hasTextArguments(message)) return message;
    if (objects === null) {
      // The probe's own arguments stay as they are.
      objects = false;
      objects = wantsObjects((messages) => attempt(() => run({ messages })));
    }
    return objects ? withArguments(message) : message;
  };
  const asRead = (message: MessageFields): MessageFields => {
    const { content } = message;
    return Array.isArray(content) && !readsParts() ? { ...message, content: contentText(content) } : message;
  };
  const run = (conversation: Conversation, options: RenderOptions = {}): string => {
    const { tools = null, addGenerationPrompt = false, args } = conversation;
    const messages = conversation.messages.map((message) => asCalled(asRead(withReasoning(message))));
    const own = { messages, tools, documents: null, add_generation_prompt: addGenerationPrompt };
    try {
      return runTemplate(template, { ...variables, ...args, ...own }, now, options);
    } catch (error) {
      throw new UserError(
        `${where}: the chat template refuses the conversation: ${explanationOf(error, "it needs something that is not there")}`,
      );
    }
  };
  return {
    source,
    tags: tagsOf(source),
    asCalled,
    render: (conversation) => run(conversation),
    renderMarked(conversation) {
      if (!hasBlocks) return null;
      const parts = run(conversation, { mark: MARK }).split(MARK);
      const text = parts.join("");
      if (parts.length % 2 === 0 || text !== run(conversation)) return null;
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
