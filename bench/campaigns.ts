import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { damage } from "./campaigns/damage.ts";
import { fullDisk } from "./campaigns/full-disk.ts";
import { kills, signals } from "./campaigns/interruptions.ts";
import { createWorld, type Tally, type World } from "./campaigns/world.ts";

/**
 * Disturbs the command line at random and counts what becomes of it: kills (train, merge, export gguf, generate), signals, damaged files, full
 * disks. What was interrupted and done again must be the same to the bit; a damaged file is refused or changes nothing.
 *
 *     bun bench/campaigns.ts                                       some minutes
 *     bun bench/campaigns.ts --kills 1 --damages 1 --signals 1 --levels 2
 *     bun bench/campaigns.ts --only kills --kills 200 --seed 7
 *
 * Exit code 1 when a bit was lost, or an error was not clear.
 */
const { values } = parseArgs({
  options: {
    only: { type: "string" },
    kills: { type: "string", default: "10" },
    damages: { type: "string", default: "10" },
    signals: { type: "string", default: "5" },
    levels: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
  },
});

const CAMPAIGNS: Readonly<Record<string, (world: World) => Promise<Tally | null>>> = {
  kills: (world) => kills(world, Number(values.kills)),
  signals: (world) => signals(world, Number(values.signals)),
  damage: (world) => damage(world, Number(values.damages)),
  "full disk": (world) => fullDisk(world, Number(values.levels)),
};

const asked = values.only?.split(",") ?? Object.keys(CAMPAIGNS);
for (const name of asked)
  if (!Object.hasOwn(CAMPAIGNS, name))
    throw new Error(`--only: expected some of ${Object.keys(CAMPAIGNS).join(", ")}; got ${name}`);
for (const key of ["kills", "damages", "signals", "levels", "seed"] as const)
  if (!/^\d+$/.test(values[key])) throw new Error(`--${key}: expected a number, got ${values[key]}`);

const folder = mkdtempSync(join(tmpdir(), "remat-campaigns-"));
let lost = 0;
try {
  const world = await createWorld(folder, Number(values.seed));
  for (const name of asked) {
    const tally = await CAMPAIGNS[name]!(world);
    if (tally === null) console.log(`${name}: skipped, for this needs the right to mount a tmpfs`);
    else tally.print(name);
    lost += tally?.lost.length ?? 0;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = lost > 0 ? 1 : 0;
