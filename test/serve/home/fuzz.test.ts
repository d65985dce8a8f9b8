import { afterAll, beforeAll, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { createRandom } from "../../../src/base/random.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, chats, openBox, writeBase } from "../../support/box.ts";
import { SLOW } from "../../support/slow.ts";

setDefaultTimeout(600_000);

const folder = temporaryFolder();
const causes: string[] = [];
let box: Box;
let file: string;
beforeAll(async () => {
  const onRequest = ({ error }: { error: { cause?: unknown } | null }) => {
    if (error?.cause !== undefined) causes.push(String(error.cause));
  };
  box = await openBox({ home: join(folder, "home"), model: writeBase(folder) }, onRequest);
  file = await box.upload(chats());
});
afterAll(() => box.server.stop());

const METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS"];
const PATHS = [
  "/v1/files",
  "/v1/files/ID",
  "/v1/files/ID/content",
  "/v1/fine_tuning/jobs",
  "/v1/fine_tuning/jobs/ID",
  "/v1/fine_tuning/jobs/ID/cancel",
  "/v1/fine_tuning/jobs/ID/pause",
  "/v1/fine_tuning/jobs/ID/resume",
  "/v1/fine_tuning/jobs/ID/events",
  "/v1/fine_tuning/jobs/ID/checkpoints",
  "/v1/fine_tuning/jobs/ID/metrics",
  "/v1/fine_tuning/jobs/ID/report",
  "/v1/fine_tuning/jobs/ID/config",
  "/v1/fine_tuning/jobs/ID/traffic",
  "/v1/fine_tuning/preview",
  "/v1/exports",
  "/v1/exports/ID/content",
  "/v1/memory",
  "/v1/nodes",
  "/v1/federations",
  "/v1/federations/ID",
  "/",
  "/page/ID",
  "/v1/models",
  "/v1/models/ID",
  "/v1/load_lora_adapter",
  "/v1/unload_lora_adapter",
  "/v1/keys/ID",
  "/v1/chat/completions",
  "/v1/completions",
  "/v1/responses",
  "/v1/embeddings",
  "/v1/classify",
  "/v1/rerank",
  "/health",
  "/metrics",
  "/nothing",
];

test("whatever is asked for is answered or refused: nothing is an internal error", async () => {
  const random = createRandom(5, "requests");
  const one = <T>(items: readonly T[]): T => items[random.below(items.length)]!;
  const strange = (): unknown =>
    one<() => unknown>([
      () => null,
      () => -1,
      () => 1e308,
      () => "",
      () => "../../etc/passwd",
      () => "x".repeat(random.below(5000)),
      () => "\u0000\ud800",
      () => [],
      () => [[[]]],
      () => ({ __proto__: { a: 1 }, type: "supervised" }),
      () => true,
      () => BASE,
    ])();
  const keys = ["model", "training_file", "validation_file", "method", "hyperparameters", "suffix", "seed", "metadata", "remat"];
  const others = [
    "messages",
    "prompt",
    "max_tokens",
    "lora_name",
    "lora_path",
    "name",
    "scopes",
    "dry_run",
    "integrations",
    "stream",
  ];
  const body = (): string => {
    if (random.below(5) === 0) return one(["", "{", "[]", "null", '"x"', "{}", "\u0000", "[".repeat(2000)]);
    const entries = Array.from({ length: random.below(6) }, () => [one([...keys, ...others]), strange()]);
    return JSON.stringify(Object.fromEntries(entries));
  };
  const statuses = new Map<number, number>();
  for (let i = 0; i < (SLOW ? 10_000 : 400); i++) {
    const id = one([
      "ftjob-x",
      encodeURIComponent("../x"),
      "%",
      "%00",
      "ft:a:b:c:d:ckpt-step-1",
      "a/b",
      "",
      "__proto__",
      file.slice(0, -1),
    ]);
    const query = one([
      "",
      "?limit=0",
      "?limit=x&after=y",
      "?after=ftevent-1",
      "?metadata[a]=b",
      "?order=up",
      "?purpose=x&limit=1",
    ]);
    const method = one(METHODS);
    const headers = {
      "content-type": one([
        "application/json",
        "text/plain",
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "application/json; charset=x",
      ]),
      ...(random.below(3) === 0
        ? { "last-event-id": one(["x", "ftevent-3", "-1"]), accept: one(["*/*", "text/event-stream"]) }
        : {}),
      ...(random.below(8) === 0 ? { "idempotency-key": "x" } : {}),
    };
    const hasBody = !["GET", "HEAD", "OPTIONS"].includes(method);
    const path = one(PATHS).replace("ID", id) + query;
    const response = await box.ask(path, { method, headers, ...(hasBody ? { body: body() } : {}) });
    await response.arrayBuffer();
    statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
    expect([method, path, response.status < 500 || response.status === 503]).toEqual([method, path, true]);
  }
  expect(causes).toEqual([]);
  for (const status of [200, 400, 404, 405, 415]) expect([status, statuses.has(status)]).toEqual([status, true]);
  expect((await box.client.files.list()).data.map(({ id }) => id)).toEqual([file]);
});
