import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../src/base/random.ts";
import { killServers, VICTIMS } from "../test/support/server-kills.ts";

/**
 * Kills the processes of `remat serve --home` at random instants: the one that trains, the server, or both. Each job must have the same bits as
 * one that nothing disturbed, and none may be lost or doubled.
 *
 *     bun bench/server-kills.ts --kills 200 --seed 7
 *
 * Exit code 1 when anything was lost.
 */
const { values } = parseArgs({ options: { kills: { type: "string", default: "20" }, seed: { type: "string", default: "1" } } });
const seed = Number(values.seed);
const random = createRandom(seed, "victims");
const victims = Array.from({ length: Number(values.kills) }, () => VICTIMS[random.below(VICTIMS.length)]!);
const folder = mkdtempSync(join(tmpdir(), "remat-server-kills-"));
try {
  const { jobs, kills, problems } = await killServers(folder, victims, seed);
  console.log(
    `${jobs} jobs; killed: ${Object.entries(kills)
      .map(([victim, count]) => `${count} times the ${victim}`)
      .join(", ")}`,
  );
  for (const problem of problems) console.log(`lost: ${problem}`);
  process.exitCode = problems.length > 0 ? 1 : 0;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
