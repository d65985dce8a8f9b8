import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { connectFleet, type FleetConnection } from "../../src/fleet/connection.ts";
import { openFleet } from "../../src/fleet/fleet.ts";
import type { Member } from "../../src/fleet/members.ts";
import { modelFiles } from "../../src/fleet/objects.ts";
import { readEntry } from "../../src/fleet/records.ts";
import { startNode } from "../../src/fleet/node/node.ts";
import { openNatsWay } from "../../src/fleet/parallel/nats-way.ts";
import { remoteWorkers } from "../../src/fleet/parallel/remote-workers.ts";
import { decode, encode } from "../../src/fleet/parallel/wire.ts";
import { trainConfigSchema } from "../../src/train/config.ts";
import type { FromWorker, ToWorker } from "../../src/train/nodes/messages.ts";
import { run } from "../../src/train/run/run.ts";
import { refused, writeTinyModel } from "../support/cli.ts";
import { NATS_SERVER, type NatsServer, startNats } from "../support/nats.ts";
import { PREPARE } from "../support/nodes.ts";
import { slowTest } from "../support/slow.ts";

describe("messages as bytes", () => {
  test("come back as they were: numbers that JSON has no word for, vectors, tensors", () => {
    const learned: FromWorker = {
      type: "learned",
      step: 3,
      index: 1,
      part: {
        loss: NaN,
        sums: { a: Infinity, b: -0, c: 0.1 + 0.2, list: [Float32Array.of(1.5, -0, Infinity), Float32Array.of()] },
      },
      seconds: 0.25,
      encoding: "int8",
      values: Uint8Array.of(1, 2, 3, 4),
    };
    expect(decode<FromWorker>(encode(learned))).toEqual(learned);
    const others: (ToWorker | FromWorker)[] = [
      PREPARE,
      { type: "parameters", step: 1, values: new Uint8Array(0) },
      {
        type: "learn",
        step: 1,
        index: 0,
        draw: 7,
        total: 12.5,
        factor: 65536,
        earlier: [{ step: 0, index: 0, draw: 3, total: 11, factor: 65536 }],
      },
      { type: "drop", step: 1, index: null },
      { type: "failed", message: "no" },
    ];
    for (const message of others) expect(decode<ToWorker>(encode(message))).toEqual(message as ToWorker);
  });

  test("are refused when they are cut short", () => {
    const bytes = encode({ type: "ready" });
    for (let length = 0; length < bytes.length; length++) expect(() => decode(bytes.subarray(0, length))).toThrow();
  });
});

test("flags of a fleet without anything to divide are refused", async () => {
  expect(await refused("train", "--model", "m", "--data", "d.jsonl", "--fleet", "nats://127.0.0.1:1")).toBe(
    "remat: --fleet has nodes of a fleet compute a part of each step; say with how many processes in all: --nodes 3\n",
  );
});

