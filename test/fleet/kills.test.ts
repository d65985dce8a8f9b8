import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { killFleet } from "../support/fleet-kills.ts";
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
