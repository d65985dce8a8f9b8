import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { Decoder } from "../../src/generate/open-decoder.ts";
import { createCaches } from "../../src/serve/caches.ts";
import { openServed, serve } from "../support/served.ts";

setDefaultTimeout(120_000);

const closers: (() => unknown)[] = [];
afterAll(async () => {
  for (const close of closers) await close();
});

test("a prompt that goes on with half of a held text gets its cache; any other the one that was used longest ago", () => {
  const held: number[][] = [[], [], []];
  const decoders = held.map((_, i) => ({ name: i, ids: held[i] }) as unknown as Decoder & { name: number });
  for (const [i, decoder] of decoders.entries()) Object.defineProperty(decoder, "ids", { get: () => held[i] });
  const choose = createCaches(decoders);
  /** Which one; it then holds the prompt. */
  const use = (...prompt: number[]): number => {
    const { name } = choose(prompt) as Decoder & { name: number };
    held[name] = prompt;
    return name;
  };
  expect(use(1, 2, 3, 4)).toBe(0);
  expect(use(5, 6, 7, 8)).toBe(1);
  expect(use(1, 2, 3, 4, 9)).toBe(0);
  // Two of five are too few.
  expect(use(1, 2, 0)).toBe(2);
  expect(use(1, 2, 0, 0)).toBe(2);
  expect(use(5, 6)).toBe(1);
  expect(use(1, 2, 3, 4, 9, 9)).toBe(0);
  expect(use(7)).toBe(2);
  expect(use(8)).toBe(1);
});

test("two conversations by turns: with a cache for each, a turn computes what is new; answers are those of one cache", async () => {
  const folder = join(import.meta.dir, "../../recipes/base/model");
  const talk = async (conversations: number) => {
    const { model, close } = await openServed(folder, conversations);
    const client = serve(model);
    closers.push(() => client.server.stop(), close);
    const talks = ["Define war.", "What is a king?"].map((content) => [{ role: "user", content }]);
    const cached: number[] = [];
    for (let turn = 0; turn < 2; turn++) {
      for (const messages of talks) {
        const response = await client.post("/v1/chat/completions", { messages });
        const { choices, usage } = (await response.json()) as {
          choices: [{ message: { role: string; content: string } }];
          usage: { prompt_tokens_details: { cached_tokens: number } };
        };
        messages.push(choices[0].message, { role: "user", content: "Go on." });
        cached.push(usage.prompt_tokens_details.cached_tokens);
      }
    }
    return { talks, cached };
  };
  const [one, two] = [await talk(1), await talk(2)];
  expect(two.talks).toEqual(one.talks);
  // The beginning of a turn is common to all conversations.
  expect(Math.max(...one.cached)).toBeLessThan(6);
  expect(Math.min(...two.cached.slice(2))).toBeGreaterThan(20);
});
