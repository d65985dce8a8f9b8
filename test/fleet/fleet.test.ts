import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Progress, RoundNumbers } from "../../src/fleet/federated/coordinator.ts";
import type { Lead } from "../../src/fleet/federated/lead.ts";
import { serveByNats } from "../../src/fleet/federated/nats.ts";
import { type FleetNode, type NodeOptions, startNode } from "../../src/fleet/node/node.ts";
import { modelFiles } from "../../src/fleet/objects.ts";
import type { FederationDetail, JobTraffic, Nodes } from "../../src/page/api/types.ts";
import { type TrainConfigInput, trainConfigSchema } from "../../src/train/config.ts";
import { RUN_FILES } from "../../src/train/run/folder.ts";
import { run as train } from "../../src/train/run/run.ts";
import { BASE, type Box, chats, openBox, QUICK, writeBase } from "../support/box.ts";
import { NATS_SERVER, type NatsServer, startNats } from "../support/nats.ts";
import { bitsOf } from "../support/server-kills.ts";
import { slowTest } from "../support/slow.ts";

const JOB = { remat: { ...QUICK, steps: 20, save_every: 5, valid: "20%", dropout: 0.1 }, seed: 11 };

/** The rights that docs/fleet.md lists are enough. */
const RIGHTS = (() => {
  const page = readFileSync(join(import.meta.dir, "../../docs/fleet.md"), "utf8");
  const [, publish, subscribe] = /needs: publish ([^;]+); subscribe (.+?`)\. /.exec(page)!;
  const subjects = (text: string) => JSON.stringify([...text.matchAll(/`([^`]+)`/g)].map(([, subject]) => subject));
  return `{ publish: ${subjects(publish!)}, subscribe: ${subjects(subscribe!)} }`;
})();

const stepOf = (job: unknown): number => (job as { readonly remat: { readonly step: number } }).remat.step;

