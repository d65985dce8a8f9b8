import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { AuthenticationError, PermissionDeniedError } from "openai";
import { createKey, deleteKey, listKeys, UserError } from "../../src/index.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { BASE, type Box, openBox, writeBase } from "../support/box.ts";
import { remat } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const home = join(folder, "home");
let box: Box;
beforeAll(async () => (box = await openBox({ home, model: writeBase(folder) })));
afterAll(() => box.server.stop());

const keys = (...args: readonly string[]) => remat(["keys", ...args, "--home", home]);
const refused = async (...args: readonly string[]) => {
  const { code, stderr, stdout } = await keys(...args);
  expect([code, stdout]).toEqual([2, ""]);
  return stderr;
};
const chat = (apiKey: string) =>
  new OpenAI({ baseURL: box.server.url, apiKey, maxRetries: 0 }).chat.completions.create({
    model: BASE,
    messages: [{ role: "user", content: "x" }],
    max_tokens: 1,
  });

test("keys are made, listed and deleted while the server runs, which takes them from the next request on", async () => {
  expect((await keys("list")).stderr).toContain("there is no key");
  expect((await chat("none")).choices).toHaveLength(1);
  const made = await keys("create", "--name", "the lab", "--scopes", "infer");
  const secret = made.stdout.trimEnd();
  expect(secret).toMatch(/^rk-[\w-]{43}$/);
  expect(made.stderr).toMatch(/^key-\w{24} .*infer +the lab\n$/);
  expect(await chat("none").catch((error: unknown) => error)).toBeInstanceOf(AuthenticationError);
  expect((await chat(secret)).choices).toHaveLength(1);
  const uploads = new OpenAI({ baseURL: box.server.url, apiKey: secret, maxRetries: 0 }).files.list();
  expect(await Promise.resolve(uploads).catch((error: unknown) => error)).toBeInstanceOf(PermissionDeniedError);

  const json = JSON.parse((await keys("create", "--name", "root", "--scopes", "admin,train", "--json")).stdout) as Record<
    string,
    unknown
  >;
  expect(json).toMatchObject({ type: "key", name: "root", scopes: ["admin", "train"] });
  const listed = (await keys("list", "--json")).stdout.trimEnd().split("\n");
  expect(listed.map((line) => (JSON.parse(line) as { name: string }).name)).toEqual(["the lab", "root"]);
  expect(listed.join("")).not.toContain(secret);
  expect((await keys("list")).stdout).toContain(String(json["id"]));

  const { id } = JSON.parse(listed[0]!) as { id: string };
  expect((await keys("delete", id)).stdout).toContain("the lab: deleted");
  expect(await chat(secret).catch((error: unknown) => error)).toBeInstanceOf(AuthenticationError);
  expect((await chat(String(json["key"]))).choices).toHaveLength(1);
  const audit = readFileSync(join(home, "audit.jsonl"), "utf8");
  expect(audit.match(/"remat keys"/g)).toHaveLength(3);
  expect(audit).not.toContain(secret);
});

test("what is wrong is refused, and nothing is made", async () => {
  expect(await refused("create", "--name", "x")).toContain("--scopes: it is missing");
  expect(await refused("create", "--scopes", "infer")).toContain("--name: it is missing");
  expect(await refused("create", "--name", "x", "--scopes", "read")).toContain("infer, train, admin");
  expect(await refused("create", "--name", "a/b", "--scopes", "infer")).toContain("up to 64 letters");
  expect(await refused("delete", "key-nothing")).toContain('there is no key "key-nothing"');
  expect(await refused("delete")).toContain("the id of one key");
  expect(await refused("list", "--name", "x")).toContain("--name is for keys create");
  expect(await refused("creat")).toContain("did you mean create?");
  expect((await remat(["keys", "list"])).stderr).toContain("--home: it is missing");
  const nowhere = join(folder, "nowhere");
  expect((await remat(["keys", "list", "--home", nowhere])).stderr).toContain("there is no remat.sqlite in it");
  expect(existsSync(nowhere)).toBe(false);
  const damaged = join(folder, "damaged");
  mkdirSync(damaged);
  writeFileSync(join(damaged, "remat.sqlite"), "no database at all".repeat(100));
  expect((await remat(["keys", "list", "--home", damaged])).stderr).toContain("cannot be read as a database");
});

test("a home is made for its first key, and the server that begins in it asks for the key", async () => {
  const fresh = join(folder, "fresh");
  const { secret, id } = createKey({ home: fresh, name: "first", scopes: ["infer"] });
  const other = await openBox({ home: fresh, model: join(folder, BASE), apiKey: "none" });
  try {
    const ask = (key: string) =>
      other.ask("/v1/models", { headers: { authorization: `Bearer ${key}` } }).then(({ status }) => status);
    expect([await ask("wrong"), await ask(secret)]).toEqual([401, 200]);
    expect(listKeys({ home: fresh })).toMatchObject([{ id, name: "first", scopes: ["infer"] }]);
    expect(deleteKey(id, { home: fresh }).id).toBe(id);
    expect(await ask(secret)).toBe(401);
    expect(() => deleteKey(id, { home: fresh })).toThrow(UserError);
  } finally {
    await other.server.stop();
  }
});
