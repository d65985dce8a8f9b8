import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { BadRequestError, ConflictError, NotFoundError, toFile } from "openai";
import { generate } from "../../../src/generate/generate.ts";
import { createDecoder } from "../../../src/generate/open-decoder.ts";
import { createSampler, GREEDY } from "../../../src/generate/sampler.ts";
import { openModel } from "../../../src/load/open-model.ts";
import { chatTemplateOf } from "../../../src/data/chat/chat-template.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, chats, openBox, QUICK, writeBase } from "../../support/box.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const home = join(folder, "home");
let model: string;
let box: Box;
let client: OpenAI;
beforeAll(async () => {
  model = writeBase(folder);
  box = await openBox({ home, model, waiting: 4 });
  client = box.client;
});
afterAll(() => box.server.stop());

const jobs = () => client.fineTuning.jobs;
const refusalOf = async (made: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> => {
  const error = await made.then(
    () => null,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(OpenAI.APIError);
  return error as InstanceType<typeof OpenAI.APIError>;
};
const all = async <T>(list: AsyncIterable<T>): Promise<T[]> => {
  const items: T[] = [];
  for await (const item of list) items.push(item);
  return items;
};

describe("files", () => {
  test("are uploaded, listed page by page, read again and deleted", async () => {
    const ids: string[] = [];
    for (const name of ["a.jsonl", "../b.jsonl", "c.jsonl"]) ids.push(await box.upload(`${chats()}${name}\n`, name));
    expect(await client.files.retrieve(ids[1]!)).toMatchObject({
      id: ids[1],
      object: "file",
      filename: "b.jsonl",
      purpose: "fine-tune",
      status: "processed",
    });
    expect((await client.files.waitForProcessing(ids[0]!)).id).toBe(ids[0]!);
    const listed = await all(client.files.list({ limit: 2, purpose: "fine-tune" }));
    expect(listed.map(({ id }) => id).slice(0, 3)).toEqual(ids.toReversed());
    const oldest = await client.files.list({ limit: 1, order: "asc" });
    expect(oldest.data[0]!.id).toBe(ids[0]!);
    expect(await (await client.files.content(ids[0]!)).text()).toBe(`${chats()}a.jsonl\n`);
    expect(await client.files.delete(ids[0]!)).toEqual({ id: ids[0]!, object: "file", deleted: true });
    expect(await refusalOf(client.files.retrieve(ids[0]!))).toBeInstanceOf(NotFoundError);
    expect(existsSync(join(folder, "b.jsonl"))).toBe(false);
  });

  test("are refused by field, and nothing of them is left", async () => {
    const before = readdirSync(join(home, "files"));
    const file = await toFile(Buffer.from("{}"), "x.jsonl");
    expect(await refusalOf(client.files.create({ file, purpose: "vision" }))).toMatchObject({ status: 400, param: "purpose" });
    const empty = await toFile(Buffer.from(""), "x.jsonl");
    expect(await refusalOf(client.files.create({ file: empty, purpose: "fine-tune" }))).toMatchObject({ param: "file" });
    const form = (body: string, type = "multipart/form-data; boundary=x") =>
      box.ask("/v1/files", { method: "POST", body, headers: { "content-type": type } });
    expect((await form("--x\r\ncontent-disposition: form-data; name=file; filename=a\r\n\r\nabc")).status).toBe(400);
    expect((await form('--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nabc')).status).toBe(400);
    expect((await form("x", "text/plain")).status).toBe(415);
    expect(readdirSync(join(home, "files"))).toEqual(before);
  });
});

describe("a job", () => {
  let id: string;
  let training: string;
  let name: string;

  test("is created, trains, and has events, checkpoints, a result file and a model, for the client as it is", async () => {
    training = await box.upload(chats());
    const validation = await box.upload(chats(["stone", "bird"]), "valid.jsonl");
    const created = await box.create({
      training_file: training,
      validation_file: validation,
      suffix: "my words",
      seed: 7,
      metadata: { team: "a" },
      method: {
        type: "supervised",
        supervised: { hyperparameters: { n_epochs: 2, batch_size: 2, learning_rate_multiplier: 20 } },
      },
      remat: { ...QUICK, eval_every: 3 },
    });
    ({ id } = created);
    expect(created).toMatchObject({ object: "fine_tuning.job", status: "queued", model: BASE, seed: 7, training_file: training });
    const done = await box.until(id);
    name = done.fine_tuned_model!;
    expect(done).toMatchObject({ status: "succeeded", error: null, trained_tokens: 244, metadata: { team: "a" } });
    expect(name).toMatch(/^ft:SmolLM2-135M:remat:my-words:\w{8}$/);
    expect(done.hyperparameters).toEqual({ n_epochs: 2, batch_size: 2, learning_rate_multiplier: 20 });

    const events = (await all(jobs().listEvents(id, { limit: 3 }))).reverse();
    expect(events[0]!.message).toBe(`Created fine-tuning job: ${id}`);
    expect(events.at(-1)!.message).toBe("The job has successfully completed");
    const steps = events.filter(({ data }) => (data as { train_loss?: number } | null)?.train_loss !== undefined);
    expect(steps.map(({ data }) => (data as { step: number }).step)).toEqual([1, 2, 3, 4, 5, 6]);

    const checkpoints = await all(jobs().checkpoints.list(id, { limit: 1 }));
    expect(checkpoints.map(({ step_number }) => step_number)).toEqual([6, 3]);
    expect(checkpoints[0]).toMatchObject({
      object: "fine_tuning.job.checkpoint",
      fine_tuning_job_id: id,
      fine_tuned_model_checkpoint: `${name}:ckpt-step-6`,
    });
    expect(checkpoints[1]!.metrics.valid_loss).toBeNumber();

    const table = await (await client.files.content(done.result_files[0]!)).text();
    const [head, ...rows] = table.trimEnd().split("\n");
    expect(head).toStartWith("step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy");
    // With that in front of the first step.
    expect(rows).toHaveLength(7);
    const lines = readFileSync(join(home, "runs", id, "metrics.jsonl"), "utf8")
      .trimEnd()
      .split("\n");
    const losses = lines.map((line) => JSON.parse(line) as { type: string; loss: number }).filter(({ type }) => type === "step");
    expect(rows.slice(1).map((row) => Number(row.split(",")[1]))).toEqual(losses.map(({ loss }) => loss));
  });

  test("answers at once by its name and by those of its checkpoints, as remat does with its run folder, to the bit", async () => {
    const ids = (await client.models.list()).data.map((each) => each.id);
    expect(ids).toEqual([BASE, name, `${name}:ckpt-step-3`, `${name}:ckpt-step-6`]);
    expect(await client.models.retrieve(name)).toMatchObject({ id: name, parent: BASE, root: id } as never);
    const executor = await createWasmExecutor({ threads: 1 });
    const messages = [{ role: "user" as const, content: "Define king." }];
    const said: string[] = [];
    for (const [asked, adapter] of [
      [BASE, undefined],
      [name, join(home, "runs", id)],
      [`${name}:ckpt-step-3`, join(home, "runs", id, "checkpoints/step-00000003")],
      [BASE, undefined],
    ] as const) {
      const answer = await client.chat.completions.create({ model: asked, messages, max_tokens: 12 });
      const opened = await openModel({ model, adapter });
      const { tokenizer, config } = opened;
      const decoder = createDecoder(executor, { config, source: opened.source, adapter: opened.adapter, maxTokens: 128 });
      const prompt = [...tokenizer.encode(chatTemplateOf(tokenizer).render({ messages, addGenerationPrompt: true }))];
      const expected = [
        ...generate(decoder, prompt, { limit: 12, stop: new Set(config.eosTokenIds), sampler: createSampler(GREEDY) }),
      ];
      expect(answer.choices[0]!.message.content).toBe(tokenizer.decode(expected, { skipSpecial: true }));
      expect(answer.model).toBe(asked);
      said.push(answer.choices[0]!.message.content!);
      opened.close();
    }
    expect(said[0]).toBe(said[3]!);
    expect(said[1]).not.toBe(said[0]!);
    executor.close();
    const stream = await client.chat.completions.create({ model: name, messages, max_tokens: 12, stream: true });
    let text = "";
    for await (const { choices } of stream) text += choices[0]?.delta.content ?? "";
    expect(text).toBe(said[1]!);
    const missing = await refusalOf(client.chat.completions.create({ model: "ft:nothing", messages }));
    expect(missing).toBeInstanceOf(NotFoundError);
    expect(missing.param).toBe("model");
  });

  test("has events as a stream, which a client goes on with where it was", async () => {
    const read = async (headers: Record<string, string> = {}) => {
      const response = await box.ask(`/v1/fine_tuning/jobs/${id}/events`, {
        headers: { accept: "text/event-stream", ...headers },
      });
      expect(response.headers.get("content-type")).toStartWith("text/event-stream");
      return (await response.text()).trimEnd().split("\n\n");
    };
    const whole = await read();
    expect(whole.at(-1)).toBe("data: [DONE]");
    const seen = /^id: (\S+)$/m.exec(whole[4]!)![1]!;
    expect(await read({ "last-event-id": seen })).toEqual(whole.slice(5));
  });

  test("may go on from a job's model or a checkpoint", async () => {
    const further = await box.create({
      model: `${name}:ckpt-step-3`,
      training_file: training,
      hyperparameters: { n_epochs: 1 },
      remat: { ...QUICK, patience: 3 },
    });
    expect(further.model).toBe(`${name}:ckpt-step-3`);
    expect(await refusalOf(client.models.delete(name))).toBeInstanceOf(ConflictError);
    // That its weights are those that it begins with is tested where adapters are trained further.
    expect((further as unknown as { remat: { settings: object } }).remat.settings).toMatchObject({ epochs: 1, patience: 3 });
    expect((await jobs().cancel(further.id)).status).toBe("cancelled");
  });

  test("is checked before it is queued: by file, line and field", async () => {
    const count = (await jobs().list()).data.length;
    const lines = chats().split("\n");
    lines[2] = '{"messages": [{"role": "user", "content": 3}]}';
    const bad = await box.upload(lines.join("\n"), "my data.jsonl");
    const refused = await refusalOf(box.create({ training_file: bad, remat: QUICK }));
    expect(refused).toBeInstanceOf(BadRequestError);
    expect(refused).toMatchObject({ param: "training_file", code: "invalid_training_file" });
    expect(refused.message).toContain("my data.jsonl:3");
    expect(refused.message).toContain("content");
    expect(refused.message).not.toContain(folder);
    for (const [fields, param, words] of [
      [{ model: "gpt-4o" }, "model", "there is no model"],
      [{ training_file: "file-x" }, "training_file", "there is no file"],
      [{ suffix: "x".repeat(65) }, "suffix", "64"],
      [{ method: { type: "reinforcement" } }, "method.type", 'supervised and dpo are trained here, not "reinforcement"'],
      [{ hyperparameters: { n_epochs: 0 } }, "hyperparameters.n_epochs", ">0"],
      [{ integrations: [{ type: "wandb" }] }, "integrations", "not supported"],
      [{ remat: { rnk: 3 } }, "remat.rnk", "did you mean rank"],
      [{ remat: { rank: 0 } }, "remat.rank", "got 0"],
      [{ remat: { output: "/tmp/x" } }, "remat.output", "the server"],
      [{ remat: { valid: "/etc/passwd" } }, "remat.valid", "validation_file"],
      [{ remat: { offload: "/tmp" } }, "remat.offload", "off or auto"],
      [{ remat: { chat_template: "/etc/passwd" } }, "remat.chat_template", "there is no file"],
      [{ remat: { epochs: 2 }, hyperparameters: { n_epochs: 2 } }, "hyperparameters.n_epochs", "say the same"],
      [{ remat: { ...QUICK, memory: "20MiB" } }, null, "the least that works is"],
      [{ more: 1 }, "more", "unknown field"],
    ] as const) {
      const error = await refusalOf(box.create({ training_file: training, ...fields }));
      expect(error).toMatchObject({ status: error.status === 404 ? 404 : 400, param });
      expect(error.message).toContain(words);
    }
    expect((await refusalOf(client.embeddings.create({ model: BASE, input: "x" }))).message).toContain(
      `${BASE} generates text: POST /v1/chat/completions`,
    );
    expect((await jobs().list()).data.length).toBe(count);
  });

  test("is estimated by a dry run, and nothing is queued", async () => {
    const count = (await jobs().list()).data.length;
    const dry = (await box.create({
      training_file: training,
      hyperparameters: { n_epochs: 5 },
      remat: QUICK,
      dry_run: true,
    })) as unknown as {
      object: string;
      steps: number;
      minutes: number;
      memory: { least: number; most: number; curve: { memory: number; overhead: number }[] };
    };
    expect(dry).toMatchObject({ object: "fine_tuning.job.dry_run", steps: 30, examples: 6 });
    expect(dry.minutes).toBeGreaterThan(0);
    expect(dry.memory.least).toBeLessThanOrEqual(dry.memory.most);
    expect(dry.memory.curve.length).toBeGreaterThan(0);
    expect((await jobs().list()).data.length).toBe(count);
    expect(existsSync(join(home, "runs/dry-run"))).toBe(false);
  });

  test("is created once for an idempotency key; is listed page by page, by metadata, paused, resumed and cancelled", async () => {
    const fields = {
      training_file: training,
      metadata: { team: "b" },
      hyperparameters: { batch_size: 16 },
      remat: { ...QUICK, steps: 10_000 },
    };
    const send = (body: object) =>
      box.ask("/v1/fine_tuning/jobs", {
        method: "POST",
        body: JSON.stringify({ model: BASE, ...body }),
        headers: { "content-type": "application/json", "idempotency-key": "once" },
      });
    const [first, second] = await Promise.all([send(fields), send(fields)]);
    const job = (await first.json()) as OpenAI.FineTuning.FineTuningJob;
    expect(((await second.json()) as { id: string }).id).toBe(job.id);
    expect((await send({ ...fields, seed: 3 })).status).toBe(409);
    expect((await all(jobs().list({ limit: 1 }))).length).toBe(3);
    expect((await all(jobs().list({ limit: 1, metadata: { team: "b" } }))).map((each) => each.id)).toEqual([job.id]);

    const stepOf = (each: object) => (each as { remat: { step: number; paused: boolean } }).remat;
    await box.until(job.id, (each) => stepOf(each).step > 5);
    expect(stepOf(await jobs().pause(job.id)).paused).toBe(true);
    await box.until(job.id, ({ status }) => status === "queued");
    const { step } = stepOf(await jobs().retrieve(job.id));
    expect(step).toBeGreaterThan(5);
    await jobs().resume(job.id);
    expect(await refusalOf(client.files.delete(training))).toBeInstanceOf(ConflictError);
    expect((await jobs().cancel(job.id)).status).toBe("cancelled");
    expect(await refusalOf(jobs().resume(job.id))).toBeInstanceOf(BadRequestError);
    const told = (await all(jobs().listEvents(job.id, { limit: 1000 }))).map(({ message }) => message);
    for (const message of ["The job is paused", "The job is resumed", "The job is cancelled; its checkpoints are kept"])
      expect(told).toContain(message);
  });

  test("its model goes when it is deleted, and the base model does not", async () => {
    expect(await client.models.delete(name)).toMatchObject({ id: name, deleted: true });
    expect(existsSync(join(home, "runs", id))).toBe(false);
    expect((await jobs().retrieve(id)).fine_tuned_model).toBeNull();
    expect((await client.models.list()).data.map((each) => each.id).filter((each) => each.startsWith(name))).toEqual([]);
    expect(await refusalOf(client.models.delete(BASE))).toBeInstanceOf(BadRequestError);
    expect(await refusalOf(jobs().retrieve("ftjob-none"))).toBeInstanceOf(NotFoundError);
  });
});

test("numbers for Prometheus", async () => {
  const text = await (await box.ask("/metrics")).text();
  for (const line of text.trimEnd().split("\n"))
    expect(line).toMatch(/^(?:# (?:HELP|TYPE) \w+ .+|\w+(?:\{\w+="[^"]*"(?:,\w+="[^"]*")*\})? [\d.e+-]+)$/);
  expect(text).toContain('remat_jobs{status="succeeded"} 1');
  expect(text).toMatch(/^remat_memory_limit_bytes \d+$/m);
});

test("a job learns preferences by OpenAI's dpo method, from its format", async () => {
  const message = (role: string, content: string) => ({ role, content });
  const pairs = ["king", "house", "water", "tree"].map((word) => ({
    input: { messages: [message("user", `Define ${word}.`)] },
    preferred_output: [message("assistant", `A thing called ${word}.`)],
    non_preferred_output: [message("assistant", "xqz")],
  }));
  const file = await box.upload(pairs.map((pair) => `${JSON.stringify(pair)}\n`).join(""));
  const method = { type: "dpo", dpo: { hyperparameters: { beta: 0.2, batch_size: 2 } } } as const;
  const twice = box.create({ training_file: file, method, remat: { ...QUICK, dpo_beta: 0.3 } });
  expect((await refusalOf(twice)).message).toContain("method.dpo.hyperparameters.beta and remat.dpoBeta say the same");
  const wrong = await refusalOf(box.create({ training_file: await box.upload(chats()), method, remat: QUICK }));
  expect(wrong.message).toContain("the objective dpo learns from");
  const { id } = await box.create({ training_file: file, method, remat: { ...QUICK, steps: 2 } });
  const job = await box.until(id);
  expect(job).toMatchObject({
    status: "succeeded",
    method: { type: "dpo", dpo: { hyperparameters: { beta: 0.2, batch_size: 2 } } },
  });
  const { data } = await jobs().listEvents(id);
  const step = data.find(({ type, data: values }) => type === "metrics" && (values as { step?: number }).step === 1);
  expect((step!.data as { train_loss: number }).train_loss).toBeCloseTo(Math.log(2), 5);
});
