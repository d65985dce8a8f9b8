import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { chatTemplateOf } from "../../src/data/chat/chat-template.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../golden/tokenizers");

interface TextCase {
  readonly text: string;
  readonly ids: number[];
  readonly full: number[];
  readonly decoded: string;
  readonly skipped: string;
}

type ChatCase =
  { readonly name: string; readonly text: string; readonly ids: number[] } | { readonly name: string; readonly error: string };

interface Conversation {
  readonly name: string;
  readonly messages: Record<string, unknown>[];
  readonly tools?: unknown[];
  readonly add_generation_prompt?: boolean;
}

const conversations = (await Bun.file(join(folder, "conversations.json")).json()) as Conversation[];

test("digits are the numerals of all scripts", () => {
  // As Transformers 5.23 has it: the two spaces are one token, for what follows them is a word of its own.
  const tokenizer = loadTokenizer(join(folder, "smollm"));
  const spaces = 263;
  for (const [text, behind] of [
    ["  \u00b2", [129, 113]],
    ["  \u2167", [161, 230, 103]],
    ["  \u0661\u0662", [152, 97, 152, 98]],
    ["  7\u00bd", [25, 129, 124]],
  ] as const)
    expect([...tokenizer.encode(text)]).toEqual([spaces, ...behind]);
});

for (const name of ["qwen", "llama3", "mistral", "smollm", "gemma2", "gemma3", "phi3", "phi4", "internlm2", "internlm3"]) {
  const cases = (await Bun.file(join(folder, name, "cases.json")).json()) as { texts: TextCase[]; chats: ChatCase[] };
  const tokenizer = loadTokenizer(join(folder, name));

  describe(`${name} tokenizer equals Transformers'`, () => {
    test.each(cases.texts.map((item) => [JSON.stringify(item.text.slice(0, 30)), item] as const))(
      "ids and text of %s",
      (_, item) => {
        expect([...tokenizer.encode(item.text)]).toEqual(item.ids);
        expect([...tokenizer.prefix, ...tokenizer.encode(item.text), ...tokenizer.suffix]).toEqual(item.full);
        expect(tokenizer.decode(item.ids)).toBe(item.decoded);
        expect(tokenizer.decode(item.ids, { skipSpecial: true })).toBe(item.skipped);
      },
    );

    test.each(cases.chats.map((item, i) => [item.name, item, conversations[i]!] as const))(
      "chat: %s",
      (_, item, conversation) => {
        const template = chatTemplateOf(tokenizer, { tools: conversation.tools !== undefined });
        const messages = conversation.messages.map((message) =>
          Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null)),
        );
        const render = () =>
          template.render({ messages, tools: conversation.tools, addGenerationPrompt: conversation.add_generation_prompt });
        if ("error" in item) {
          expect(userError(render)).toContain(item.error);
        } else {
          expect(render()).toBe(item.text);
          expect([...tokenizer.encode(render())]).toEqual(item.ids);
        }
      },
    );
  });
}
