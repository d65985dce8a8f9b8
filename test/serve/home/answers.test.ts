import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, openBox, writeBase } from "../../support/box.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
let box: Box;
beforeAll(async () => {
  box = await openBox({ home: `${folder}/home`, model: writeBase(folder), conversations: 3 });
});
afterAll(() => box.server.stop());

test("several answers are made together, as far as there are caches, and are those of their seeds", async () => {
  const body = { model: BASE, prompt: "one two", temperature: 1, max_tokens: 8 };
  const ask = async (more: object) => (await box.client.completions.create({ ...body, ...more })).choices.map(({ text }) => text);
  const single = [];
  for (let seed = 7; seed < 12; seed++) single.push(...(await ask({ seed })));
  expect(new Set(single).size).toBeGreaterThan(3);
  expect(await ask({ seed: 7, n: 5 })).toEqual(single);
  const [five, three, one] = await Promise.all([ask({ seed: 7, n: 5 }), ask({ seed: 9, n: 3 }), ask({ seed: 8 })]);
  expect([five, three, one]).toEqual([single, single.slice(2), [single[1]!]]);
});

test("answers of a form beside each other, of one schema and of others", async () => {
  const ask = async (name: string, n: number, stream: boolean) => {
    const schema = { type: "object", properties: { [name]: { type: "integer" } }, required: [name], additionalProperties: false };
    const body = {
      model: BASE,
      messages: [{ role: "user" as const, content: "Count." }],
      response_format: { type: "json_schema" as const, json_schema: { name: "count", schema } },
      temperature: 1,
      seed: 2,
      n,
      max_tokens: 30,
    };
    const texts: string[] = [];
    if (stream) {
      for await (const { choices } of await box.client.chat.completions.create({ ...body, stream }))
        for (const { index, delta } of choices) texts[index] = (texts[index] ?? "") + (delta.content ?? "");
    } else {
      const { choices } = await box.client.chat.completions.create(body);
      texts.push(...choices.map(({ message }) => message.content!));
    }
    for (const text of texts) expect(Object.keys(JSON.parse(text) as object)).toEqual([name]);
    return texts;
  };
  const [a, b, c] = await Promise.all([ask("apples", 3, false), ask("pears", 1, false), ask("apples", 3, true)]);
  expect([a!.length, b!.length]).toEqual([3, 1]);
  expect(c).toEqual(a!);
});

test("responses come from every model, and are refused by their names", async () => {
  const response = await box.client.responses.create({ model: BASE, input: "one two", max_output_tokens: 4 });
  expect(response).toMatchObject({ model: BASE, usage: { output_tokens: 4 } });
  expect(await box.client.responses.create({ model: "gpt-9", input: "x" }).catch((error: unknown) => error)).toMatchObject({
    status: 404,
    param: "model",
  });
});
