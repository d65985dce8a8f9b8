/**
 * Models larger than memory: one training step of published shapes with random weights, in a process of its own, whose peak (VmHWM) is held
 * against the plan's and against a limit, and whose time against that of its programs.
 *
 *     bun bench/large.ts                         what fits the disk
 *     bun bench/large.ts 7b-nf4 0.5b-small       some cases
 *     bun bench/large.ts 7b-nf4 --cgroup         once more in a control group of 10 % more than the peak, where one can be made
 *     bun bench/large.ts 1.5b-bf16 --read 300e6  in such a group that reads so many bytes a second of the disk
 *
 * Models are made in `--folder` (default: the system's folder for temporary files) and removed again; --keep leaves them.
 */
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/base/bytes.ts";
import { CASES, type LargeCase } from "./large/cases.ts";
import { type Group, inGroup, makeGroup } from "./large/cgroup.ts";
import type { LargeResult } from "./large/step.ts";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    folder: { type: "string", default: tmpdir() },
    keep: { type: "boolean", default: false },
    cgroup: { type: "boolean", default: false },
    read: { type: "string", multiple: true, default: [] },
    threads: { type: "string" },
  },
});

const unknown = positionals.filter((name) => !Object.hasOwn(CASES, name));
if (unknown.length > 0) {
  console.log(`no case is called ${unknown.join(", ")}; there are ${Object.keys(CASES).join(", ")}`);
  process.exit(2);
}
const names = (positionals.length > 0 ? positionals : Object.keys(CASES)) as (keyof typeof CASES)[];
let failed = 0;

for (const name of names) {
  const one: LargeCase = CASES[name];
  const root = fs.mkdtempSync(join(flags.folder, "remat-large-"));
  try {
    const { bavail, bsize } = fs.statfsSync(root);
    if (bavail * bsize < one.diskBytes * 1.05) {
      console.log(
        `${name}: passed over, it needs ${formatBytes(one.diskBytes)} of disk and ${formatBytes(bavail * bsize)} are free`,
      );
      continue;
    }
    const free = await run(name, root, null);
    report(name, one, free);
    const rates = [...(flags.cgroup ? [null] : []), ...flags.read.map(Number)];
    for (const rate of rates) {
      const read = rate === null ? null : { folder: root, rate };
      const group = makeGroup({ memory: Math.round(1.1 * free.peak), read });
      if (group === null) {
        console.log(`${name}: no control group can be made here`);
        break;
      }
      const limited = await run(name, root, group).finally(() => group.remove());
      console.log(
        `${name}: ends within ${formatBytes(1.1 * free.peak)}, page cache included, after ${limited.seconds.toFixed(1)} s`,
      );
      if (rate !== null) reportRate(rate, limited);
    }
  } finally {
    if (!flags.keep) fs.rmSync(root, { recursive: true });
  }
}
process.exitCode = failed > 0 ? 1 : 0;

/** One step in a process of its own. */
async function run(name: string, root: string, group: Group | null): Promise<LargeResult> {
  const out = join(root, "result.json");
  const command = [
    process.execPath,
    join(import.meta.dir, "large/step.ts"),
    name,
    root,
    out,
    ...(flags.threads ? [flags.threads] : []),
  ];
  const child = Bun.spawn(group ? inGroup(group, command) : command, {
    env: { ...process.env, REMAT_CACHE: join(root, "cache") },
    stdout: "inherit",
    stderr: "inherit",
  });
  if ((await child.exited) !== 0) throw new Error(`${name} ended with ${child.signalCode ?? child.exitCode}`);
  return JSON.parse(fs.readFileSync(out, "utf8")) as LargeResult;
}

/** The disk is not to cost more than what it or the processor takes alone, whichever is slower. */
function reportRate(rate: number, { seconds, programs, read }: LargeResult): void {
  const least = Math.max(programs, read / rate);
  const holds = seconds <= 1.15 * least;
  if (!holds) failed++;
  console.log(
    `  ${holds ? "ok  " : "MISS"} at ${formatBytes(rate)} a second: ${(seconds / least).toFixed(3)} of the slower of computing (${programs.toFixed(1)} s) and reading (${(read / rate).toFixed(1)} s)`,
  );
}

function report(name: string, { limit, stateBytes }: LargeCase, result: LargeResult): void {
  const { peak, predicted, seconds, programs, waited, read, written, counted, mappedFiles } = result;
  const off = peak / predicted - 1;
  const checks: readonly (readonly [string, boolean])[] = [
    [`peak ${formatBytes(peak)} (limit ${formatBytes(limit)})`, peak <= limit],
    // What Bun itself takes differs by some 20 MiB from start to start; the forecast has room for what a run does besides its steps.
    [
      `predicted ${formatBytes(predicted)}, ${(100 * off).toFixed(1)} % off`,
      off <= Math.max(0.02, (30 * 2 ** 20) / peak) && off >= -Math.max(0.02, (45 * 2 ** 20) / predicted),
    ],
    [
      `step ${seconds.toFixed(1)} s, ${(seconds / programs).toFixed(3)} of its programs (waited ${waited.toFixed(1)} s)`,
      seconds <= 1.1 * programs,
    ],
    ...(stateBytes === undefined
      ? []
      : [
          [
            `stash, workspace and adapter state ${formatBytes(counted)} (limit ${formatBytes(stateBytes)})`,
            counted <= stateBytes,
          ] as const,
        ]),
  ];
  console.log(
    `${name}: reads ${formatBytes(read)}, writes ${formatBytes(written)}; mapped files, in the peak, ${formatBytes(mappedFiles)}`,
  );
  for (const [text, holds] of checks) {
    console.log(`  ${holds ? "ok  " : "MISS"} ${text}`);
    if (!holds) failed++;
  }
}
