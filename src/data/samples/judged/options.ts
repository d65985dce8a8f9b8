import { UserError } from "../../../base/errors.ts";
import { show } from "../../../base/json.ts";
import { chatTemplateOf } from "../../chat/chat-template.ts";
import type { ChatExample, CompletionExample, TextExample } from "../../examples/example.ts";
import type { Tokenizer } from "../../tokens/tokenizer.ts";
import type { SampleOptions } from "./judged-texts.ts";

/** A text that no template treats in a way of its own. */
const PROBE = "probe";

/** The text between a question and the answer to it, where no template writes both. */
const SPACE = " ";

/** @throws {UserError} texts that are asked and may lose their ends */
export function refuseCutting({ asks = false, truncate = false }: Pick<SampleOptions, "asks" | "truncate">): void {
  if (!asks || !truncate) return;
  throw new UserError(
    "--truncate cuts texts at their ends, where the answer is picked; raise the sequence length, or shorten the texts",
  );
}

/** Says that an answer which is there cannot be picked. */
export function notAsked({ where }: CompletionExample): UserError {
  return new UserError(
    `${where}: a prompt with a completion; the model picks its answer among options: expected {"text"} or {"messages"}`,
  );
}

/** Tells whether texts are asked as a user asks them: the tokenizer has a chat template of its own. */
const asksInChat = ({ chatTemplates }: Pick<Tokenizer, "chatTemplates">): boolean => chatTemplates.size > 0;

/** A text, or two on lines of their own, as a user asks it; without a chat template as it is. */
export function askedText(tokenizer: Tokenizer, { text, where }: TextExample, pair: string | null): TextExample | ChatExample {
  const content = pair === null ? text : `${text}\n${pair}`;
  if (!asksInChat(tokenizer)) return { kind: "text", text: content, where };
  const role = "user";
  return { kind: "chat", messages: [{ role, weight: 0, fields: { role, content } }], tools: null, where };
}

/**
 * The tokens by which a model picks among answers: the first of each that follows a question, behind a space where there is no chat template.
 * @throws {UserError} answers that begin with the same token, or whose beginning has no token of its own
 */
export function optionTokens(tokenizer: Tokenizer, names: readonly string[]): number[] {
  const { asked, gap } = questionOf(tokenizer);
  const before = tokenizer.encode(asked);
  const ids = names.map((name) => {
    const text = asked + (/^\s/.test(name) ? "" : gap) + name;
    const { ids, tokens } = tokenizer.encodeWithBoundaries(text, [asked.length]);
    const at = tokens[0]!;
    if (at !== before.length || before.some((id, t) => id !== ids[t]) || ids[at] === undefined)
      throw new UserError(
        `--option-tokens: the tokenizer gives ${show(name)} no token of its own behind a question; choose another name for the class`,
      );
    return ids[at];
  });
  ids.forEach((id, i) => {
    const first = ids.indexOf(id);
    if (first === i) return;
    throw new UserError(
      `--option-tokens: the classes ${show(names[first])} and ${show(names[i])} begin with the same token ${show(tokenizer.decode([id]))} (${id}), and a model picks by the first one; give the labels names that differ there, such as A, B, C, which the texts explain`,
    );
  });
  return ids;
}

/** A question, and what comes between it and an answer. */
function questionOf(tokenizer: Tokenizer): { readonly asked: string; readonly gap: string } {
  if (!asksInChat(tokenizer)) return { asked: PROBE, gap: SPACE };
  const template = chatTemplateOf(tokenizer);
  const messages = [{ role: "user", content: PROBE }];
  const asked = template.render({ messages, addGenerationPrompt: true });
  const answered = template.render({ messages: [...messages, { role: "assistant", content: PROBE }] });
  // Some templates have a space there; what others write, such as empty reasoning, the answer of a question does not wait for.
  const between = answered.startsWith(asked) ? answered.slice(asked.length) : "";
  const at = between.indexOf(PROBE);
  return { asked, gap: at > 0 && between.slice(0, at).trim() === "" ? between.slice(0, at) : "" };
}
