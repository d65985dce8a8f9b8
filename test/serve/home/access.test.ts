import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { AuthenticationError, PermissionDeniedError } from "openai";
import { serve, UserError } from "../../../src/index.ts";
import { createWasmExecutor } from "../../../src/wasm/executor.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { writeRandomAdapter } from "../../support/adapters.ts";
import { BASE, type Box, chats, openBox, writeBase } from "../../support/box.ts";
import { copyFolder } from "../../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const adapters = join(folder, "adapters");
const boxes: Box[] = [];
let model: string;
beforeAll(async () => {
  model = writeBase(folder);
  mkdirSync(adapters);
  const executor = await createWasmExecutor({ threads: 1 });
  writeRandomAdapter(executor, model, join(adapters, "poet"), { rank: 2 }, 1);
  executor.close();
});
afterAll(async () => {
  for (const { server } of boxes) await server.stop();
});

const open = async (name: string, options: object = {}): Promise<Box> => {
  const box = await openBox({ home: join(folder, name), model, ...options });
  boxes.push(box);
  return box;
};
const post = (box: Box, path: string, body: object | null, headers: Record<string, string> = {}) =>
  box.ask(path, {
    method: "POST",
    ...(body === null ? {} : { body: JSON.stringify(body) }),
    headers: { "content-type": "application/json", ...headers },
  });
const bearer = (key: string) => ({ authorization: `Bearer ${key}` });

describe("keys", () => {
  test("are made by an admin, open what their scopes say, and are no more when they are deleted", async () => {
    const box = await open("keys");
    const early = await post(box, "/v1/keys", { name: "x", scopes: ["infer"] });
    expect([early.status, ((await early.json()) as { error: { param: string } }).error.param]).toEqual([400, "scopes"]);
    const make = async (name: string, scopes: string[], headers = {}) =>
      (await (await post(box, "/v1/keys", { name, scopes }, headers)).json()) as { id: string; key: string };
    const admin = await make("root", ["admin"]);
    const [infer, train] = [await make("phone", ["infer"], bearer(admin.key)), await make("lab", ["train"], bearer(admin.key))];
    const clientOf = (apiKey: string) => new OpenAI({ baseURL: box.server.url, apiKey, maxRetries: 0 });
    const ask = (apiKey: string) =>
      clientOf(apiKey).chat.completions.create({ model: BASE, messages: [{ role: "user", content: "x" }], max_tokens: 1 });
    const list = (apiKey: string) => clientOf(apiKey).fineTuning.jobs.list();
    const caught = (made: Promise<unknown>) =>
      made.then(
        () => "answered",
        (error: unknown) => error,
      );
    expect(await caught(ask("wrong"))).toBeInstanceOf(AuthenticationError);
    expect(await caught(list("wrong"))).toBeInstanceOf(AuthenticationError);
    expect(await caught(ask(infer.key))).toBe("answered");
    expect(await caught(list(infer.key))).toBeInstanceOf(PermissionDeniedError);
    expect(await caught(ask(train.key))).toBeInstanceOf(PermissionDeniedError);
    expect(await caught(list(train.key))).toBe("answered");
    for (const action of [ask, list]) expect(await caught(action(admin.key))).toBe("answered");
    expect((await post(box, "/v1/keys", { name: "y", scopes: ["infer"] }, bearer(train.key))).status).toBe(403);
    expect((await box.ask("/health")).status).toBe(200);
    expect((await box.ask("/metrics")).status).toBe(401);
    const deleted = await box.ask(`/v1/keys/${infer.id}`, { method: "DELETE", headers: bearer(admin.key) });
    expect(deleted.status).toBe(200);
    expect(await caught(ask(infer.key))).toBeInstanceOf(AuthenticationError);

    const audit = readFileSync(join(folder, "keys/audit.jsonl"), "utf8").trimEnd().split("\n");
    const lines = audit.map((line) => JSON.parse(line) as { caller: string; method: string; path: string; status: number });
    expect(lines.map(({ caller, method, path, status }) => `${caller} ${method} ${path} ${status}`)).toEqual([
      "anyone POST /v1/keys 400",
      "anyone POST /v1/keys 200",
      "root POST /v1/keys 200",
      "root POST /v1/keys 200",
      "unknown POST /v1/chat/completions 401",
      "lab POST /v1/chat/completions 403",
      "lab POST /v1/keys 403",
      `root DELETE /v1/keys/${infer.id} 200`,
      "unknown POST /v1/chat/completions 401",
    ]);
    expect(audit.join("")).not.toContain(admin.key);
  });

  test("--api-key opens everything", async () => {
    const box = await open("api-key", { apiKey: "secret" });
    expect((await box.ask("/v1/models")).status).toBe(401);
    expect((await box.client.models.list()).data.map(({ id }) => id)).toEqual([BASE]);
    expect((await box.client.files.list()).data).toEqual([]);
  });
});

