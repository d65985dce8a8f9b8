import { afterEach, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import OpenAI from "openai";
import { loadConfig } from "../../src/hf/config/config.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import type { ServedModel } from "../../src/serve/answer-orders.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { NO_TUNING } from "../../src/models/tuning.ts";
import { fullForward } from "../support/full-forward.ts";
import { type Client, said, scriptedDecoder, serve, TEXT, user, useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const folder = join(import.meta.dir, "../../recipes/base/model");
const served = useServed();
const { ask, scripted } = served;
const closers: (() => unknown)[] = [];
let model: ServedModel;
let openai: OpenAI;
const clientOf = ({ server }: Client) => new OpenAI({ baseURL: server.url, apiKey: "none", maxRetries: 0 });
beforeAll(() => {
  model = served.model;
  openai = clientOf(served.client);
});
afterEach(() => closers.splice(0).forEach((close) => close()));

/** Log softmax in float64 of the logits that one pass over the whole text gives. */
async function reference(): Promise<(ids: readonly number[]) => Float64Array> {
  const config = loadConfig(folder);
  const source = openModelWeights(folder, config);
  const executor = await createWasmExecutor({ threads: 1 });
  closers.push(() => (executor.close(), source.close()));
  const full = fullForward(executor, config, source, NO_TUNING, 128);
  return (ids) => {
    const logits = Float64Array.from(full.logits(ids));
    const greatest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
    const total = greatest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - greatest), 0));
    return logits.map((logit) => logit - total);
  };
}

test("log-probabilities are those of one pass over the text, of chats and texts, whole and streamed", async () => {
  const of = await reference();
  const prompt = "In the beginning";
  const ids = [...model.tokenizer.encode(prompt)];
  const texts = { model: "served", prompt, max_tokens: 12, temperature: 1, seed: 3, logprobs: 5 };
  const answer = await openai.completions.create(texts);
  const { logprobs, text } = answer.choices[0]!;
  expect(logprobs!.tokens!.join("")).toBe(text);
  const own = [...model.tokenizer.encode(prompt + text)].slice(ids.length);
  expect(logprobs!.tokens).toHaveLength(12);
  let at = 0;
  for (const [i, token] of logprobs!.tokens!.entries()) {
    const expected = of([...ids, ...own.slice(0, i)]);
    expect(model.tokenizer.decode([own[i]!])).toBe(token);
    expect(Math.abs(logprobs!.token_logprobs![i]! - expected[own[i]!]!)).toBeLessThan(1e-5);
    expect(logprobs!.text_offset![i]).toBe(at);
    at += token.length;
    const likeliest = [...expected.keys()].sort((a, b) => expected[b]! - expected[a]!).slice(0, 5);
    for (const id of likeliest)
      expect(Math.abs(logprobs!.top_logprobs![i]![model.tokenizer.decode([id])]! - expected[id]!)).toBeLessThan(1e-5);
  }
  const pieces = [];
  for await (const { choices } of await openai.completions.create({ ...texts, stream: true })) pieces.push(choices[0]!);
  expect(pieces.map((piece) => piece.text).join("")).toBe(text);
  expect(pieces.flatMap((piece) => piece.logprobs?.token_logprobs ?? [])).toEqual(logprobs!.token_logprobs!);
  expect(pieces.flatMap((piece) => piece.logprobs?.text_offset ?? [])).toEqual(logprobs!.text_offset!);

  const chats = {
    model: "served",
    messages: [user("Define love.")] as never,
    logprobs: true,
    top_logprobs: 3,
    max_tokens: 10,
    seed: 1,
  };
  const chat = await openai.chat.completions.create(chats);
  const content = chat.choices[0]!.logprobs!.content!;
  expect(content.map(({ token }) => token).join("")).toBe(chat.choices[0]!.message.content!);
  for (const { token, bytes, top_logprobs: top } of content) {
    expect(Buffer.from(bytes!).toString()).toBe(token);
    expect(top).toHaveLength(3);
    // It is greedy.
    expect(top[0]!.token).toBe(token);
  }
  const streamed = [];
  for await (const { choices } of await openai.chat.completions.create({ ...chats, stream: true }))
    streamed.push(...(choices[0]!.logprobs?.content ?? []));
  expect(streamed).toEqual(content);
  const without = await openai.chat.completions.create({ ...chats, logprobs: null, top_logprobs: null });
  expect(without.choices[0]!.logprobs).toBeNull();
  expect(without.choices[0]!.message.content).toBe(chat.choices[0]!.message.content);
});

