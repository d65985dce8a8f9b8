import { beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { type Client, scriptedDecoder, serve, user, useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const served = useServed();
const clientOf = ({ server }: Client) => new OpenAI({ baseURL: server.url, apiKey: "none", maxRetries: 0 });
let openai: OpenAI;
beforeAll(() => (openai = clientOf(served.client)));

const messages = [user("Describe love as JSON.")] as OpenAI.ChatCompletionMessageParam[];
const chat = { model: "served", messages };

test("an object, greedy and sampled, whole and streamed, however few tokens there are; without the field answers stay as they are", async () => {
  const format = { response_format: { type: "json_object" as const } };
  for (const more of [{ temperature: 0 }, { temperature: 1, seed: 3, n: 3 }, { temperature: 1, seed: 5, max_tokens: 8 }]) {
    const { choices } = await openai.chat.completions.create({ ...chat, max_tokens: 40, ...format, ...more });
    for (const { message, finish_reason: reason } of choices) {
      expect(reason).toBe("stop");
      expect(JSON.parse(message.content!)).toBeObject();
      expect(message.content!).toMatch(/^ ?\{/);
    }
    const texts: string[] = choices.map(() => "");
    for await (const piece of await openai.chat.completions.create({ ...chat, max_tokens: 40, ...format, ...more, stream: true }))
      for (const { index, delta } of piece.choices) texts[index] += delta.content ?? "";
    expect(texts).toEqual(choices.map(({ message }) => message.content!));
  }
  const plain = await openai.chat.completions.create(chat);
  const text = await openai.chat.completions.create({ ...chat, response_format: { type: "text" } });
  expect(text.choices[0]!.message.content).toBe(plain.choices[0]!.message.content);
});

test("a schema, as OpenAI's client makes it of zod's and parses the answer by it", async () => {
  const Step = z.object({ explanation: z.string(), output: z.union([z.number(), z.null()]) });
  const Answer = z.object({
    kind: z.enum(["virtue", "vice"]),
    steps: z.array(Step).max(2),
    age: z.number().int().min(0).max(150),
    isGood: z.boolean(),
    at: z.iso.date(),
    mail: z.email(),
    price: z.number().positive().max(9.99),
    shape: z.discriminatedUnion("is", [
      z.object({ is: z.literal("round"), radius: z.number() }),
      z.object({ is: z.literal("square"), name: z.string().regex(/^[a-z]{1,5}$/) }),
    ]),
  });
  for (const seed of [1, 2]) {
    const { choices } = await openai.chat.completions.parse({
      ...chat,
      temperature: 1,
      seed,
      max_tokens: 400,
      response_format: zodResponseFormat(Answer, "answer"),
    });
    const parsed: z.infer<typeof Answer> = choices[0]!.message.parsed!;
    expect(Answer.parse(parsed)).toEqual(parsed);
    expect(choices[0]!.finish_reason).toBe("stop");
  }
});

test("schemas that contain themselves, and bodies by hand; log-probabilities are still the model's", async () => {
  const schema = {
    type: "object",
    properties: { name: { type: "string", maxLength: 5 }, child: { anyOf: [{ $ref: "#" }, { type: "null" }] } },
    required: ["name", "child"],
    additionalProperties: false,
  };
  const format = { type: "json_schema" as const, json_schema: { name: "tree", strict: true, schema } };
  const { choices } = await openai.chat.completions.create({
    ...chat,
    max_tokens: 100,
    response_format: format,
    logprobs: true,
    top_logprobs: 1,
  });
  const { message, logprobs } = choices[0]!;
  interface Tree {
    name: string;
    child: Tree | null;
  }
  let depth = 0;
  for (let tree: Tree | null = JSON.parse(message.content!) as Tree; tree; tree = tree.child) {
    expect(Object.keys(tree)).toEqual(["name", "child"]);
    depth++;
  }
  expect(depth).toBeGreaterThan(0);
  expect(logprobs!.content!.map(({ token }) => token).join("")).toBe(message.content!);
  // The model would have begun with something else than a brace.
  expect(logprobs!.content![0]!.top_logprobs[0]!.logprob).toBeGreaterThan(logprobs!.content![0]!.logprob);
});

test("what the model would say goes through where it fits, and is bent where it does not", async () => {
  const { model } = served;
  const said = async (script: string) => {
    const decoders = [scriptedDecoder(model.tokenizer, model.vocabSize, script)];
    const client = served.also(serve({ ...model, decoders, sampling: { ...model.sampling, maxNewTokens: 200 } }));
    const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
    const { choices } = await clientOf(client).chat.completions.create({
      ...chat,
      response_format: { type: "json_schema", json_schema: { name: "place", schema } },
    });
    return choices[0]!.message.content!;
  };
  for (const fits of ['{"city": "Köln 漢字"}', '{\n  "city": "a\\n\\u00e9"\n}', '{"city":""}'])
    expect(await said(fits)).toBe(fits);
  const bent = await said("The city is Köln.");
  expect(Object.keys(JSON.parse(bent) as object)).toEqual(["city"]);
});
