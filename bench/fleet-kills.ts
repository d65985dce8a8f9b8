import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../src/base/random.ts";
import { type Harm, HARMS, killFleet } from "../test/support/fleet-kills.ts";

/**
 * Kills nodes, the front and the NATS server of a fleet at random instants, and holds nodes up for longer than their lease. Each job must have the same bits as
 * one that nothing disturbed, and none may be lost or run to its end twice.
 *
 *     bun bench/fleet-kills.ts --nodes 4 --jobs 12 --kills 40 --seed 7
 *     bun bench/fleet-kills.ts --nodes 3 --jobs 3 --harms partition,partition --partition-seconds 60 --hosts
 *
 * With `--hosts` each node is in a network namespace of its own, which needs root, and partitions cut the link of a node that runs a job.
 *
 * Exit code 1 when anything was lost.
 */
const { values } = parseArgs({
  options: {
    nodes: { type: "string", default: "4" },
    jobs: { type: "string", default: "12" },
    kills: { type: "string", default: "40" },
    harms: { type: "string" },
    "partition-seconds": { type: "string" },
    hosts: { type: "boolean", default: false },
    steps: { type: "string", default: "150" },
    seed: { type: "string", default: "1" },
  },
});

function harmOf(name: string): Harm {
  const harm = HARMS.find((each) => each === name);
  if (harm === undefined) throw new Error(`--harms: expected some of ${HARMS.join(", ")}, got ${name}`);
  return harm;
}

const seed = Number(values.seed);
const random = createRandom(seed, "harms");
/** A node is the most likely to die, since a fleet has most of them. */
const CHOICES: readonly Harm[] = ["node", "node", "node", "front", "nats", "partition"];
const drawn = Array.from({ length: Number(values.kills) }, () => CHOICES[random.below(CHOICES.length)]!);
const harms = values.harms === undefined ? drawn : values.harms.split(",").map(harmOf);
const seconds = values["partition-seconds"];
const folder = mkdtempSync(join(tmpdir(), "remat-fleet-kills-"));
try {
  const report = await killFleet(folder, {
    nodes: Number(values.nodes),
    jobs: Number(values.jobs),
    steps: Number(values.steps),
    harms,
    hosts: values.hosts,
    ...(seconds !== undefined && { partitionMs: 1000 * Number(seconds) }),
    seed,
    onMessage: (text) => console.log(text),
  });
  const done = Object.entries(report.harms).map(([harm, count]) => `${count} times the ${harm}`);
  console.log(
    `${report.jobs} jobs in ${report.attempts} attempts and ${report.seconds.toFixed(0)} s; harmed: ${done.join(", ")}`,
  );
  console.log(`attempts that were fenced while they were at work: ${report.fenced}`);
  for (const problem of report.problems) console.log(`lost: ${problem}`);
  process.exitCode = report.problems.length > 0 ? 1 : 0;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