describe("web pages", () => {
  test("of elsewhere change nothing, whatever they send; those of --cors and the server's own may", async () => {
    const box = await open("pages", { cors: "http://app.example" });
    const form = (origin?: string) => {
      const body = new FormData();
      body.set("purpose", "fine-tune");
      body.set("file", new Blob([chats()]), "a.jsonl");
      return box.ask("/v1/files", { method: "POST", body, headers: origin === undefined ? {} : { origin } });
    };
    expect((await form("http://evil.example")).status).toBe(403);
    expect((await form("null")).status).toBe(403);
    expect((await box.client.files.list()).data).toEqual([]);
    expect((await form("http://app.example")).status).toBe(200);
    expect((await form(new URL(box.server.url).origin)).status).toBe(200);
    expect((await form(new URL(box.server.url).origin.replace("http:", "https:"))).status).toBe(200);
    expect((await form(new URL(box.server.url).origin.replace(/\d+$/, "1"))).status).toBe(403);
    expect((await form()).status).toBe(200);
    expect((await post(box, "/v1/fine_tuning/jobs/x/cancel", null, { origin: "http://evil.example" })).status).toBe(403);
    const preflight = await box.ask("/v1/files/x", { method: "OPTIONS", headers: { origin: "http://app.example" } });
    expect(preflight.headers.get("access-control-allow-methods")).toContain("DELETE");
    // A name that was made to lead here.
    expect((await box.ask("/v1/models", { headers: { host: "evil.example" } })).status).toBe(403);
  });
});

describe("adapters", () => {
  test("answer side by side with their base model, as each does alone; more requests than there are places wait", async () => {
    const box = await open("side-by-side", { adapters, conversations: 3 });
    const ask = async (model: string, prompt: string, stream: boolean) => {
      if (!stream) return (await box.client.completions.create({ model, prompt, max_tokens: 12 })).choices[0]!.text;
      let text = "";
      for await (const { choices } of await box.client.completions.create({ model, prompt, max_tokens: 12, stream: true }))
        text += choices[0]?.text ?? "";
      return text;
    };
    const asked = ["In the", "Once upon a time", "A thing called king", "And then"].flatMap((prompt) =>
      [BASE, "poet"].map((model) => [model, prompt] as const),
    );
    const alone: string[] = [];
    for (const [model, prompt] of asked) alone.push(await ask(model, prompt, false));
    expect(await Promise.all(asked.map(([model, prompt], i) => ask(model, prompt, i % 2 === 0)))).toEqual(alone);
  });

  test("of a folder are models as soon as they are there, and no more when they are gone", async () => {
    const box = await open("live", { adapters });
    const names = async () => (await box.client.models.list()).data.map(({ id }) => id);
    expect(await names()).toEqual([BASE, "poet"]);
    copyFolder(join(adapters, "poet"), join(adapters, "later"));
    expect(await names()).toEqual([BASE, "later", "poet"]);
    const say = async (name: string) =>
      (await box.client.completions.create({ model: name, prompt: "In the", max_tokens: 8 })).choices[0]!.text;
    expect(await say("later")).toBe(await say("poet"));
    expect(await say("poet")).not.toBe(await say(BASE));
  });

  test("are loaded and unloaded as vLLM does it, from --adapters and the home alone", async () => {
    const box = await open("vllm", { adapters });
    const load = (name: string, path: string) => post(box, "/v1/load_lora_adapter", { lora_name: name, lora_path: path });
    copyFolder(join(adapters, "poet"), join(folder, "outside"));
    symlinkSync(join(folder, "outside"), join(adapters, "link"));
    for (const path of [join(folder, "outside"), "../outside", "link", "/etc", "none", model])
      expect([path, (await load("x", path)).status]).toEqual([path, 400]);
    for (const name of ["../x", "", "a b", BASE, "poet"]) expect([name, (await load(name, "poet")).status]).toEqual([name, 400]);
    const loaded = await load("sql-lora", join(adapters, "poet"));
    expect([loaded.status, await loaded.text()]).toEqual([200, "Success: LoRA adapter 'sql-lora' added successfully."]);
    expect(await box.client.models.retrieve("sql-lora")).toMatchObject({ id: "sql-lora", parent: BASE } as never);
    expect((await load("sql-lora", "poet")).status).toBe(400);
    const unload = () => post(box, "/v1/unload_lora_adapter", { lora_name: "sql-lora" });
    expect([(await unload()).status, (await unload()).status]).toEqual([200, 404]);
  });
});

describe("a server with a home is refused", () => {
  const refused = (options: object) =>
    serve({ port: 0, ...options }).then(
      () => "served",
      (error: unknown) => (error instanceof UserError ? error.message : String(error)),
    );

  test("by flag", async () => {
    const home = join(folder, "refused");
    expect(await refused({ model, memory: "1GiB" })).toBe(
      "--memory is for a server that trains too; give it a folder with --home",
    );
    expect(await refused({ home })).toBe("--model: a base model is needed; it is missing");
    expect(await refused({ home, model, adapter: adapters })).toContain("put the folder into that of --adapters");
    expect(await refused({ home, model, models: [model] })).toContain(`two models are called "${BASE}"`);
    expect(await refused({ home, model, adapters: join(folder, "none") })).toContain("there is no such folder");
    expect(await refused({ home, model, memory: "10MiB" })).toContain(
      "--memory 10MiB is not enough: answering with SmolLM2-135M takes",
    );
    expect(await refused({ home, model: join(adapters, "poet") })).toContain("is an adapter; give its base model");
  });
});
