import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { JsonNumber } from "../../../src/base/exact-json.ts";
import { endOfTurn, endTokens } from "../../../src/data/chat/end-of-turn.ts";
import { parseTemplateArgs, withChatSettings } from "../../../src/data/chat/settings.ts";
import { chatTemplateOf } from "../../../src/data/chat/chat-template.ts";
import { parseExample } from "../../../src/data/examples/formats.ts";
import { createSampleMaker } from "../../../src/data/samples/sample-maker.ts";
import { sampleParts } from "../../../src/data/samples/sample.ts";
import { loadTokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { stopTokens } from "../../../src/generate/generate.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import { copyCompanions } from "../../../src/hf/weights/model-folder.ts";
import { temporaryFolder, userError } from "../../hf/temp.ts";
import { remat } from "../../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const base = join(import.meta.dir, "../../../recipes/base/model");

/** The base model's folder with other keys in its files; `edit` changes tokenizer.json. */
function variant(
  name: string,
  keys: Record<string, object>,
  edit: (json: { added_tokens: { content: string; special: boolean }[] }) => void = () => {},
): string {
  const path = join(folder, name);
  cpSync(base, path, { recursive: true });
  for (const [file, changed] of Object.entries(keys)) {
    const at = join(path, file);
    const now = existsSync(at) ? (JSON.parse(readFileSync(at, "utf8")) as object) : {};
    writeFileSync(at, JSON.stringify({ ...now, ...changed }));
  }
  const at = join(path, "tokenizer.json");
  const json = JSON.parse(readFileSync(at, "utf8")) as Parameters<typeof edit>[0];
  edit(json);
  writeFileSync(at, JSON.stringify(json));
  return path;
}

/** A model whose files declare another eos than its template writes. */
const differing = variant("differs", {
  "config.json": { eos_token_id: 0 },
  "generation_config.json": { eos_token_id: 0 },
  "tokenizer_config.json": { eos_token: "<|endoftext|>" },
});

describe("what ends a turn is what the template puts behind an answer", () => {
  test("whatever eos the files declare", () => {
    const tokenizer = loadTokenizer(differing);
    expect(endOfTurn(tokenizer)).toEqual({ token: "<|im_end|>", id: 2 });
    expect([...stopTokens(loadConfig(differing), tokenizer)].toSorted()).toEqual([0, 2]);
  });

  test("whether the token is special or not", () => {
    const plain = variant(
      "plain",
      { "tokenizer_config.json": { eos_token: "<|endoftext|>", added_tokens_decoder: {} } },
      (json) => {
        for (const token of json.added_tokens) token.special = token.content !== "<|im_end|>";
      },
    );
    const tokenizer = loadTokenizer(plain);
    expect(tokenizer.specialTokens.has("<|im_end|>")).toBe(false);
    expect(endTokens(tokenizer)).toContain("<|im_end|>");
    const messages = [
      { role: "user", content: "hi" },
      { role: "assistant", content: "yo" },
    ];
    const maker = createSampleMaker(tokenizer, { maxLength: 100, vocabSize: tokenizer.size });
    const [sample] = maker.samples(parseExample(JSON.stringify({ messages }), "d:1"));
    expect(sampleParts(tokenizer, sample!).map(({ text, trained }) => (trained ? text : ""))).toEqual(["", "yo<|im_end|>", ""]);
  });

  test("no token: null", () => {
    const tokenizer = {
      ...loadTokenizer(base),
      chatTemplates: new Map([["default", "{% for m in messages %}{{ m.content }}\n{% endfor %}"]]),
    };
    expect(endOfTurn(tokenizer)).toBeNull();
  });

  test("answers of chat end there", async () => {
    const { stdout } = await remat(["chat", "--model", differing, "--prompt", "Define love.", "--temperature", "0"]);
    const same = await remat(["chat", "--model", base, "--prompt", "Define love.", "--temperature", "0"]);
    expect(stdout).toBe(same.stdout);
    expect(stdout).not.toContain("assistant");
  });

  test("train says so, and merged models declare it, with the template that was trained with", async () => {
    const [run, merged] = [join(folder, "run"), join(folder, "merged")];
    const data = join(folder, "d.jsonl");
    const template = join(folder, "own.jinja");
    writeFileSync(
      data,
      `${JSON.stringify({ prompt: [{ role: "user", content: "hi" }], completion: [{ role: "assistant", content: "yo" }] })}\n`,
    );
    writeFileSync(
      template,
      "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '!\\n' ~ m.content ~ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant!\\n' }}{% endif %}",
    );
    const trained = await remat([
      "train",
      "--model",
      differing,
      "--data",
      data,
      "--chat-template",
      template,
      "--steps",
      "1",
      "--output",
      run,
    ]);
    expect(trained.stderr + trained.stdout).toContain(
      "the chat template ends a turn with <|im_end|> (2), the model's files with 0",
    );
    expect(trained.stderr + trained.stdout).toContain("[<|im_start|>user!\\nhi<|im_end|><|im_start|>assistant!\\n]yo<|im_end|>");
    expect(trained.code).toBe(0);
    expect((await remat(["merge", "--adapter", run, "--out", merged])).code).toBe(0);
    const generation = JSON.parse(readFileSync(join(merged, "generation_config.json"), "utf8")) as Record<string, unknown>;
    expect(generation).toMatchObject({ eos_token_id: [0, 2], temperature: 0.8 });
    expect(loadConfig(merged).eosTokenIds).toEqual([0, 2]);
    expect(loadTokenizer(merged).chatTemplates.get("default")).toBe(readFileSync(template, "utf8"));
    // Nothing is to be added to a model whose files say it.
    const plain = join(folder, "copied");
    mkdirSync(plain);
    copyCompanions(base, plain);
    expect(readFileSync(join(plain, "generation_config.json"))).toEqual(readFileSync(join(base, "generation_config.json")));
    rmSync(run, { recursive: true });
  });
});

describe("template settings", () => {
  test("arguments by name, as JSON, in Python's spelling", () => {
    expect(parseTemplateArgs("enable_thinking=false,language=German, n=1.5,none=None,yes=True,text=a=b")).toEqual({
      enable_thinking: false,
      language: "German",
      n: new JsonNumber("1.5"),
      none: null,
      yes: true,
      text: "a=b",
    });
    expect(parseTemplateArgs('{"tags": ["a", "b"]}')).toEqual({ tags: ["a", "b"] });
    for (const wrong of ["enable_thinking", "=1", "{", "[1]"])
      expect(userError(() => parseTemplateArgs(wrong))).toStartWith("--template-args");
  });

  test("a row's arguments win over the flag's, and those over the template's tokens; each changes the cache's key", () => {
    const plain = loadTokenizer(base);
    const file = join(folder, "args.jinja");
    writeFileSync(file, "{{ mode }}|{{ eos_token }}{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}");
    const tokenizer = withChatSettings(plain, { chatTemplate: file, templateArgs: "mode=flag,eos_token=E" });
    const render = (args?: object) => chatTemplateOf(tokenizer).render({ messages: [], args: args as Record<string, unknown> });
    expect(render()).toBe("flag|E");
    expect(render({ mode: "row" })).toBe("row|E");
    const keys = [
      plain,
      withChatSettings(plain, { chatTemplate: file }),
      tokenizer,
      withChatSettings(tokenizer, { templateArgs: { mode: "flag" } }),
      withChatSettings(plain, { specialText: "escape" }),
    ].map((one) => createSampleMaker(one, { maxLength: 9, vocabSize: one.size }).key);
    expect(new Set(keys).size).toBe(keys.length);
    expect(withChatSettings(plain, {})).toBe(plain);
  });
});
