import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { UserError } from "../../../src/base/errors.ts";
import { trainedTexts } from "../../../src/data/chat/chat-spans.ts";
import { createChatTemplate } from "../../../src/data/chat/chat-template.ts";
import { exampleOf, type ChatExample } from "../../../src/data/examples/formats.ts";

interface Conversation {
  readonly name: string;
  readonly messages: readonly Readonly<Record<string, unknown>>[];
  readonly tools?: readonly unknown[];
  readonly args?: Readonly<Record<string, unknown>>;
}

interface Case {
  readonly family: string;
  readonly name: string;
  readonly error?: string;
  readonly text?: string;
  readonly asking?: string;
  readonly lost?: readonly string[];
  readonly trained?: readonly string[];
  readonly answers?: readonly (string | null)[];
}

/** Renderings by Transformers of templates in the styles of well-known families, and the parts that these leave out. */
const { templates, conversations, cases, ends, bos, eos } = (await Bun.file(
  join(import.meta.dir, "../../golden/chat-templates/cases.json"),
).json()) as {
  templates: Record<string, string>;
  conversations: Conversation[];
  cases: Case[];
  ends: string[];
  bos: string;
  eos: string;
};
const named = new Map(conversations.map((conversation) => [conversation.name, conversation]));
const compiled = new Map(
  Object.entries(templates).map(([family, source]) => [family, createChatTemplate(source, { bos_token: bos, eos_token: eos })]),
);

/** The trained parts of each text, or what is refused. */
function trainedParts(family: string, { messages, tools, args }: Conversation): string[][] | string {
  const record = { messages, ...(tools ? { tools } : {}), ...(args ? { chat_template_kwargs: args } : {}) };
  try {
    const texts = trainedTexts(compiled.get(family)!, exampleOf(record, "d.jsonl:7") as ChatExample, ends);
    return texts.map(({ text, ranges }) => ranges.map(([from, to]) => text.slice(from, to)));
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}

/** The fields that must be named in an error: all but the reasoning that is there when its turn is the last. */
function refusedFields({ family, lost = [] }: Case): readonly string[] {
  // Mistral's system prompt is there when an answer is asked for, Qwen3's reasoning as long as no question follows, and Gemma 4's in the last turn.
  const there: Readonly<Record<string, string>> = { mistral: "0 content", qwen3: "reasoning", gemma4: "reasoning_content" };
  const all = lost.filter((field) => !there[family] || !field.endsWith(there[family]));
  // One error; reasoning is looked at when nothing else is lost.
  const others = all.filter((field) => !field.includes("reasoning"));
  return others.length > 0 ? others : all;
}

for (const family of Object.keys(templates)) {
  describe(`a template in the style of ${family}`, () => {
    test.each(cases.filter((item) => item.family === family).map((item) => [item.name, item] as const))("%s", (name, item) => {
      const conversation = named.get(name)!;
      const { messages, tools, args } = conversation;
      const template = compiled.get(family)!;
      const made = trainedParts(family, conversation);
      if (item.error !== undefined) {
        expect(made).toContain(item.error);
        return;
      }
      expect(template.render({ messages, tools, args })).toBe(item.text!);
      const asking = template.render({ messages, tools, args, addGenerationPrompt: true });
      expect(new Bun.CryptoHasher("sha256").update(asking).digest("hex").slice(0, 16)).toBe(item.asking!);

      const [first] = refusedFields(item).toSorted(byMessage);
      if (first !== undefined) {
        const [index, field] = first === "tools" ? [null, "tools"] : (first.split(" ") as [string, string]);
        const place = index === null ? "d.jsonl:7: " : `d.jsonl:7, message ${Number(index) + 1}: `;
        expect(made).toStartWith(`${place}the chat template leaves out `);
        expect(made).toContain(field === "reasoning" ? 'the reasoning in "content"' : `"${field}"`);
        return;
      }
      expect(made).toBeArray();
      const parts = (made as string[][]).flat();
      if (item.trained) {
        expect(parts).toEqual([...item.trained]);
        return;
      }
      const assistants = messages.filter(({ role }) => role === "assistant");
      expect(parts).toHaveLength(assistants.length);
      for (const [i, part] of parts.entries()) {
        const answer = item.answers![i];
        if (typeof answer === "string") {
          // Behind its end token, the line break is no more the answer's; what closes the conversation neither.
          expect(answer).toStartWith(part);
          expect(["", "\n", eos]).toContain(answer.slice(part.length));
          continue;
        }
        // Gemma 4's prompt begins a thought, which an answer with reasoning goes on with.
        const { reasoning_content: reasoning, content, tool_calls: calls } = assistants[i]!;
        const thought = family === "gemma4" && reasoning ? `${String(reasoning)}<channel|>` : "";
        const words = thought + String(content).trim();
        const own = calls ? (family === "gemma4" ? words + "<|tool_call>call:" : /^(<\|call\|>|\[TOOL_CALLS\])/) : null;
        if (typeof own === "string") expect(part).toStartWith(own);
        else if (own) expect(part).toMatch(own);
        else expect(part.trimStart()).toStartWith(words);
        expect(ends.some((end) => part.endsWith(end))).toBe(true);
      }
    });
  });
}

/** In the order of the messages, content first; what belongs to all of them last. */
function byMessage(a: string, b: string): number {
  const place = (field: string) => (field === "tools" ? Infinity : Number.parseInt(field, 10));
  const rank = (field: string) => ["reasoning_content", "reasoning", "content", "tool_calls"].indexOf(field.split(" ").at(-1)!);
  return place(a) - place(b) || rank(a) - rank(b);
}
