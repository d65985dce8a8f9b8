import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Fenced, take } from "../../src/fleet/node/attempt.ts";
import { type Fleet, openFleet } from "../../src/fleet/fleet.ts";
import { startLeader } from "../../src/fleet/leader.ts";
import { join as joinFleet, type Member, newSession } from "../../src/fleet/members.ts";
import { startNode } from "../../src/fleet/node/node.ts";
import { numericsHere } from "../../src/fleet/numerics.ts";
import { assign, heldBases, isOrphan, whyNowhere } from "../../src/fleet/placement.ts";
import { type JobRecord, keyOf, readEntry, swap, UNTAKEN } from "../../src/fleet/records.ts";
import { NATS_SERVER, type NatsServer, startNats } from "../support/nats.ts";
import { slowTest } from "../support/slow.ts";

const JOB: JobRecord = {
  front: "front",
  job: "job",
  created: 1,
  base: { name: "base", id: "b", files: [] },
  files: {},
  adapter: null,
  settings: { model: "", data: "" },
  given: [],
  least: 100,
  isElastic: true,
  ...UNTAKEN,
};

const NODE: Member = {
  name: "a",
  kind: "node",
  session: "1",
  numerics: numericsHere(),
  lease: 500,
  isLeaving: false,
  slots: 2,
  memory: 200,
  bases: ["b"],
  jobs: [],
  traffic: {},
  work: {},
};

test("a job goes to a node that has its base model, then to the one with the fewest jobs", () => {
  const members = [
    { ...NODE, name: "busy" },
    { ...NODE, name: "free" },
    { ...NODE, name: "empty", bases: [] },
    { ...NODE, name: "small", memory: 50 },
    { ...NODE, name: "leaving", isLeaving: true },
    { ...NODE, name: "front", kind: "front" as const },
    { ...NODE, name: "full" },
  ];
  const load = () => new Map(Object.entries({ busy: 1, full: 2 }));
  const held = heldBases(members);
  const names = (...jobs: JobRecord[]) => assign(jobs, members, load(), held).map(({ node }) => node.name);
  expect(names(JOB, JOB, JOB, JOB, JOB, JOB)).toEqual(["free", "busy", "free", "empty", "empty"]);
  // What no node can take keeps nothing waiting.
  expect(names({ ...JOB, processor: "another one" }, { ...JOB, least: 300 }, JOB)).toEqual(["free"]);
  expect(whyNowhere({ ...JOB, least: 300 }, members.slice(0, 1))).toBe(
    "no node can take the job: busy: it has 200 B of memory for a job, and this one needs 300 B",
  );
  expect(whyNowhere(JOB, members)).toBeNull();
  // A base model that a front alone has is fetched from it.
  const front = { ...NODE, name: "front", kind: "front" as const };
  expect(whyNowhere(JOB, [{ ...NODE, bases: [] }, front])).toBeNull();
  expect(
    whyNowhere(JOB, [
      { ...NODE, bases: [] },
      { ...front, bases: [] },
    ]),
  ).toBe("no node can take the job: a: neither it nor anybody else in the fleet has base");
});

test("a running job is an orphan when its node is gone, or has started anew", () => {
  const running: JobRecord = { ...JOB, state: "running", node: "a", session: "1" };
  expect(isOrphan(running, new Map([["a", NODE]]))).toBe(false);
  expect(isOrphan(running, new Map([["a", { ...NODE, session: "2" }]]))).toBe(true);
  expect(isOrphan(running, new Map())).toBe(true);
  expect(isOrphan(JOB, new Map())).toBe(false);
});

