import { connect } from "node:net";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { UserError } from "../../src/base/errors.ts";
import { checkApiKey, readOrigin } from "../../src/serve/http/guard.ts";
import { useServed } from "../support/served.ts";

setDefaultTimeout(120_000);

const { scripted } = useServed();

/** The status and body that a request, written byte for byte, gets. */
function raw(port: number, request: string): Promise<{ status: number; body: string }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number; body: string }>();
  let text = "";
  const socket = connect(port, "127.0.0.1", () => socket.write(Buffer.from(request, "latin1")));
  socket.on("data", (data) => {
    text += data.toString("latin1");
    const [head, body] = text.split("\r\n\r\n");
    const length = Number(/^content-length: (\d+)/im.exec(head!)?.[1] ?? NaN);
    if (body === undefined || body.length < length) return;
    socket.destroy();
    resolve({ status: Number(/^HTTP\/1\.1 (\d+)/.exec(head!)![1]), body });
  });
  socket.on("error", reject);
  return promise;
}

describe("Host headers", () => {
  const client = () => scripted("hello");
  const port = (served: ReturnType<typeof client>) => Number(new URL(served.server.url).port);

  test("a request without one, as HTTP/1.0 and probes of balancers write it, is answered", async () => {
    const served = client();
    for (const request of ["GET /health HTTP/1.0\r\n\r\n", "GET /health HTTP/1.1\r\nHost:\r\n\r\n"])
      expect(await raw(port(served), request)).toEqual({ status: 200, body: '{"status":"ok"}' });
    expect((await raw(port(served), "GET /v1/models HTTP/1.0\r\n\r\n")).status).toBe(200);
    // A path that begins with two strokes names no host.
    expect((await raw(port(served), "GET //evil/health HTTP/1.0\r\n\r\n")).status).toBe(404);
    expect(served.reports.map(({ path, status }) => `${path} ${status}`)).toEqual(["//evil/health 404"]);
  });

  test("that no host has are a 400 with a report, never a 500", async () => {
    const served = client();
    const hosts = [
      "a b",
      "[::1",
      "localhost:99999",
      "evil/../x",
      "user@localhost",
      "h\u00e9\u00ff",
      "ho%00st",
      "localhost?",
      ":",
      "localhost, evil",
    ];
    for (const host of hosts) {
      const { status, body } = await raw(port(served), `GET /health HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      expect([host, status]).toEqual([host, 400]);
      expect(JSON.parse(Buffer.from(body, "latin1").toString())).toMatchObject({
        error: { type: "invalid_request_error", code: "invalid_host" },
      });
    }
    // Two headers, of which a browser's server and this one might each read another.
    expect((await raw(port(served), "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n")).status).toBe(400);
    expect(served.reports.length).toBe(hosts.length + 1);
    expect(served.reports.every(({ status, error }) => status === 400 && error?.cause === undefined)).toBe(true);
  });
});

test("an origin is written as browsers write it, and what can be none is refused with what was meant", () => {
  for (const [given, read] of [
    ["*", "*"],
    ["null", "null"],
    ["http://localhost:3000", "http://localhost:3000"],
    ["http://localhost:3000/", "http://localhost:3000"],
    ["HTTPS://Example.COM:443", "https://example.com"],
    ["http://example.com:80/", "http://example.com"],
    ["https://b\u00fccher.example", "https://xn--bcher-kva.example"],
    ["http://[::1]:8080", "http://[::1]:8080"],
    ["chrome-extension://abcdef/", "chrome-extension://abcdef"],
  ] as const)
    expect(readOrigin(given)).toBe(read);
  for (const wrong of [
    "localhost:3000",
    "localhost",
    "example.com/",
    "http://a/path",
    "http://a?b",
    "http://u@a",
    "http://a, http://b",
    "http://a:99999",
    "https://",
  ])
    expect(() => readOrigin(wrong)).toThrow(UserError);
  expect(() => readOrigin("localhost:3000/")).toThrow(/such as http:\/\/localhost:3000\) or \*, got "localhost:3000\/"/);
});

test("a key that a header cannot carry is refused, and not repeated", () => {
  for (const key of ["secret", "sk-12_3.~+/=", "two words"]) checkApiKey(key, "--api-key");
  for (const key of ["schl\u00fcssel", " secret", "secret\n", "a\u0000b", "\u{1F511}"]) {
    expect(() => checkApiKey(key, "REMAT_API_KEY")).toThrow(/^REMAT_API_KEY: expected letters, digits and signs of ASCII/);
    expect(() => checkApiKey(key, "REMAT_API_KEY")).not.toThrow(key.trim());
  }
});
