import { describe, expect, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createChatTemplate } from "../../../src/data/chat/chat-template.ts";
import { loadTokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { copyCompanions } from "../../../src/hf/weights/model-folder.ts";
import { temporaryFolder, userError } from "../../hf/temp.ts";

const golden = join(import.meta.dir, "../../golden");
const { texts, template, cases } = (await Bun.file(join(golden, "added-tokens/cases.json")).json()) as {
  texts: string[];
  template: string;
  cases: {
    name: string;
    remove?: string[];
    plain?: string[];
    config: Record<string, unknown>;
    map?: Record<string, unknown>;
    ids: number[][];
    decoded: string[];
    rendered: string;
  }[];
};
const base = join(golden, "tokenizers/smollm");
const read = (file: string) => JSON.parse(readFileSync(join(base, file), "utf8")) as Record<string, unknown>;
const folder = temporaryFolder();

/** The tokenizer of a folder with other files. */
function open(
  name: string,
  { remove = [], plain = [], config, map }: Pick<(typeof cases)[0], "remove" | "plain" | "config" | "map">,
) {
  const path = join(folder, name.replaceAll(/\W+/g, "-"));
  mkdirSync(path, { recursive: true });
  const json = read("tokenizer.json");
  const added = (json["added_tokens"] as { content: string }[])
    .filter(({ content }) => !remove.includes(content))
    .map((token) => ({ ...token, special: !plain.includes(token.content) }));
  writeFileSync(join(path, "tokenizer.json"), JSON.stringify({ ...json, added_tokens: added }));
  writeFileSync(join(path, "tokenizer_config.json"), JSON.stringify({ ...read("tokenizer_config.json"), ...config }));
  if (map) writeFileSync(join(path, "special_tokens_map.json"), JSON.stringify(map));
  return loadTokenizer(path);
}

describe("added tokens that only tokenizer_config.json lists are Transformers'", () => {
  test.each(cases.map((item) => [item.name, item] as const))("%s", (name, item) => {
    const tokenizer = open(name, item);
    expect(texts.map((text) => [...tokenizer.encode(text)])).toEqual(item.ids);
    expect(item.ids.map((ids) => tokenizer.decode(ids, { skipSpecial: true }))).toEqual(item.decoded);
    const messages = [{ role: "user", content: "x" }];
    expect(createChatTemplate(template, tokenizer.namedTokens).render({ messages })).toBe(item.rendered);
  });
});

test("entries that are no tokens are refused", () => {
  const refused = (config: object) => userError(() => open("refused", { config: { ...config } }));
  expect(refused({ extra_special_tokens: [7] })).toContain("extra_special_tokens has the token 7");
  expect(refused({ additional_special_tokens: "<a>" })).toContain('additional_special_tokens is "<a>"; expected a list');
  expect(refused({ added_tokens_decoder: { 5: "x" } })).toContain('added token 5 is "x"; expected {"content": text}');
});

test("templates in additional_chat_templates/ are read by their names and copied with a model", () => {
  const { folder: path } = open("templates", { config: { chat_template: "from the configuration" } });
  const named = () => Object.fromEntries(loadTokenizer(path).chatTemplates);
  expect(named()).toEqual({ default: "from the configuration" });
  mkdirSync(join(path, "additional_chat_templates"));
  writeFileSync(join(path, "additional_chat_templates/tool_use.jinja"), "for tools");
  expect(named()).toEqual({ default: "from the configuration", tool_use: "for tools" });
  writeFileSync(join(path, "chat_template.jinja"), "of the file");
  expect(named()).toEqual({ default: "of the file", tool_use: "for tools" });
  const copy = join(folder, "copy");
  mkdirSync(copy);
  copyCompanions(path, copy);
  expect(Object.fromEntries(loadTokenizer(copy).chatTemplates)).toEqual(named());
});