(NATS_SERVER === null ? describe.skip : describe)("what lies in NATS", () => {
  let nats: NatsServer;
  let fleet: Fleet;
  const quiet = new AbortController().signal;
  const folder = mkdtempSync(join(tmpdir(), "remat-records-"));
  beforeAll(async () => {
    nats = await startNats();
    fleet = await openFleet({ fleet: nats.url }, "test");
  });
  afterAll(async () => {
    await fleet.close();
    await nats.close();
    rmSync(folder, { recursive: true, force: true });
  });

  test("one of many nodes takes a job, and what a node writes late is refused", async () => {
    const { jobs } = fleet.buckets;
    const key = keyOf(JOB);
    await jobs.create(key, JSON.stringify(JOB));
    const all = await Promise.all(["a", "b", "c", "d"].map((node) => take(jobs, key, { node, session: "1" }, quiet)));
    const taken = all.filter((each) => each !== null);
    expect(taken.map(({ number }) => number)).toEqual([1]);
    const [first] = taken;
    await first!.write({ step: 5 });
    const held = (await readEntry<JobRecord>(jobs, key))!;
    // A leader has taken its node for dead, and another one goes on.
    expect(await swap(jobs, key, { ...held.value, state: "queued" as const }, held.revision)).not.toBeNull();
    await expect(first!.write({ step: 6 })).rejects.toThrow(Fenced);
    const second = await take(jobs, key, { node: "e", session: "1" }, quiet);
    expect(second!.number).toBe(2);
    await second!.write({ step: 7 });
    await expect(first!.write({ state: "ended" })).rejects.toThrow("attempt 1 at front.job is over");
    expect(await swap(jobs, key, JOB, held.revision)).toBeNull();
    const { value } = (await readEntry<JobRecord>(jobs, key))!;
    expect([value.step, value.attempt, value.state, value.node]).toEqual([7, 2, "running", "e"]);
    await jobs.purge(key);
  });

  test("a leader frees the jobs of a node that gives no sign of life, and another leads when it has gone", async () => {
    const { jobs, nodes, leader } = fleet.buckets;
    const { nats: connection, buckets } = fleet;
    const leaders = ["x", "y"].map((name) => startLeader({ nats: connection, buckets, name, session: newSession(), lease: 500 }));
    const running: JobRecord = { ...JOB, state: "running", attempt: 3, node: "a", session: "1" };
    await nodes.create("a", JSON.stringify(NODE));
    await jobs.create("front.job2", JSON.stringify({ ...running, job: "job2" }));
    const stateOf = async (key: string) => (await readEntry<JobRecord>(jobs, key))?.value.state;
    while ((await stateOf("front.job2")) === "running") await Bun.sleep(20);
    expect(await stateOf("front.job2")).toBe("queued");
    expect((await nodes.get("a"))?.operation).toBe("PURGE");
    const [led] = [(await readEntry<{ name: string }>(leader, "leader"))!.value.name];
    await leaders[led === "x" ? 0 : 1]!.stop();
    await jobs.create("front.job3", JSON.stringify({ ...running, job: "job3" }));
    while ((await stateOf("front.job3")) === "running") await Bun.sleep(20);
    await leaders[led === "x" ? 1 : 0]!.stop();
    await Promise.all([jobs.purge("front.job2"), jobs.purge("front.job3")]);
  }, 20_000);

  test("a node of another version is refused with both named, unless the other is dead", async () => {
    const { nodes } = fleet.buckets;
    const other = { ...NODE, name: "old", numerics: { ...numericsHere(), version: "0.0.1" } };
    const lives = setInterval(() => void nodes.put("old", JSON.stringify(other)), 50);
    const options = {
      fleet: nats.url,
      fleetLease: 1,
      home: join(folder, "node"),
      name: "new",
      bases: [],
      memory: 1,
      parallel: 1,
    };
    await nodes.put("old", JSON.stringify(other));
    await expect(startNode(options)).rejects.toThrow(
      `this is Remat ${numericsHere().version}, and node old of the fleet is 0.0.1: a fleet has one version`,
    );
    clearInterval(lives);
    await Bun.sleep(100);
    await (await startNode(options)).stop();
    expect((await nodes.get("old"))?.operation).toBe("PURGE");
  }, 20_000);

  slowTest(
    "a node that has reached NATS joins when NATS is back, which has died since",
    async () => {
      await nats.kill();
      const joining = joinFleet(
        fleet.buckets.nodes,
        () => ({ ...NODE, name: "patient" }),
        () => {},
      );
      // Longer than an answer may take.
      await Bun.sleep(6000);
      await nats.restart();
      const presence = await joining;
      while ((await readEntry(fleet.buckets.nodes, "patient").catch(() => null)) === null) await Bun.sleep(20);
      await presence.leave();
    },
    30_000,
  );

  test("of two nodes of one name the earlier one ends", async () => {
    const lost = Promise.withResolvers<Error>();
    const member = (session: string): Member => ({ ...NODE, name: "twin", session });
    const early = await joinFleet(fleet.buckets.nodes, () => member("1"), lost.resolve);
    const late = await joinFleet(
      fleet.buckets.nodes,
      () => member("2"),
      () => {},
    );
    expect((await lost.promise).message).toContain("another node has joined the fleet as twin");
    await Promise.all([early.leave(), late.leave()]);
    expect(await readEntry(fleet.buckets.nodes, "twin")).toBeNull();
  });
});
