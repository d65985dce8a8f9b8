import { afterAll, expect, test } from "bun:test";
import { join } from "node:path";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { nkeys } from "@nats-io/transport-node";
import { connectFleet } from "../../src/fleet/connection.ts";
import { NATS_SERVER, startNats } from "../support/nats.ts";
import { slowTest } from "../support/slow.ts";

const folder = mkdtempSync(join(tmpdir(), "remat-connection-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const refused = async (fleet: string, more = {}): Promise<string> => {
  try {
    await (await connectFleet({ fleet, ...more }, "test")).close();
  } catch (error) {
    expect(error).toHaveProperty("exitCode", 2);
    return (error as Error).message;
  }
  throw new Error("it was accepted");
};

test("an address that is none, and a server that is not there, are one clear error", async () => {
  expect(await refused("http://somebody:secret@host")).toBe(
    '--fleet: expected nats://HOST:PORT or tls://HOST:PORT, got "http://host"',
  );
  expect(await refused("nats://127.0.0.1:1")).toContain("no NATS server answers there");
  expect(await refused("nats://me:secret@127.0.0.1:1")).not.toContain("secret");
  writeFileSync(join(folder, "empty.creds"), "nothing\n");
  expect(await refused("nats://127.0.0.1:1", { fleetCredentials: join(folder, "empty.creds") })).toContain(
    "the file has neither",
  );
});

(NATS_SERVER === null ? test.skip : slowTest)(
  "a fleet connects, comes back, and says which right is missing",
  async () => {
    const user = nkeys.createUser();
    const config = join(folder, "nats.conf");
    writeFileSync(
      config,
      `authorization { users = [
      { user: all, password: "p w" },
      { nkey: ${user.getPublicKey()} },
      { user: few, password: few, permissions: { publish: ["$JS.API.INFO"], subscribe: ["_INBOX.>"] } },
    ] }\n`,
    );
    writeFileSync(join(folder, "seed"), user.getSeed());
    const server = await startNats(["-c", config]);
    try {
      const at = (who: string) => `nats://${who}@127.0.0.1:${server.port}`;
      expect(await refused(server.url)).toContain("refuses this user");
      expect(await refused(at("all:wrong"))).toContain("refuses this user");
      const few = await connectFleet({ fleet: at("few:few") }, "test");
      await expect(few.bucket("remat_test")).rejects.toThrow(/this user has no right to use the key-value bucket remat_test/);
      await few.close();
      const byKey = await connectFleet({ fleet: server.url, fleetCredentials: join(folder, "seed") }, "test");
      const bucket = await byKey.bucket("remat_test");
      const revision = await bucket.create("key", "one");
      const all = await connectFleet({ fleet: at("all:p%20w") }, "test");
      await server.restart();
      const again = await (async () => {
        for (;;) {
          const entry = await bucket.get("key").catch(() => null);
          if (entry !== null) return entry;
          await Bun.sleep(20);
        }
      })();
      expect(again.string()).toBe("one");
      expect(await bucket.update("key", "two", revision)).toBeGreaterThan(revision);
      await expect(bucket.update("key", "late", revision)).rejects.toThrow();
      expect((await (await all.bucket("remat_test")).get("key"))?.string()).toBe("two");
      await Promise.all([byKey.close(), all.close()]);
    } finally {
      await server.close();
    }
  },
  30_000,
);

const OPENSSL = Bun.which("openssl");

(NATS_SERVER === null || OPENSSL === null ? test.skip : slowTest)(
  "a fleet is reached by TLS, with certificates of both sides",
  async () => {
    const openssl = (...args: string[]) => {
      const { exitCode, stderr } = Bun.spawnSync([OPENSSL!, ...args], { cwd: folder, stderr: "pipe" });
      if (exitCode !== 0) throw new Error(stderr.toString());
    };
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca");
    openssl("req", ...key, "-keyout", "box.key", "-out", "box.csr", "-subj", "/CN=localhost");
    writeFileSync(join(folder, "names"), "subjectAltName=DNS:localhost,IP:127.0.0.1");
    const signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"];
    openssl("x509", "-req", "-in", "box.csr", "-out", "box.pem", ...signed);
    const at = (name: string) => join(folder, name);
    const files = ["--tlscert", at("box.pem"), "--tlskey", at("box.key"), "--tlscacert", at("ca.pem")];
    const server = await startNats(["--tls", "--tlsverify", ...files]);
    try {
      const url = `tls://localhost:${server.port}`;
      expect(await refused(url)).toContain("the server's certificate is not trusted");
      expect(await refused(url, { fleetCa: at("ca.pem"), fleetKey: at("box.key") })).toContain("one of them is missing");
      const own = { fleetCa: at("ca.pem"), fleetCert: at("box.pem"), fleetKey: at("box.key") };
      const fleet = await connectFleet({ fleet: url, ...own }, "test");
      const bucket = await fleet.bucket("remat_test");
      await bucket.put("key", "one");
      expect((await bucket.get("key"))?.string()).toBe("one");
      await fleet.close();
    } finally {
      await server.close();
    }
  },
  30_000,
);