test("log-probabilities are of the answer's own tokens: none of a stop text, of reasoning, or of the end; of characters in pieces all", async () => {
  const tokens = async (script: string, body: object, template?: string) => {
    const client = template === undefined ? scripted(script) : thinking(script, template);
    const whole = await clientOf(client).chat.completions.create({
      model: "served",
      messages: [user("x")] as never,
      logprobs: true,
      ...body,
    });
    const { message, logprobs } = whole.choices[0]!;
    const bytes = Buffer.concat(logprobs!.content!.map((token) => Buffer.from(token.bytes!)));
    return { content: message.content, bytes: bytes.toString(), usage: whole.usage! };
  };
  const thinking = (script: string, template: string) =>
    scripted(script, {}, 1024, { chatTemplates: new Map([["default", template]]) });
  expect(await tokens("One. Two END three", { stop: [" END"] })).toMatchObject({ content: "One. Two", bytes: "One. Two" });
  const odd = "漢字 👩‍👩‍👧 end";
  expect(await tokens(odd, {})).toMatchObject({ content: odd, bytes: odd });
  const template = "{% for m in messages %}{{ m.role + ':' + m.content }}{% endfor %}{# </think> #}";
  const thought = await tokens("<think>add them</think>It is 4.", {}, template);
  expect(thought.content).toBe("It is 4.");
  expect(thought.bytes).toEndWith("It is 4.");
  expect(thought.bytes.length).toBeLessThan("It is 4.".length + 3);
  const written = model.tokenizer.encode("<think>add them</think>").length;
  expect(Math.abs(thought.usage.completion_tokens_details!.reasoning_tokens! - written)).toBeLessThanOrEqual(1);
});

test("penalties and biases reach the sampler", async () => {
  const body = { prompt: "And the LORD", max_tokens: 24 };
  const plain = said(await ask(TEXT, body));
  const [first] = model.tokenizer.encode(plain);
  const banned = said(await ask(TEXT, { ...body, logit_bias: { [first!]: -100 } }));
  expect(model.tokenizer.encode(banned)[0]).not.toBe(first!);
  const forced = said(await ask(TEXT, { ...body, max_tokens: 5, logit_bias: { [first!]: 100 } }));
  expect([...model.tokenizer.encode(forced)]).toEqual(Array.from({ length: 5 }, () => first!));
  // A script repeats one token for ever: its logit is 1, all others are 0.
  const client = scripted("for ever");
  const again = (more: object) => ask(TEXT, { prompt: "x", max_tokens: 6, ...more }, client).then(said);
  expect(await again({})).toBe("aaaaaa");
  // The fourth has 1 - 3 * 0.3; others are at 0 still.
  expect(await again({ frequency_penalty: 0.3 })).toStartWith("aaaa");
  expect(await again({ frequency_penalty: 0.3 })).not.toStartWith("aaaaa");
  expect(await again({ presence_penalty: 0.99 })).toBe("aaaaaa");
  expect(await again({ presence_penalty: 1.01 })).not.toStartWith("aa");
});

test("several answers: each is that of its own seed, whole and streamed, and the prompt is counted once", async () => {
  const body = { model: "served", prompt: "In the", max_tokens: 8, temperature: 1 };
  const single = await Promise.all([4, 5, 6].map((seed) => openai.completions.create({ ...body, seed })));
  const texts = single.map(({ choices }) => choices[0]!.text);
  const three = await openai.completions.create({ ...body, n: 3, seed: 4 });
  expect(three.choices.map(({ index, text }) => [index, text])).toEqual(texts.map((text, index) => [index, text]));
  expect(three.usage).toMatchObject({
    prompt_tokens: single[0]!.usage!.prompt_tokens,
    completion_tokens: single.reduce((sum, { usage }) => sum + usage!.completion_tokens, 0),
  });
  const streamed = ["", "", ""];
  const ends: string[] = [];
  for await (const { choices } of await openai.completions.create({ ...body, n: 3, seed: 4, stream: true })) {
    for (const { index, text, finish_reason: reason } of choices) {
      streamed[index] += text;
      if (reason) ends.push(`${index} ${reason}`);
    }
  }
  expect(streamed).toEqual(texts);
  expect(ends.sort()).toEqual(["0 length", "1 length", "2 length"]);
  const chat = await openai.chat.completions.create({ model: "served", messages: [user("x")] as never, n: 8, max_tokens: 2 });
  expect(chat.choices.map(({ index, message }) => `${index} ${message.content}`)).toEqual(
    chat.choices.map((_, index) => `${index} ${chat.choices[0]!.message.content}`),
  );
});

test("an error in one of several answers ends them all, and is reported once", async () => {
  const decoder = scriptedDecoder(model.tokenizer, model.vocabSize, "hello");
  let prompts = 0;
  const broken = {
    ...decoder,
    *feedInPieces(ids: readonly number[]) {
      if (ids.length === 1 && ++prompts === 3) throw new Error("a bug");
      return yield* decoder.feedInPieces(ids);
    },
  };
  const client = served.also(serve({ ...model, decoders: [broken] }));
  const whole = await client.post(TEXT, { prompt: "x", n: 5 });
  expect(whole.status).toBe(500);
  prompts = 0;
  const streamed = await client.post(TEXT, { prompt: "x", n: 5, stream: true });
  expect((await streamed.text()).trimEnd().split("\n\n").at(-1)).toContain("internal error");
  expect(client.reports.map(({ status, answer }) => [status, answer!.reason])).toEqual([
    [500, null],
    [500, null],
  ]);
});
