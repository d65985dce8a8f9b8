import { chatTemplateOf } from "../../data/chat/chat-template.ts";
import { contentText, type Example } from "../../data/examples/formats.ts";
import type { Tokenizer } from "../../data/tokens/tokenizer.ts";
import { chatPrompt, rawPrompt } from "../../generate/prompts.ts";
import { startOfDay } from "./date.ts";

/** Returns what the model is asked: the conversation up to the first answer, the prompt, or a text's first words. */
export function promptOf(tokenizer: Tokenizer, example: Example, date: string | null): { text: string; ids: Int32Array } | null {
  switch (example.kind) {
    case "chat": {
      const first = example.messages.findIndex((message) => message.role === "assistant");
      if (first < 1) return null;
      const messages = example.messages.slice(0, first).map((message) => message.fields);
      const template = chatTemplateOf(tokenizer, {
        tools: example.tools !== null,
        ...(date === null ? {} : { now: startOfDay(date) }),
      });
      const ids = chatPrompt(tokenizer, template, { messages, tools: example.tools, args: example.args });
      return { text: contentText(messages.at(-1)!["content"]), ids };
    }
    case "contrast":
    case "ranked":
    case "scored":
      return null;
    case "preference":
      return promptOf(tokenizer, example.chosen, date);
    case "unpaired":
    case "told":
      return promptOf(tokenizer, example.answer, date);
    case "labelled":
      return example.content.kind === "chat" ? promptOf(tokenizer, example.content, date) : null;
    case "completion":
      return { text: example.prompt, ids: rawPrompt(tokenizer, example.prompt) };
    case "text": {
      const words = example.text.split(/\s+/, 8).join(" ");
      return { text: words, ids: rawPrompt(tokenizer, words) };
    }
  }
}