(NATS_SERVER === null ? describe.skip : describe)("with a NATS server", () => {
  const folder = mkdtempSync(join(tmpdir(), "remat-test-parallel-"));
  let nats: NatsServer;
  const connections: FleetConnection[] = [];
  const connected = async () => {
    const connection = await connectFleet({ fleet: nats.url }, "test");
    connections.push(connection);
    return connection.nats;
  };
  beforeAll(async () => void (nats = await startNats()));
  afterAll(async () => {
    for (const connection of connections) await connection.close();
    await nats.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test("a way carries messages larger than its window in both directions, and ends at a piece that is lost or after silence", async () => {
    const [a, b] = [await connected(), await connected()];
    const big = Uint8Array.from({ length: 12 << 20 }, (_, i) => (i * 7) % 251);
    const got: { readonly at: string; readonly bytes: Uint8Array }[] = [];
    const closed: string[] = [];
    const end = (at: string, other: string, silence: number, from = a) =>
      openNatsWay(from, {
        to: `remat.test.${at}`,
        from: `remat.test.${other}`,
        silence,
        message: (bytes) => void got.push({ at, bytes }),
        closed: (why) => void closed.push(`${at}: ${why}`),
      });
    const [one, two] = [end("one", "two", 5000), end("two", "one", 5000, b)];
    await Promise.all([a.flush(), b.flush()]);
    one.send(big);
    one.send(Uint8Array.of(5));
    two.send(big.subarray(0, 3 << 20));
    while (got.length < 3) await Bun.sleep(5);
    const at = (name: string) => got.filter((each) => each.at === name).map(({ bytes }) => Bun.hash(bytes));
    expect(at("two")).toEqual([Bun.hash(big), Bun.hash(Uint8Array.of(5))]);
    expect(at("one")).toEqual([Bun.hash(big.subarray(0, 3 << 20))]);
    // A piece with a number that is too high: one before it is lost.
    b.publish("remat.test.two", Uint8Array.of(1, 200, 0, 0, 0, 9));
    while (closed.length < 1) await Bun.sleep(5);
    expect(closed).toEqual(["one: a part of what it sent was lost"]);
    two.close();
    end("three", "nobody", 300);
    while (closed.length < 2) await Bun.sleep(5);
    expect(closed[1]).toBe("three: nothing was heard of it for 0 seconds");
  });

  slowTest(
    "nodes of a fleet compute for a run, one leaves and another comes: the adapter of one machine to the bit",
    async () => {
      const model = writeTinyModel(join(folder, "model"), { num_hidden_layers: 1 });
      const [data, valid] = [join(folder, "data.jsonl"), join(folder, "valid.jsonl")];
      const lines = (from: number) =>
        Array.from(
          { length: 30 },
          (_, i) => `${JSON.stringify({ prompt: `Number ${from + i}: `, completion: `${(from + i) ** 2}` })}\n`,
        );
      writeFileSync(data, lines(0).join(""));
      writeFileSync(valid, lines(50).slice(0, 4).join(""));
      const begin = (name: string) =>
        startNode({ fleet: nats.url, fleetLease: 2, home: join(folder, name), name, bases: [], memory: 1 << 30, parallel: 1 });
      const config = (output: string, nodes?: number) =>
        trainConfigSchema.parse({
          model,
          data,
          valid,
          output: join(folder, output),
          sequenceLength: 48,
          gradientAccumulation: 4,
          steps: 600,
          threads: 1,
          sample: false,
          learningRate: 0.01,
          dropout: 0.1,
          nodes,
        });
      const hash = (output: string) => Bun.hash(readFileSync(join(folder, output, "adapter_model.safetensors")));
      await run(config("alone"));
      const nodes = [await begin("one"), await begin("two")];
      const seen: number[] = [];
      const warnings: string[] = [];
      let third: Promise<unknown> | null = null;
      await run(config("many", 3), {
        workers: remoteWorkers({ fleet: nats.url, fleetLease: 2 }),
        sink(event) {
          if (event.type === "warning") warnings.push(event.text);
          if (event.type !== "step") return;
          seen.push(event.nodes!.ready);
          if (third) return;
          // A step takes milliseconds and a node's start seconds, many on a busy machine: the run waits for them a little in each step.
          if (event.nodes!.ready < 3) return Bun.sleepSync(10);
          third = nodes[0]!
            .stop()
            .then(() => begin("three"))
            .then((node) => nodes.push(node));
        },
      });
      await third;
      // The base model came from the run's own process, and what a node has sent is told with its signs of life.
      const fleet = await openFleet({ fleet: nats.url }, "watch");
      const bytes = modelFiles(model).reduce((sum, file) => sum + file.bytes, 0);
      const told = async () => (await readEntry<Member>(fleet.buckets.nodes, "two"))!.value.traffic;
      let traffic = await told();
      // The run was in this process, where signs of life wait for its computations.
      for (const end = performance.now() + 10_000; traffic.bases!.received < bytes && performance.now() < end;) {
        await Bun.sleep(100);
        traffic = await told();
      }
      expect(traffic.bases!.received).toBe(bytes);
      expect(traffic.gradients!.sent).toBeGreaterThan(10_000);
      expect(traffic.gradients!.received).toBeGreaterThan(10_000);
      expect((await fleet.files.list()).filter(({ size }) => size > bytes / 2)).toEqual([]);
      await fleet.close();
      for (const node of nodes) await node.stop();
      expect(hash("many")).toBe(hash("alone"));
      expect(Math.max(...seen)).toBe(3);
      expect(warnings).toContain("node one has left the run: it has left; the others go on with its work");
      // What a node was sent lies in its home; what it was not told stays here.
      expect(existsSync(join(folder, "one", "bases"))).toBe(true);
      expect(existsSync(join(folder, "one", "runs", "many"))).toBe(false);
    },
    120_000,
  );
});
