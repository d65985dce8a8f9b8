import { expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkRunFolder, prepareRunFolder, RUN_FILES } from "../../src/train/run/folder.ts";
import { LOCK_FILE, lockRun } from "../../src/train/run/lock.ts";
import { filesIn, temporaryFolder, userError } from "../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const module = join(import.meta.dir, "../../src/train/run/lock.ts");

/** A process that locks a folder, says so, and sleeps. */
async function holder(run: string) {
  const script = `const { lockRun } = await import(${JSON.stringify(module)}); lockRun(${JSON.stringify(run)}, "x"); console.log("locked"); setInterval(() => {}, 1000);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "inherit" });
  await child.stdout.getReader().read();
  return child;
}

test("a run folder belongs to one process at a time; a killed one leaves it free", async () => {
  const run = join(folder, "run");
  mkdirSync(run);
  writeFileSync(join(run, RUN_FILES.config), "{}");
  const child = await holder(run);
  const inUse = `--output run: another run (process ${child.pid}) is at work in this folder`;
  expect(userError(() => lockRun(run, "run"))).toStartWith(inUse);
  for (const mode of [
    { overwrite: true, resume: false },
    { overwrite: false, resume: true },
  ])
    expect(userError(() => checkRunFolder(run, mode))).toContain("is at work in this folder");
  expect(userError(() => prepareRunFolder(run, false))).toContain("is at work in this folder");
  expect(existsSync(join(run, RUN_FILES.config))).toBe(true);
  child.kill("SIGKILL");
  await child.exited;
  expect(existsSync(join(run, LOCK_FILE))).toBe(true);
  checkRunFolder(run, { overwrite: true, resume: false });
  const { lock } = prepareRunFolder(run, false);
  expect(readFileSync(join(run, LOCK_FILE), "utf8")).toBe(`${process.pid}\n`);
  expect(userError(() => lockRun(run, "run"))).toContain(`process ${process.pid}`);
  lock.release();
  expect(filesIn(run)).toEqual([]);
  lockRun(run, "run").release();
});

test("the lock of a run that was killed before its first file is no reason to refuse the folder", () => {
  const run = join(folder, "killed");
  mkdirSync(run);
  writeFileSync(join(run, LOCK_FILE), "99999999\n");
  checkRunFolder(run, { overwrite: false, resume: false });
});
