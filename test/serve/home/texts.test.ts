import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { classify } from "../../../src/library/texts/classify.ts";
import { embed } from "../../../src/library/texts/embed.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { type Box, openBox, QUICK } from "../../support/box.ts";
import { copyFolder } from "../../support/cli.ts";
import { EMBEDDED_TEXTS, makeEmbedFolders } from "../../support/embed-folders.ts";
import { JUDGED_TEXTS, makeJudgedExports } from "../../support/judged-exports.ts";
import { expectWithin } from "../../support/ops.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const of = (name: string) => join(folder, name);
let box: Box;

beforeAll(async () => {
  await makeEmbedFolders(folder);
  mkdirSync(of("judged"));
  await makeJudgedExports(of("judged"));
  mkdirSync(of("adapters"));
  for (const name of ["bert-lora", "causal-lora"]) copyFolder(of(name), of(`adapters/${name}`));
  copyFolder(of("judged/lora"), of("adapters/judge"));
  const models = [of("bert"), of("full"), of("judged/model")];
  box = await openBox({ home: of("home"), model: of("chatty"), models, adapters: of("adapters"), waiting: 4 });
});
afterAll(() => box.server.stop());

const TEXTS = EMBEDDED_TEXTS.slice(0, 3);

async function expectEmbeddings(model: string, path: string): Promise<void> {
  const { data, usage } = await box.client.embeddings.create({ model, input: TEXTS });
  const { texts, tokens } = await embed({ model: path, texts: TEXTS, threads: 1, normalize: true });
  expect([data.length, usage.total_tokens]).toEqual([3, tokens]);
  for (const [i, { embedding }] of texts.entries())
    for (const [k, value] of embedding.entries())
      expectWithin(`${model}, text ${i}, number ${k}`, Math.abs(data[i]!.embedding[k]! - value), 1e-5);
}

const post = async (path: string, body: object) => {
  const response = await box.ask(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return { status: response.status, body: (await response.json()) as Record<string, any> };
};

describe("a home hosts models that read whole texts beside those that answer", () => {
  test("embeddings of encoders, of a folder of sentence-transformers, and of adapters on an encoder and on a model that answers", async () => {
    await expectEmbeddings("bert", of("bert"));
    await expectEmbeddings("full", of("full"));
    await expectEmbeddings("bert-lora", of("bert-lora"));
    await expectEmbeddings("causal-lora", of("causal-lora"));
    const memory = (await (await box.ask("/v1/memory")).json()) as { serving: { models: { id: string; adapters: number }[] } };
    const adapters = Object.fromEntries(memory.serving.models.map(({ id, adapters: count }) => [id, count]));
    expect(adapters).toEqual({ chatty: 1, bert: 1, full: 0, model: 0 });
    const short = await box.client.embeddings.create({ model: "full", input: "bread", dimensions: 3, encoding_format: "float" });
    expect(short.data[0]!.embedding).toHaveLength(3);
  });

  test("classes of texts, by an adapter", async () => {
    const { status, body } = await post("/v1/classify", { model: "judge", input: JUDGED_TEXTS });
    expect(status).toBe(200);
    const { texts } = await classify({ model: of("judged/lora"), texts: [...JUDGED_TEXTS], threads: 1 });
    expect(body["data"].map((each: { label: string }) => each.label)).toEqual(texts.map(({ label }) => label));
  });

  test("the base model of an adapter still answers, and each endpoint says which models it is for", async () => {
    const { choices } = await box.client.chat.completions.create({ model: "chatty", messages: [{ role: "user", content: "a" }] });
    expect(choices).toHaveLength(1);
    const listed = (await box.client.models.list()).data.map(({ id }) => id);
    expect(listed).toEqual(expect.arrayContaining(["chatty", "bert", "full", "model", "bert-lora", "causal-lora", "judge"]));
    const refusal = async (path: string, fields: object) => {
      const { status, body } = await post(path, fields);
      expect(status).toBe(400);
      return body["error"].message as string;
    };
    const messages = [{ role: "user", content: "a" }];
    expect(await refusal("/v1/chat/completions", { model: "bert", messages })).toContain("POST /v1/embeddings");
    expect(await refusal("/v1/chat/completions", { model: "judge", messages })).toContain("POST /v1/classify");
    expect(await refusal("/v1/embeddings", { model: "chatty", input: "a" })).toContain("POST /v1/chat/completions");
    expect(await refusal("/v1/embeddings", { model: "judge", input: "a" })).toContain("POST /v1/classify");
    expect(await refusal("/v1/classify", { model: "full", input: "a" })).toContain("POST /v1/embeddings");
    expect(await refusal("/v1/embeddings", { input: "a" })).toContain("there are chatty, bert, full, model");
    expect((await post("/v1/embeddings", { model: "none", input: "a" })).status).toBe(404);
  });

  test("a job learns embeddings of an encoder, and its model makes them", async () => {
    const rows = ["king", "house", "water", "tree"].map((word) => ({ anchor: `What is a ${word}?`, positive: `the ${word}` }));
    const training_file = await box.upload(rows.map((row) => `${JSON.stringify(row)}\n`).join(""), "pairs.jsonl");
    const remat = { ...QUICK, objective: "embed", batch_size: 4, steps: 3, rank: 2, learning_rate: 0.05 };
    const { id } = await box.create({ model: "bert", training_file, remat });
    const { status, fine_tuned_model: model } = await box.until(id);
    expect(status).toBe("succeeded");
    await expectEmbeddings(model!, join(of("home"), "runs", id));
    const [first, base] = await Promise.all(
      [model!, "bert"].map(
        async (name) => (await box.client.embeddings.create({ model: name, input: "king" })).data[0]!.embedding,
      ),
    );
    expect(Math.max(...first!.map((value, k) => Math.abs(value - base![k]!)))).toBeGreaterThan(1e-3);
    const refused = await box
      .create({ model: "chatty", training_file, remat: { ...remat, matryoshka: [99] } })
      .catch((error) => error);
    expect(String(refused)).toContain("--matryoshka 99");
  });
});