(NATS_SERVER === null ? describe.skip : describe)("a front and two nodes", () => {
  const folder = mkdtempSync(join(tmpdir(), "remat-fleet-"));
  const closers: (() => Promise<unknown>)[] = [];
  const nodes = new Map<string, FleetNode>();
  let nats: NatsServer;
  let url: string;
  let model: string;
  let box: Box;
  const home = join(folder, "front");
  const begin = async (name: string, more: Partial<NodeOptions> = {}): Promise<FleetNode> => {
    const node = await startNode({
      fleet: url,
      fleetLease: 1,
      home: join(folder, name),
      name,
      bases: [],
      memory: 1 << 30,
      parallel: 1,
      ...more,
    });
    closers.push(node.stop);
    nodes.set(name, node);
    return node;
  };

  /** Trains as a run says, in this process and undisturbed. */
  const alone = async (run: string): Promise<string> => {
    const config = JSON.parse(readFileSync(join(run, RUN_FILES.config), "utf8")) as TrainConfigInput;
    const output = `${run}-alone`;
    await train(trainConfigSchema.parse({ ...config, model, output, resume: false }));
    return output;
  };

  beforeAll(async () => {
    const config = join(folder, "nats.conf");
    writeFileSync(config, `authorization { users = [{ user: box, password: "a b", permissions: ${RIGHTS} }] }\n`);
    nats = await startNats(["-c", config]);
    url = nats.url.replace("//", "//box:a%20b@");
    closers.push(nats.close);
    model = writeBase(folder);
    box = await openBox({ home, model, fleet: url, fleetLease: 1 });
    closers.push(box.server.stop);
  });
  afterAll(async () => {
    for (const close of closers.reverse()) await close();
    rmSync(folder, { recursive: true, force: true });
  });

  test("a job runs on a node that fetches its base model, and is as one that trained on the front", async () => {
    await begin("one");
    const training_file = await box.upload(chats());
    const job = await box.create({ training_file, ...JOB });
    const done = await box.until(job.id);
    expect(done.error).toBeNull();
    expect(done.status).toBe("succeeded");
    const path = `/v1/fine_tuning/jobs/${job.id}`;
    const asked = await Promise.all(["report", "metrics", "config"].map((part) => box.ask(`${path}/${part}`)));
    expect(asked.map(({ status }) => status)).toEqual([200, 200, 200]);
    // What its node has fetched and sent is known when the fleet has forgotten the job, and is as much as its files have.
    const { traffic } = (await (await box.ask(`${path}/traffic`)).json()) as JobTraffic;
    const sizeOf = (file: string) => Bun.file(file).size;
    const bases = modelFiles(model).reduce((sum, { bytes }) => sum + bytes, 0);
    expect(traffic.bases).toEqual({ sent: 0, received: bases });
    expect(traffic.data).toEqual({ sent: 0, received: chats().length });
    expect(traffic.checkpoints!.sent).toBeGreaterThan(
      sizeOf(join(home, "runs", job.id, "checkpoints/step-15", RUN_FILES.adapter)),
    );
    expect(traffic.results!.sent).toBeGreaterThanOrEqual(sizeOf(join(home, "runs", job.id, RUN_FILES.adapter)));
    const ofNode = async () => ((await (await box.ask("/v1/nodes")).json()) as Nodes).data[0]!.traffic;
    while (!Bun.deepEquals(await ofNode(), traffic)) await Bun.sleep(20);
    const checkpoints = await box.client.fineTuning.jobs.checkpoints.list(job.id);
    expect(checkpoints.data.map(({ step_number }) => step_number)).toEqual([20, 15, 10]);
    const messages = [{ role: "user" as const, content: "Define king." }];
    const answer = await box.client.chat.completions.create({ model: done.fine_tuned_model!, messages });
    expect(answer.choices).toHaveLength(1);
    const run = join(home, "runs", job.id);
    expect(bitsOf(run)).toBe(bitsOf(await alone(run)));
  }, 120_000);

  test("rounds of a federation are told while it is led and afterwards, and forgotten when they are to be", async () => {
    const numbers = (round: number): RoundNumbers => ({
      round,
      nodes: ["a", "b"].slice(0, round).map((node, i) => ({
        node,
        examples: 10,
        share: 1 / Math.min(2, round),
        tokens: 100,
        loss: 3 - round / 10,
        heldOut: { loss: 2 + i, labelled: 5, metrics: {} },
        epsilon: null,
        seconds: 1,
        bytes: 400,
      })),
      heldOut: 4 - round,
      lost: null,
      change: 300,
      seconds: 2,
    });
    let closed: RoundNumbers[] = [numbers(1)];
    const run = "0123456789abcdef";
    const lead = {
      federation: { run, rounds: 2, localSteps: 5, model: { name: BASE } },
      parameters: 77,
      rules: { nodes: 2 },
      progress: (told: number): Progress => ({
        closed: closed.slice(told),
        round: closed.length + 1,
        joined: ["a", "b"],
        updates: closed.length === 2 ? [] : ["b"],
        evaluations: closed.length === 2 ? { a: { loss: 1.5, labelled: 5, metrics: {} }, b: null } : {},
      }),
      handle: () => new Uint8Array(0),
    } as unknown as Lead;
    const ask = async <T>(path: string, init?: RequestInit): Promise<T> => (await (await box.ask(path, init)).json()) as T;
    const until = async (isThere: (one: FederationDetail) => boolean): Promise<FederationDetail> => {
      for (;;) {
        const answer = await box.ask(`/v1/federations/${run}`);
        const found = answer.status === 200 ? ((await answer.json()) as FederationDetail) : null;
        if (found !== null && isThere(found)) return found;
        await Bun.sleep(10);
      }
    };
    const notes: string[] = [];
    const begun = async () => {
      const line = await serveByNats({ fleet: url }, "wards");
      await line.begin(lead, (text) => notes.push(text));
      return line;
    };
    let line = await begun();
    expect(await until(({ closed: over }) => over === 1)).toMatchObject({
      name: "wards",
      model: BASE,
      status: "running",
      rounds: 2,
      wanted: 2,
      nodes: ["a", "b"],
      updates: ["b"],
      valid_loss: 3,
      data: [{ round: 1, valid_loss: 3, bytes_received: 400, bytes_sent: 300, nodes: [{ id: "a", share: 1, valid_loss: 2 }] }],
    });
    expect((await box.ask(`/v1/federations/${run}`, { method: "DELETE" })).status).toBe(409);
    await line.close();
    await until(({ status }) => status === "away");
    // The coordinator starts again, and tells everything anew.
    line = await begun();
    closed = [...closed, numbers(2)];
    line.took({ type: "federated", rounds: 2, heldOut: 1.5, nodes: {} });
    await line.close();
    const done = await until(({ status }) => status === "succeeded");
    expect([done.valid_loss, ...done.data.map(({ round, nodes: taking }) => [round, taking.length])]).toEqual([
      1.5,
      [1, 1],
      [2, 2],
    ]);
    expect((await ask<FederationDetail>(`/v1/federations/${run}?after=1`)).data.map(({ bytes_sent }) => bytes_sent)).toEqual([
      600,
    ]);
    expect((await ask<{ data: { id: string }[] }>("/v1/federations")).data.map(({ id }) => id)).toEqual([run]);
    expect((await box.ask(`/v1/federations/${run}?after=x`)).status).toBe(400);
    expect((await box.ask(`/v1/federations/${run}`, { method: "DELETE" })).status).toBe(200);
    expect((await box.ask(`/v1/federations/${run}`)).status).toBe(404);
    expect(notes).toEqual([]);
  });

  slowTest(
    "a node that leaves gives its job back, another goes on, and a job is paused, resumed and cancelled",
    async () => {
      const one = nodes.get("one") ?? (await begin("one"));
      const training_file = await box.upload(chats());
      const long = { ...JOB, remat: { ...JOB.remat, steps: 150, gradient_accumulation: 4 } };
      const moved = await box.create({ training_file, ...long });
      await box.until(moved.id, (job) => stepOf(job) > 5);
      const two = await begin("two");
      await one.stop();
      await box.until(moved.id, (job) => stepOf(job) > 20);
      await box.ask(`/v1/fine_tuning/jobs/${moved.id}/pause`, { method: "POST" });
      const events = async () => JSON.stringify((await box.client.fineTuning.jobs.listEvents(moved.id, { limit: 100 })).data);
      while (!(await events()).includes("The job is paused")) await Bun.sleep(20);
      expect(await events()).toContain("Node two runs the job");
      await box.ask(`/v1/fine_tuning/jobs/${moved.id}/resume`, { method: "POST" });
      expect((await box.until(moved.id)).status).toBe("succeeded");
      const run = join(home, "runs", moved.id);
      expect(bitsOf(run)).toBe(bitsOf(await alone(run)));
      const cancelled = await box.create({ training_file, ...long });
      await box.until(cancelled.id, (job) => stepOf(job) > 1);
      await box.ask(`/v1/fine_tuning/jobs/${cancelled.id}/cancel`, { method: "POST" });
      const listed = async () =>
        ((await (await box.ask("/v1/nodes")).json()) as { data: { id: string; jobs: string[]; models: string[] }[] }).data;
      while ((await listed()).some(({ jobs }) => jobs.length > 0)) await Bun.sleep(20);
      expect((await listed()).map(({ id, models }) => [id, models])).toEqual([["two", [BASE]]]);
      await two.stop();
      expect(await listed()).toEqual([]);
    },
    60_000,
  );
});
