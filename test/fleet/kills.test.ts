import { afterAll, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killFleet } from "../support/fleet-kills.ts";
import { CAN_HAVE_HOSTS } from "../support/hosts.ts";
import { NATS_SERVER } from "../support/nats.ts";
import { slowTest } from "../support/slow.ts";

const folder = mkdtempSync(join(tmpdir(), "remat-fleet-kills-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

(NATS_SERVER === null ? test.skip : slowTest)(
  "a node, the front and NATS are killed, and a node is cut off: every job has the bits of an undisturbed one, once",
  async () => {
    const harms = ["node", "nats", "front", "partition"] as const;
    const { problems, jobs } = await killFleet(folder, { nodes: 2, jobs: 1, harms, seed: 3, steps: 80 });
    expect(problems).toEqual([]);
    expect(jobs).toBeGreaterThanOrEqual(1);
  },
  300_000,
);

(NATS_SERVER === null || !CAN_HAVE_HOSTS ? test.skip : slowTest)(
  "the link of a node that runs a job is cut for longer than its lease: another one ends the job, and what the node does late counts for nothing",
  async () => {
    const own = join(folder, "hosts");
    mkdirSync(own);
    const { problems, fenced, attempts } = await killFleet(own, {
      nodes: 2,
      jobs: 1,
      harms: ["partition"],
      seed: 5,
      steps: 50,
      hosts: true,
    });
    expect(problems).toEqual([]);
    expect(fenced).toBeGreaterThanOrEqual(1);
    expect(attempts).toBeGreaterThanOrEqual(2);
  },
  300_000,
);
