import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { rerank } from "../../src/library/texts/rerank.ts";
import { type RunningServer, serve } from "../../src/library/serve.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { makeJudgedExports } from "../support/judged-exports.ts";
import { makeRerankFolders, RERANK_QUERY, RERANK_TEXTS } from "../support/rerank-folders.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
let servers: RunningServer[] = [];

beforeAll(async () => {
  await makeRerankFolders(folder);
  await makeJudgedExports(join(folder, "judged"));
  const start = (model: string) => serve({ model: join(folder, model), port: 0, threads: 1, maxTokens: 60 });
  servers = [await start("full"), await start("judged/full")];
});

afterAll(async () => {
  for (const server of servers) await server.stop();
});

const ask = async (body: unknown, { url } = servers[0]!) => {
  const init = { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(`${url}/rerank`, init);
  return { status: response.status, body: (await response.json()) as Record<string, any> };
};

describe("/v1/rerank", () => {
  test("answers in Cohere's and Jina's form with the relevances that rerank gives", async () => {
    const { queries } = await rerank({ model: join(folder, "full"), query: RERANK_QUERY, texts: [...RERANK_TEXTS], threads: 1 });
    const expected = queries[0]!.results;
    const { status, body } = await ask({ model: "full", query: RERANK_QUERY, documents: RERANK_TEXTS });
    expect(status).toBe(200);
    expect(body).toMatchObject({ object: "list", model: "full", id: expect.stringMatching(/^rerank-/) });
    expect(body["results"].map((each: { index: number }) => each.index)).toEqual(expected.map(({ index }) => index));
    for (const [i, result] of body["results"].entries()) {
      expect(Object.keys(result)).toEqual(["index", "relevance_score"]);
      expect(result.relevance_score).toBeCloseTo(expected[i]!.relevance_score, 6);
    }
    expect(body["usage"].total_tokens).toBe(body["usage"].prompt_tokens);
    const documents = RERANK_TEXTS.map((text, i) => (i % 2 === 0 ? text : { text }));
    const top = await ask({ query: RERANK_QUERY, documents, top_n: 2, return_documents: true });
    expect(top.body["results"]).toHaveLength(2);
    expect(top.body["results"][0].document).toEqual({ text: expected[0]!.text });
  });

  test("texts that are too long lose their ends, the query does not; a reranker classifies too, and a classifier ranks nothing", async () => {
    const long = "the king of old ".repeat(100);
    expect((await ask({ query: RERANK_QUERY, documents: [long] })).status).toBe(200);
    const lost = await ask({ query: long, documents: ["a"] });
    expect([lost.status, lost.body["error"].message]).toEqual([400, expect.stringContaining("leave no room for a text")]);
    const classified = await fetch(`${servers[0]!.url}/classify`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input: { text: RERANK_QUERY, text_pair: RERANK_TEXTS[0] } }),
    });
    expect(((await classified.json()) as { data: object[] }).data[0]).toMatchObject({ score: expect.any(Number) });
    const other = await ask({ query: "a", documents: ["b"] }, servers[1]);
    expect([other.status, other.body["error"].message]).toEqual([400, expect.stringContaining("ranks no texts")]);
  });

  test("refuses what makes no sense", async () => {
    expect((await ask({ query: "a", documents: ["b"], model: "other" })).status).toBe(404);
    for (const [body, message] of [
      [{}, "query"],
      [{ query: "", documents: ["a"] }, "query"],
      [{ query: "a", documents: [] }, "expected a list of 1 to 1000 texts"],
      [{ query: "a", documents: ["a", 3] }, "documents"],
      [{ query: "a", documents: [{ texts: "a" }] }, "documents"],
      [{ query: "a", documents: ["a"], top_n: 0 }, "top_n"],
      [{ query: "a", documents: ["a"], rank_fields: ["text"] }, '"return_documents"'],
    ] as const) {
      const refused = await ask(body);
      expect(refused.status).toBe(400);
      expect(refused.body["error"].message).toContain(message);
    }
  });
});
