import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { bundlePage } from "../../../src/serve/home/page/bundle.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, openBox, writeBase } from "../../support/box.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = writeBase(folder);
const boxes: Box[] = [];
afterAll(async () => {
  for (const { server } of boxes) await server.stop();
});
const open = async (name: string, options: object = {}): Promise<Box> => {
  const box = await openBox({ home: join(folder, name), model, ...options });
  boxes.push(box);
  return box;
};

describe("the page", () => {
  test("is a few small files, which name nothing of elsewhere", async () => {
    const files = await bundlePage();
    expect([...files.keys()].map((name) => name.replace(/-\w+\./, "-HASH.")).sort()).toEqual([
      "chunk-HASH.css",
      "chunk-HASH.js",
      "icon-HASH.svg",
      "index.html",
    ]);
    const texts = [...files].map(([, { bytes }]) => new TextDecoder().decode(bytes)).join("\n");
    const addresses = [...texts.matchAll(/(?:https?:)?\/\/[a-z][\w.-]+\.[a-z]{2,}/gi)].map(([address]) => address);
    expect([...new Set(addresses)]).toEqual(["http://www.w3.org"]);
    const packed = [...files.values()].reduce((sum, { bytes }) => sum + Bun.gzipSync(bytes).length, 0);
    expect(packed).toBeLessThan(100_000);
  });

  test("is there with headers that shut out all others, its files for good", async () => {
    const box = await open("home");
    const index = await box.ask("/", { headers: { "accept-encoding": "gzip" } });
    expect(index.status).toBe(200);
    const header = (name: string) => index.headers.get(name);
    expect(header("content-type")).toBe("text/html; charset=utf-8");
    expect(header("cache-control")).toBe("no-cache");
    expect(header("content-security-policy")).toContain("default-src 'self'");
    expect(header("content-security-policy")).not.toContain("unsafe");
    expect(header("content-security-policy")).toContain("frame-ancestors 'none'");
    expect(header("x-content-type-options")).toBe("nosniff");
    expect(header("referrer-policy")).toBe("no-referrer");
    const html = await index.text();
    expect(html).not.toContain("<style");
    const names = [...html.matchAll(/(?:href|src)="(page\/[^"]+)"/g)].map(([, name]) => name!);
    expect(names.length).toBe(3);
    for (const name of names) {
      const [packed, plain] = await Promise.all(
        ["gzip", "identity"].map((encoding) => box.ask(`/${name}`, { headers: { "accept-encoding": encoding } })),
      );
      expect(plain!.headers.get("content-encoding")).toBe(null);
      expect(packed!.headers.get("cache-control")).toContain("immutable");
      expect(await packed!.text()).toBe(await plain!.text());
    }
    expect((await box.ask("/page/none.js")).status).toBe(404);
    expect((await box.ask("/page/..%2findex.html")).status).toBe(404);
    expect((await box.ask("/", { method: "POST" })).status).toBe(405);
    expect((await box.ask("/", { method: "HEAD" })).status).toBe(200);
    // A name that was made to lead here.
    expect((await box.ask("/", { headers: { host: "evil.example" } })).status).toBe(403);
  });

  test("needs no key, and what it shows needs one", async () => {
    const box = await open("keys", { apiKey: "secret" });
    expect((await box.ask("/")).status).toBe(200);
    for (const path of ["/v1/fine_tuning/jobs", "/v1/fine_tuning/events", "/v1/memory"])
      expect([path, (await box.ask(path)).status]).toEqual([path, 401]);
    const headers = { authorization: "Bearer secret" };
    expect((await box.ask("/v1/memory", { headers })).status).toBe(200);
    // What was exported is fetched by a browser's download, which has no key to send.
    const made = await box.ask("/v1/exports", {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ model: BASE, format: "gguf" }),
    });
    const { url, bytes } = (await made.json()) as { url: string; bytes: number };
    const fetched = await box.ask(`/${url}`);
    expect([fetched.status, (await fetched.bytes()).length]).toEqual([200, bytes]);
    expect((await box.ask(`/${url.slice(0, -1)}`)).status).toBe(404);
  });
});
