import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { type RunningServer, serve } from "../../src/library/serve.ts";
import { embed } from "../../src/library/texts/embed.ts";
import type { RequestReport } from "../../src/serve/server.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { refused } from "../support/cli.ts";
import { EMBEDDED_TEXTS, makeEmbedFolders } from "../support/embed-folders.ts";
import { expectWithin } from "../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const reports: RequestReport[] = [];
let servers: RunningServer[] = [];

beforeAll(async () => {
  await makeEmbedFolders(folder);
  const start = (model: string, more: object = {}) =>
    serve({ model: join(folder, model), port: 0, threads: 1, ...more }, { onRequest: (report) => void reports.push(report) });
  servers = [
    await start("full"),
    await start("causal-lora", { apiKey: "secret" }),
    await start("bert", { waiting: 0, maxTokens: 90 }),
  ];
});

afterAll(async () => {
  for (const server of servers) await server.stop();
});

const ask = async (body: unknown, { url } = servers[0]!, headers: Record<string, string> = {}) => {
  const init = { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) };
  const response = await fetch(`${url}/embeddings`, init);
  return { status: response.status, headers: response.headers, body: (await response.json()) as Record<string, any> };
};

const TEXTS = EMBEDDED_TEXTS.slice(0, 4);

function expectClose(found: ArrayLike<number>, wanted: ArrayLike<number>): void {
  expect(found.length).toBe(wanted.length);
  for (let k = 0; k < wanted.length; k++) expectWithin(`number ${k}`, Math.abs(found[k]! - wanted[k]!), 1e-5);
}

const embeddingsOf = async (model: string, more: object = {}) =>
  (await embed({ model: join(folder, model), texts: TEXTS, threads: 1, normalize: true, ...more })).texts.map(
    (each) => each.embedding,
  );

describe("/v1/embeddings", () => {
  test("gives the embeddings of remat embed at length 1, of a text or of several, in OpenAI's form", async () => {
    const expected = await embeddingsOf("full");
    const { status, body } = await ask({ model: "full", input: TEXTS, user: "u" });
    expect(status).toBe(200);
    expect(Object.keys(body)).toEqual(["object", "data", "model", "usage"]);
    expect([body["object"], body["model"]]).toEqual(["list", "full"]);
    for (const [i, each] of body["data"].entries()) {
      expect([each.object, each.index]).toEqual(["embedding", i]);
      expectClose(each.embedding, expected[i]!);
    }
    const tokenizer = loadTokenizer(join(folder, "full"));
    const tokens = TEXTS.map((text) => [...tokenizer.surround(tokenizer.encode(text)).ids]);
    const count = tokens.flat().length;
    expect(body["usage"]).toEqual({ prompt_tokens: count, total_tokens: count });
    expect(reports.at(-1)).toMatchObject({
      path: "/v1/embeddings",
      status: 200,
      answer: { promptTokens: count, reason: "stop" },
    });
    const one = await ask({ input: TEXTS[1] });
    expect(one.body["data"]).toHaveLength(1);
    expectClose(one.body["data"][0].embedding, expected[1]!);
    // Tokens are taken as they are.
    const several = await ask({ input: tokens });
    for (const [i, each] of several.body["data"].entries()) expectClose(each.embedding, expected[i]!);
    expectClose((await ask({ input: tokens[2] })).body["data"][0].embedding, expected[2]!);
  });

  test("as base64, and shorter at length 1", async () => {
    const [expected] = await embeddingsOf("full", { dimensions: 5 });
    const { body } = await ask({ input: TEXTS[0], encoding_format: "base64", dimensions: 5 });
    const bytes = Buffer.from(body["data"][0].embedding as string, "base64");
    expectClose(new Float32Array(bytes.buffer, bytes.byteOffset, 5), expected!);
    expect(bytes.length).toBe(20);
    expect(Math.hypot(...new Float32Array(bytes.buffer, bytes.byteOffset, 5))).toBeCloseTo(1, 6);
  });

  test("of an adapter on a causal model, to those who have the key", async () => {
    const [, server] = servers;
    expect((await ask({ input: "a" }, server)).status).toBe(401);
    const expected = await embeddingsOf("causal-lora");
    const { body } = await ask({ input: TEXTS }, server, { authorization: "Bearer secret" });
    for (const [i, each] of body["data"].entries()) expectClose(each.embedding, expected[i]!);
  });

  test("refuses what makes no sense, and more than may wait", async () => {
    const { url } = servers[0]!;
    const models = (await (await fetch(`${url}/models`)).json()) as { readonly data: readonly { readonly id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["full"]);
    expect((await ask({ input: "a", model: "other" })).status).toBe(404);
    for (const [body, message] of [
      [{}, "input"],
      [{ input: [] }, "input"],
      [{ input: "" }, "input"],
      [{ input: ["a", ""] }, "input"],
      [{ input: ["a", [1]] }, "input"],
      [{ input: Array(2049).fill("a") }, "up to 2048 texts"],
      [{ input: "a", dimensions: 17 }, "have 16 numbers, not 17"],
      [{ input: "a", dimensions: 0 }, "dimensions"],
      [{ input: "a", encoding_format: "int8" }, "encoding_format"],
      [{ input: "a", temperature: 1 }, "this server takes"],
      [{ input: [800] }, "outside the model's vocabulary"],
      [{ input: ["a", "word ".repeat(60)] }, "input 2: the example has"],
    ] as const) {
      const answer = await ask(body);
      expect(`${answer.status} ${answer.body["error"]?.message}`).toStartWith("400 ");
      expect(answer.body["error"].message).toContain(message);
      expect(answer.body["error"].type).toBe("invalid_request_error");
    }
    const chat = await fetch(`${url}/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    expect(chat.status).toBe(404);
    const long = Array.from({ length: 600 }, (_, i) => `the ${"stone ".repeat(8)}${i}`);
    const [first, second] = await Promise.all([
      ask({ input: long }, servers[2]),
      Bun.sleep(5).then(() => ask({ input: "a" }, servers[2])),
    ]);
    expect([first.status, second.status]).toEqual([200, 429]);
    expect(Number(second.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await ask({ input: "a" }, servers[2])).status).toBe(200);
    const flags = ["serve", "--model", join(folder, "full"), "--port", "0"];
    expect(await refused(...flags, "--temperature", "0.5")).toContain("makes embeddings, by /v1/embeddings");
  });
});
