import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../src/base/random.ts";
import { type Harm, killFleet } from "../test/support/fleet-kills.ts";

/**
 * Kills nodes, the front and the NATS server of a fleet at random instants, and holds nodes up for longer than their lease. Each job must have the same bits as
 * one that nothing disturbed, and none may be lost or run to its end twice.
 *
 *     bun bench/fleet-kills.ts --nodes 4 --jobs 12 --kills 40 --seed 7
 *
 * Exit code 1 when anything was lost.
 */
const { values } = parseArgs({
  options: {
    nodes: { type: "string", default: "4" },
    jobs: { type: "string", default: "12" },
    kills: { type: "string", default: "40" },
    steps: { type: "string", default: "150" },
    seed: { type: "string", default: "1" },
  },
});
const seed = Number(values.seed);
const random = createRandom(seed, "harms");
/** A node is the most likely to die, since a fleet has most of them. */
const CHOICES: readonly Harm[] = ["node", "node", "node", "front", "nats", "partition"];
const harms = Array.from({ length: Number(values.kills) }, () => CHOICES[random.below(CHOICES.length)]!);
const folder = mkdtempSync(join(tmpdir(), "remat-fleet-kills-"));
try {
  const report = await killFleet(folder, {
    nodes: Number(values.nodes),
    jobs: Number(values.jobs),
    steps: Number(values.steps),
    harms,
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
