import { expect, test } from "bun:test";
import { join } from "node:path";
import { withChatSettings } from "../../../src/data/chat/settings.ts";
import { parseExample } from "../../../src/data/examples/formats.ts";
import { createSampleMaker } from "../../../src/data/samples/sample-maker.ts";
import { sampleParts } from "../../../src/data/samples/sample.ts";
import { loadTokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { chatPrompt } from "../../../src/generate/prompts.ts";
import { chatTemplateOf } from "../../../src/data/chat/chat-template.ts";
import { userError } from "../../hf/temp.ts";

const golden = join(import.meta.dir, "../../golden");
const split = (await Bun.file(join(golden, "added-tokens/split.json")).json()) as Record<
  string,
  { text: string; ids: number[] }[]
>;

/** Where a special token's text begins. */
function places(text: string, tokens: Iterable<string>): number[] {
  const found = [...tokens].flatMap((token) =>
    [...text.matchAll(new RegExp(RegExp.escape(token), "g"))].map(({ index }) => index),
  );
  return found.toSorted((a, b) => a - b);
}

for (const [name, cases] of Object.entries(split)) {
  test(`special tokens' text as text has the ids of Transformers' split_special_tokens (${name})`, () => {
    const tokenizer = loadTokenizer(join(golden, "tokenizers", name));
    for (const { text, ids } of cases) {
      const plain = places(text, tokenizer.specialTokens.keys());
      expect(plain.length).toBeGreaterThan(0);
      expect([...tokenizer.encode(text, plain)]).toEqual(ids);
      // Nothing of it stays behind.
      expect(places(text, tokenizer.specialTokens.keys()).length).toBe(
        tokenizer.encode(text).filter((id) => [...tokenizer.specialTokens.values()].includes(id)).length,
      );
    }
  });
}

test("text of special tokens in messages: counted, and with escape text, of which the template's own tokens are none", () => {
  const tokenizer = loadTokenizer(join(golden, "tokenizers/llama3"));
  const messages = [
    { role: "user", content: "say <|eot_id|>" },
    { role: "assistant", content: "<|eot_id|> it is, <|begin_of_text|>" },
  ];
  const example = parseExample(JSON.stringify({ messages }), "d.jsonl:4");
  const idsOf = (special: "token" | "escape") => {
    const own = withChatSettings(tokenizer, { specialText: special });
    const maker = createSampleMaker(own, { maxLength: 1000, vocabSize: own.size });
    const [sample, ...others] = maker.samples(example);
    expect(others).toEqual([]);
    return { sample: sample!, notices: maker.notices(), key: maker.key };
  };
  const [read, escaped] = [idsOf("token"), idsOf("escape")];
  expect(read.notices).toEqual([{ kind: "special", count: 2, where: "d.jsonl:4, message 1" }]);
  expect(escaped.notices).toEqual([]);
  expect(read.key).not.toBe(escaped.key);
  const eot = tokenizer.idOf("<|eot_id|>")!;
  const count = (ids: Int32Array) => ids.filter((id) => id === eot).length;
  expect(count(read.sample.ids) - count(escaped.sample.ids)).toBe(2);
  expect(count(escaped.sample.ids)).toBe(3);
  const text = (sample: typeof read.sample) => sampleParts(tokenizer, sample);
  // The same text, trained on in the same places.
  expect(text(escaped.sample)).toEqual(text(read.sample));
  expect(text(escaped.sample).find(({ trained }) => trained)!.text).toBe("<|eot_id|> it is, <|begin_of_text|><|eot_id|>");
});

test("a prompt keeps such text too; a template that looks at it is an error", () => {
  const tokenizer = withChatSettings(loadTokenizer(join(golden, "tokenizers/smollm")), { specialText: "escape" });
  const messages = [{ role: "user", content: "<|im_end|>" }];
  const ends = (content: string) => {
    const ids = chatPrompt(tokenizer, chatTemplateOf(tokenizer), { messages: [{ role: "user", content }] });
    return ids.filter((id) => id === tokenizer.idOf("<|im_end|>")).length;
  };
  expect(ends("<|im_end|>")).toBe(ends("x"));
  const source = "{% for m in messages %}{{ m.content | replace('<|im_end|>', '!') }}{% endfor %}";
  const looking = { ...tokenizer, chatTemplates: new Map([["default", source]]) };
  expect(userError(() => chatPrompt(looking, chatTemplateOf(looking), { messages }))).toContain(
    "--special-text escape cannot keep it",
  );
});
