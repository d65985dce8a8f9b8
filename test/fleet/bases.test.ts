import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BaseAway, fetchFile, type FetchFileOptions } from "../../src/fleet/bases/fetch-file.ts";
import { serveBases } from "../../src/fleet/bases/serve-bases.ts";
import { type FleetConnection, connectFleet } from "../../src/fleet/connection.ts";
import { SUBJECTS } from "../../src/fleet/names.ts";
import { modelFiles, modelId } from "../../src/fleet/objects.ts";
import { createMeter } from "../../src/fleet/traffic.ts";
import { createRandom } from "../../src/base/random.ts";
import { NATS_SERVER, type NatsServer, startNats } from "../support/nats.ts";

/** Bytes of the model's one large file: more pieces than may be under way, and a rest. */
const BYTES = 5_000_001;

(NATS_SERVER === null ? describe.skip : describe)("a base model from members that have it", () => {
  const folder = mkdtempSync(join(tmpdir(), "remat-bases-"));
  const model = join(folder, "model");
  const ends: (() => void)[] = [];
  let server: NatsServer;
  let here: FleetConnection;
  let there: FleetConnection;
  beforeAll(async () => {
    server = await startNats();
    here = await connectFleet({ fleet: server.url }, "here");
    there = await connectFleet({ fleet: server.url }, "there");
    mkdirSync(model);
    const random = createRandom(1, "a base model");
    writeFileSync(
      join(model, "model.safetensors"),
      Uint8Array.from({ length: BYTES }, () => random.below(256)),
    );
    writeFileSync(join(model, "config.json"), "{}");
  });
  afterEach(() => ends.splice(0).forEach((end) => end()));
  afterAll(async () => {
    await here.close();
    await there.close();
    await server.close();
    rmSync(folder, { recursive: true, force: true });
  });

  const files = () => modelFiles(model);
  const weights = () => files().find(({ path }) => path.endsWith(".safetensors"))!;
  /** A member that has the model, or what is in another folder under its id. */
  const begin = async (name: string, at = model, counted?: (bytes: number) => void): Promise<void> => {
    ends.push(serveBases(there.nats, name, new Map([[modelId(files()), at]]), counted));
    await there.nats.flush();
  };
  let count = 0;
  const target = () => join(folder, `fetched-${count++}`, "model.safetensors");
  const fetchTo = (path: string, peers: readonly string[], more: Partial<FetchFileOptions> = {}): Promise<void> =>
    fetchFile(weights(), path, {
      nats: here.nats,
      base: modelId(files()),
      peers: () => Promise.resolve(peers),
      way: { signal: new AbortController().signal },
      answerMs: 1000,
      patienceMs: 3000,
      ...more,
    });
  const hashOf = (path: string) => Bun.hash(readFileSync(path));

  test("it is fetched piece by piece, and what goes over the network is counted at both ends", async () => {
    let sent = 0;
    await begin("a", model, (bytes) => (sent += bytes));
    const meter = createMeter();
    const path = target();
    await fetchTo(path, ["a"], { way: meter.passage("bases", "received", new AbortController().signal) });
    expect(hashOf(path)).toBe(hashOf(join(model, "model.safetensors")));
    expect([sent, meter.traffic]).toEqual([BYTES, { bases: { sent: 0, received: BYTES } }]);
    expect(existsSync(`${path}.part`)).toBe(false);
  });

  test("a member that dies in the middle is followed by another one, from where it was", async () => {
    const path = target();
    let sent = 0;
    await begin("a", model, (bytes) => {
      sent += bytes;
      // It is gone without a word, with pieces under way.
      if (sent > BYTES / 2) ends[0]!();
    });
    let rest = 0;
    await begin("b", model, (bytes) => (rest += bytes));
    const peers = ["a"];
    await fetchTo(path, [], { peers: () => Promise.resolve(sent > 0 ? ["a", "b"] : peers) });
    expect(hashOf(path)).toBe(hashOf(join(model, "model.safetensors")));
    expect(rest).toBeGreaterThan(0);
    expect(rest).toBeLessThan(BYTES / 2);
  });

  test("a process that was ended goes on with what it had, and nobody is waited for without end", async () => {
    const path = target();
    let sent = 0;
    await begin("a", model, (bytes) => {
      sent += bytes;
      if (sent > BYTES / 2) ends[0]!();
    });
    await expect(fetchTo(path, ["a"])).rejects.toThrow(BaseAway);
    const had = statSync(`${path}.part`).size;
    expect(had).toBeGreaterThan(BYTES / 4);
    expect(existsSync(path)).toBe(false);
    let rest = 0;
    await begin("b", model, (bytes) => (rest += bytes));
    await fetchTo(path, ["b"]);
    expect([hashOf(path), rest]).toEqual([hashOf(join(model, "model.safetensors")), BYTES - had]);
    // What lies there may have been damaged meanwhile: then all of it is fetched anew.
    const other = target();
    mkdirSync(join(other, ".."), { recursive: true });
    writeFileSync(`${other}.part`, new Uint8Array(1000));
    await fetchTo(other, ["b"]);
    expect(hashOf(other)).toBe(hashOf(join(model, "model.safetensors")));
  });

  test("bytes that have not the hash are refused, with whoever sends them named, and fetched from another one", async () => {
    const bytes = readFileSync(join(model, "model.safetensors"));
    bytes[BYTES - 1]! ^= 1;
    /** A member that answers with other bytes than it was asked for. */
    const lie = there.nats.subscribe(SUBJECTS.bases("liar"), {
      callback(_, message) {
        const { at, length } = message.json<{ readonly at: number; readonly length: number }>();
        message.respond(Buffer.concat([Uint8Array.of(1), bytes.subarray(at, at + length)]));
      },
    });
    ends.push(() => lie.unsubscribe());
    await there.nats.flush();
    const path = target();
    await expect(fetchTo(path, ["liar"])).rejects.toThrow(/another SHA-256 at liar than the job says .*; nobody else has it/);
    expect([existsSync(path), existsSync(`${path}.part`)]).toEqual([false, false]);
    await begin("a");
    await fetchTo(path, ["liar", "a"]);
    expect(hashOf(path)).toBe(hashOf(join(model, "model.safetensors")));
  });

  test("only files of base models are given, by their hash", async () => {
    writeFileSync(join(model, "secret.key"), "secret");
    await begin("a");
    const ask = async (request: object): Promise<number> =>
      (await here.nats.request(SUBJECTS.bases("a"), JSON.stringify(request), { timeout: 1000 })).data.length;
    const [config] = files();
    const base = modelId(files());
    expect(config!.path).toBe("config.json");
    expect(await ask({ base, sha256: config!.sha256, at: 0, length: 100 })).toBe(3);
    const secret = new Bun.CryptoHasher("sha256").update("secret").digest("hex");
    for (const request of [
      { base, sha256: secret, at: 0, length: 9 },
      { base: "x", sha256: config!.sha256 },
      { base, path: "../x" },
      {},
    ])
      expect([request, await ask(request)]).toEqual([request, 1]);
  });
});
