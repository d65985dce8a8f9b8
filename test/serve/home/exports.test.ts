import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CONFIG_FILE, TENSOR_FILE } from "../../../src/hf/peft/adapter-folder.ts";
import type { Export } from "../../../src/page/api/types.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, chats, openBox, QUICK, writeBase } from "../../support/box.ts";
import { remat } from "../../support/cli.ts";
import { limitHere } from "../../support/process-tree.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const home = join(folder, "home");
let model: string;
let box: Box;
let name: string;
let run: string;
beforeAll(async () => {
  model = writeBase(folder);
  box = await openBox({ home, model, memory: limitHere(2 ** 31) });
  const { id } = await box.create({ training_file: await box.upload(chats()), suffix: "words", remat: QUICK });
  name = (await box.until(id)).fine_tuned_model!;
  run = join(home, "runs", id);
});
afterAll(() => box.server.stop());

const ask = (fields: object) =>
  box.ask("/v1/exports", {
    method: "POST",
    body: JSON.stringify({ model: name, ...fields }),
    headers: { "content-type": "application/json" },
  });
const made = async (fields: object): Promise<Export> => {
  const response = await ask(fields);
  expect([response.status, response.status === 200 ? "" : await response.text()]).toEqual([200, ""]);
  return (await response.json()) as Export;
};
const bytesOf = async ({ url, bytes, filename }: Export): Promise<Uint8Array> => {
  const response = await box.ask(`/${url}`);
  expect(response.status).toBe(200);
  expect(response.headers.get("content-disposition")).toBe(`attachment; filename="${filename}"`);
  const content = await response.bytes();
  expect(content.length).toBe(bytes);
  return content;
};
/** Unpacks an archive with the system's program. */
const unpacked = async (exported: Export): Promise<string> => {
  const to = join(folder, "unpacked", exported.id);
  mkdirSync(to, { recursive: true });
  writeFileSync(join(to, "x.tar"), await bytesOf(exported));
  expect(Bun.spawnSync(["tar", "-xf", "x.tar"], { cwd: to }).exitCode).toBe(0);
  return join(
    to,
    readdirSync(to).find((entry) => entry !== "x.tar")!,
  );
};
const bytes = (...path: string[]) => readFileSync(join(...path));

describe("a model is taken away", () => {
  test("as an adapter for PEFT, of a job and of its checkpoint, which names its base as the server does", async () => {
    const adapter = await unpacked(await made({ format: "peft" }));
    expect(readdirSync(adapter).sort()).toEqual([CONFIG_FILE, TENSOR_FILE]);
    expect(bytes(adapter, TENSOR_FILE)).toEqual(bytes(run, TENSOR_FILE));
    const config = JSON.parse(bytes(adapter, CONFIG_FILE).toString()) as object;
    expect(config).toMatchObject({ base_model_name_or_path: BASE, peft_type: "LORA" });
    expect(JSON.stringify(config)).not.toContain(folder);
    const { data } = (await (await box.ask("/v1/models")).json()) as { data: { id: string }[] };
    const checkpoints = data.map(({ id }) => id).filter((id) => id.startsWith(`${name}:ckpt-step-`));
    const last = await unpacked(await made({ format: "peft", model: checkpoints.at(-1)! }));
    expect(bytes(last, TENSOR_FILE).length).toBe(bytes(adapter, TENSOR_FILE).length);
  });

  test("merged, and for llama.cpp, the same as by the command line", async () => {
    const merged = await unpacked(await made({ format: "merged" }));
    await remat(["merge", "--model", model, "--adapter", run, "--out", join(folder, "merged")]);
    for (const file of readdirSync(join(folder, "merged")))
      expect([file, bytes(merged, file).equals(bytes(folder, "merged", file))]).toEqual([file, true]);
    const gguf = await made({ format: "gguf", type: "q8_0" });
    expect(gguf.filename).toMatch(/^ft-SmolLM2-135M-remat-words-\w+\.q8_0\.gguf$/);
    const out = join(folder, "own.gguf");
    const own = await remat(["export", "gguf", "--model", model, "--adapter", run, "--out", out, "--type", "q8_0"]);
    expect(own.code).toBe(0);
    expect((await bytesOf(gguf)).length).toBe(bytes(out).length);
  });

  test("by those who asked for it alone, and as long as it is new", async () => {
    const exported = await made({ format: "peft" });
    for (const url of [exported.url.replace(/ticket=.*/, "ticket=x"), exported.url.replace(/\?.*/, ""), "v1/exports/x/content"])
      expect([url, (await box.ask(`/${url}`)).status]).toEqual([url, 404]);
    for (let i = 0; i < 4; i++) await made({ format: "peft" });
    expect((await box.ask(`/${exported.url}`)).status).toBe(404);
    expect(readdirSync(join(home, "exports")).length).toBe(4);
    expect(existsSync(join(home, "exports", exported.id))).toBe(false);
  });

  test("or refused by field", async () => {
    for (const [fields, param, status] of [
      [{ model: BASE, format: "peft" }, "format", 400],
      [{ model: "none", format: "peft" }, "model", 404],
      [{ format: "onnx" }, "format", 400],
      [{ format: "gguf", type: "q2" }, "type", 400],
      [{ format: "gguf", path: "/etc" }, null, 400],
    ] as const) {
      const response = await ask(fields);
      const { error } = (await response.json()) as { error: { param: string | null } };
      expect([param, response.status, error.param]).toEqual([param, status, error.param === "" ? null : param]);
    }
    expect((await box.ask("/v1/exports")).status).toBe(405);
  });
});
