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
