import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { classify } from "../../src/library/texts/classify.ts";
import { type RunningServer, serve } from "../../src/library/serve.ts";
import type { RequestReport } from "../../src/serve/server.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { JUDGED_TEXTS, makeJudgedExports } from "../support/judged-exports.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const reports: RequestReport[] = [];
let servers: RunningServer[] = [];

beforeAll(async () => {
  await makeJudgedExports(folder);
  const start = (model: string, apiKey?: string) =>
    serve(
      { model: join(folder, model), port: 0, threads: 1, maxTokens: 200, ...(apiKey ? { apiKey } : {}) },
      { onRequest: (report) => void reports.push(report) },
    );
  servers = [await start("lora"), await start("full", "secret")];
});

afterAll(async () => {
  for (const server of servers) await server.stop();
});

const ask = async (body: unknown, { url } = servers[0]!, headers: Record<string, string> = {}) => {
  const init = { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) };
  const response = await fetch(`${url}/classify`, init);
  return { status: response.status, body: (await response.json()) as Record<string, any> };
};

describe("/v1/classify", () => {
  test("judges a text, a pair, or several, with the probabilities that classify gives", async () => {
    const { texts } = await classify({ model: join(folder, "lora"), texts: [...JUDGED_TEXTS], threads: 1 });
    const { status, body } = await ask({ model: "lora", input: JUDGED_TEXTS });
    expect(status).toBe(200);
    expect(body).toMatchObject({ object: "list", model: "lora" });
    for (const [i, { label, probabilities }] of texts.entries()) {
      const { predictions, ...data } = body["data"][i];
      expect(data).toEqual({ object: "classification", index: i, prediction: label, label, score: expect.any(Number) });
      expect(predictions.map((each: { label: string }) => each.label).sort()).toEqual(Object.keys(probabilities!).sort());
      for (const { label: name, score } of predictions) expect(score).toBeCloseTo(probabilities![name]!, 5);
      expect(data.score).toBe(Math.max(...predictions.map((each: { score: number }) => each.score)));
    }
    expect(body["usage"].total_tokens).toBe(body["usage"].prompt_tokens);
    const one = await ask({ input: JUDGED_TEXTS[3] });
    expect(one.body["data"]).toHaveLength(1);
    expect(one.body["data"][0].prediction).toBe(texts[3]!.label!);
    expect((await ask({ input: [{ text: "a", text_pair: "b" }] })).status).toBe(200);
    expect(reports.at(-1)).toMatchObject({ path: "/v1/classify", status: 200, answer: { promptTokens: expect.any(Number) } });
  });

  test("of any number of classes it gives a list; keys are asked for", async () => {
    const [, full] = servers;
    expect((await ask({ input: "a" }, full)).status).toBe(401);
    const { body } = await ask({ input: JUDGED_TEXTS[0] }, full, { authorization: "Bearer secret" });
    const [{ prediction, predictions }] = body["data"];
    expect(prediction.toSorted()).toEqual(
      predictions.flatMap(({ label, score }: { label: string; score: number }) => (score >= 0.5 ? [label] : [])).toSorted(),
    );
  });

  test("describes its model, and refuses what makes no sense", async () => {
    const { url } = servers[0]!;
    const models = (await (await fetch(`${url}/models`)).json()) as { readonly data: readonly { readonly id: string }[] };
    expect(models.data.map(({ id }) => id)).toEqual(["lora"]);
    expect((await ask({ input: "a", model: "other" })).status).toBe(404);
    for (const body of [
      {},
      { input: [] },
      { input: "" },
      { input: 3 },
      { input: "a", temperature: 1 },
      { input: Array(300).fill("a") },
    ]) {
      const refused = await ask(body);
      expect(refused.status).toBe(400);
      expect(refused.body["error"].type).toBe("invalid_request_error");
    }
    const long = await ask({ input: ["a", "word ".repeat(500)] });
    expect(long.status).toBe(400);
    expect(long.body["error"].message).toContain("input 2: the example has");
    const completions = await fetch(`${url}/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: "{}",
    });
    expect(completions.status).toBe(404);
    expect(serve({ model: join(folder, "lora"), port: 0, temperature: 1 })).rejects.toThrow(
      "--temperature is for models that generate text",
    );
  });
});
