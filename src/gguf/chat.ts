import { chatTemplateOf } from "../data/chat/chat-template.ts";
import { TALK } from "../data/chat/end-of-turn.ts";
import { parseTemplate, runTemplate } from "../data/chat/jinja/template.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { TOOLS_LINE } from "./folder/vocabulary.ts";

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
      render(source, {}) === render(source, { tools: null }) ? source : TOOLS_LINE + source,
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
