import { chatTemplateOf } from "../data/chat/chat-template.ts";
import { parseTemplate, runTemplate } from "../data/chat/jinja.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";

/** Takes the place of a content; no template writes it by itself. */
const CONTENT = "\u{10FFFD}";

const TALK = [
  { role: "user", content: "a" },
  { role: "assistant", content: CONTENT },
];

/**
 * Chat templates by name, as llama.cpp should have them: the model's own, or that which chats are rendered with here if it has
 * none. llama.cpp does not define `tools` where there are none, Transformers has `none`: a template to which that makes a
 * difference gets a line for it.
 */
export function chatTemplates(tokenizer: Tokenizer): Map<string, string> {
  const own = new Map(tokenizer.chatTemplates);
  if (own.size === 0) {
    const source = defaultTemplate(tokenizer);
    if (source !== null) own.set("default", source);
  }
  const variables = { ...tokenizer.namedTokens, messages: TALK, add_generation_prompt: true };
  const render = (source: string, more: object) => {
    try {
      return runTemplate(parseTemplate(source), { ...variables, ...more }, new Date(0));
    } catch {
      return null;
    }
  };
  return new Map(
    [...own].map(([name, source]) => [
      name,
      render(source, {}) === render(source, { tools: null }) ? source : `{% set tools = tools or none %}${source}`,
    ]),
  );
}

function defaultTemplate(tokenizer: Tokenizer): string | null {
  try {
    return chatTemplateOf(tokenizer).source;
  } catch {
    // No eos to end an answer with: nothing that could be chatted with.
    return null;
  }
}

/** The special token that the chat template puts behind an answer, or null. */
export function endOfTurn(tokenizer: Tokenizer): number | null {
  let text: string;
  try {
    text = chatTemplateOf(tokenizer).render({ messages: TALK });
  } catch {
    return null;
  }
  const behind = text.slice(text.lastIndexOf(CONTENT) + CONTENT.length).trimStart();
  const found = [...tokenizer.specialTokens].filter(([token]) => text.includes(CONTENT) && behind.startsWith(token));
  return found.sort(([a], [b]) => b.length - a.length)[0]?.[1] ?? null;
}
