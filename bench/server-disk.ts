import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { chats, QUICK, writeBase } from "../test/support/box.ts";
import { bitsOf, startServerProcess } from "../test/support/server-kills.ts";

/**
 * Fills the disk of a home while a job trains, up to so many bytes at each level: the queue has to stand still with an event, and the job to go
 * on when there is room again, to the bits of one that nothing disturbed. Needs the right to mount a tmpfs.
 *
 *     bun bench/server-disk.ts --levels 10
 */
const { values } = parseArgs({ options: { levels: { type: "string", default: "10" } } });
const folder = mkdtempSync(join(tmpdir(), "remat-server-disk-"));
const disk = join(folder, "disk");
mkdirSync(disk);
const run = (...command: string[]) => Bun.spawnSync(command).exitCode === 0;
if (!run("mount", "-t", "tmpfs", "-o", "size=192m", "tmpfs", disk)) {
  console.log("skipped: this needs the right to mount a tmpfs");
  process.exit(0);
}
const JOB = { remat: { ...QUICK, steps: 60, save_every: 2, gradient_accumulation: 16 }, seed: 11 };
const filler = join(disk, "filler");

/** Leaves so many bytes free. */
function fill(left: number): void {
  const fd = openSync(filler, "w");
  const piece = Buffer.alloc(1 << 16);
  try {
    for (;;) {
      const { bavail, bsize } = statfsSync(disk);
      const more = Math.min(piece.length, bavail * bsize - left);
      if (more <= 0) return;
      writeSync(fd, piece, 0, more);
    }
  } catch {
    // It is full.
  } finally {
    closeSync(fd);
  }
}

let lost = 0;
try {
  const { box, child } = await startServerProcess(join(disk, "home"), writeBase(folder));
  const { fineTuning } = box.client;
  const training = await box.upload(chats());
  const runOf = (id: string) => join(disk, "home/runs", id);
  const create = async () => (await box.create({ training_file: training, ...JOB })).id;
  const whole = await create();
  await box.until(whole);
  const expected = bitsOf(runOf(whole));
  const levels = Number(values.levels);
  for (let level = 0; level < levels; level++) {
    const id = await create();
    await box.until(id, (job) => (job as unknown as { remat: { step: number } }).remat.step >= 2);
    const left = Math.round((level / levels) * 256) * 1024;
    fill(left);
    await Bun.sleep(3000);
    rmSync(filler);
    const job = await box.until(id);
    const told: string[] = [];
    for await (const { message } of fineTuning.jobs.listEvents(id, { limit: 1000 })) told.push(message);
    const halts = told.filter((message) => message.startsWith("The queue is paused")).length;
    const isSame = job.status === "succeeded" && bitsOf(runOf(id)) === expected;
    const steps = told.filter((message) => message.startsWith("Step ")).length;
    if (!isSame || steps !== JOB.remat.steps) lost++;
    console.log(
      `${left / 1024} KiB left: ${job.status}, ${halts} times paused, ${steps} steps told, ${isSame ? "the same bits" : `OTHER BITS ${JSON.stringify(job.error)}`}`,
    );
  }
  child.kill("SIGTERM");
  const code = await child.exited;
  if (code !== 0) console.log(`the server ended with ${code}`);
} finally {
  run("umount", disk);
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = lost > 0 ? 1 : 0;
