import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { RequestEvent, VerbEvent } from "../../src/train/run/events.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, rematApart, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

// Never ends an answer by itself in so few tokens: its weights are random.
const model = writeTinyModel(join(temporaryFolder(), "tiny"), { max_position_embeddings: 4096 });
const root = join(import.meta.dir, "../..");

/** `remat serve` in a process of its own. */
function start(flags: readonly string[], env: Record<string, string> = {}) {
  const child = Bun.spawn(
    [process.execPath, join(root, "src/cli/main.ts"), "serve", "--model", model, "--port", "0", "--threads", "1", ...flags],
    { env: { ...process.env, ...env }, stdin: "ignore", stdout: "pipe", stderr: "pipe" },
  );
  const lines = (async function* () {
    let text = "";
    for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) {
      const parts = (text + piece).split("\n");
      text = parts.pop()!;
      yield* parts;
    }
  })();
  const next = async <T extends VerbEvent["type"]>(type: T) => {
    const event = JSON.parse((await lines.next()).value as string) as VerbEvent;
    expect(event.type).toBe(type);
    return event as Extract<VerbEvent, { type: T }>;
  };
  return { child, next };
}

const ask = (url: string, body: object, headers: Record<string, string> = {}) =>
  fetch(`${url}/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify({ prompt: "king", ...body }),
  });

test("Ctrl-C while an answer is made: it is cut, and the exit code is 0; every request is an event", async () => {
  const { child, next } = start(["--json"]);
  const { url, model, context } = await next("listening");
  expect({ model, context }).toEqual({ model: "tiny", context: 4096 });
  expect((await ask(url, { max_tokens: 5, temperature: 0 })).status).toBe(200);
  const request: RequestEvent = await next("request");
  expect(request).toEqual({
    type: "request",
    method: "POST",
    path: "/v1/completions",
    status: 200,
    seconds: expect.any(Number),
    promptTokens: expect.any(Number),
    cachedTokens: 0,
    answerTokens: 5,
    reason: "length",
    waited: expect.any(Number),
  });
  expect((await ask(url, { max_tokens: -5 })).status).toBe(400);
  expect(await next("request")).toMatchObject({ status: 400, message: expect.stringContaining("max_tokens") });
  const running = await ask(url, { max_tokens: 4000, stream: true });
  child.kill("SIGINT");
  expect(await running.text()).toContain("the server is stopping");
  expect(await next("request")).toMatchObject({ status: 503, reason: null });
  expect(await child.exited).toBe(0);
  expect(await new Response(child.stderr).text()).toBe("");
});

test("without --json: a line per request on standard error; the key may come from the environment", async () => {
  const { child } = start(["--name", "mine"], { REMAT_API_KEY: "secret" });
  let text = "";
  const until = async (pattern: RegExp) => {
    while (!pattern.test(text)) {
      const { done, value } = await reader.read();
      if (done) throw new Error(`${pattern} in ${text}`);
      text += value;
    }
    return pattern.exec(text)!;
  };
  const reader = child.stderr.pipeThrough(new TextDecoderStream()).getReader();
  const [, url] = await until(/"mine" listens on (http:\S+\/v1) /);
  expect((await ask(url!, {})).status).toBe(401);
  await until(/POST \/v1\/completions 401: a key is needed/);
  expect((await ask(url!, { "\u001b[2J\n": 1 }, { authorization: "Bearer secret" })).status).toBe(400);
  await until(/POST \/v1\/completions 400: unknown field \uFFFD\[2J\uFFFD; remove it\n/);
  expect((await ask(url!, { model: "mine", max_tokens: 3 }, { authorization: "Bearer secret" })).status).toBe(200);
  await until(/POST \/v1\/completions 200: \d+ tokens in \(0 cached\), 3 out, [\d.]+ s, length\n/);
  child.kill("SIGTERM");
  expect(await child.exited).toBe(0);
});

test("a port that is taken, and a host that is not this machine's, are one clear sentence each", async () => {
  const taken = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response("") });
  const flags = ["serve", "--model", model, "--threads", "1"];
  const port = String(taken.port);
  const refused = await remat([...flags, "--port", port]);
  await taken.stop(true);
  expect(refused).toMatchObject({ code: 2, stdout: "" });
  expect(refused.stderr).toContain(`cannot listen on 127.0.0.1:${port}: another program listens there`);
  const host = await remat([...flags, "--host", "192.0.2.1"]);
  expect(host.code).toBe(2);
  expect(host.stderr).toContain("this machine has no such address");
});

test("an origin and a key that could never match are refused before the model is opened", async () => {
  const flags = ["serve", "--model", "nowhere"];
  const cors = await remat([...flags, "--cors", "localhost:3000"]);
  expect(cors).toMatchObject({ code: 2, stdout: "" });
  expect(cors.stderr).toContain("--cors: expected an origin (scheme, host and port, such as http://localhost:3000) or *");
  const key = await rematApart(flags, undefined, { REMAT_API_KEY: "schlüssel" });
  expect(key.code).toBe(2);
  expect(key.stderr).toContain("REMAT_API_KEY: expected letters, digits and signs of ASCII");
});

test("--model may be given several times where there is a home, and flags of such a server are refused where there is none", async () => {
  const folder = temporaryFolder();
  const other = writeTinyModel(join(folder, "other"));
  const refused = async (...args: string[]) => {
    const { code, stderr } = await remat(["serve", ...args]);
    expect(code).toBe(2);
    return stderr;
  };
  const home = ["--home", join(folder, "home"), "--memory", "1MiB"];
  expect(await refused(...home, "--model", model, `--model=${other}`)).toContain("answering with tiny, other takes");
  expect(await refused(...home, "--model", model, "--port", "0", "--model", model)).toContain('two models are called "tiny"');
  expect(await refused("--model", model, "--model", other)).toContain("--models is for a server that trains too");
  expect(await refused("--model", model, "--parallel", "2")).toContain("--parallel is for a server that trains too");
});
