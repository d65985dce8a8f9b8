import { expect, test } from "bun:test";
import { mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { temporaryPath } from "../../src/base/files/drafts.ts";
import { exportGguf } from "../../src/index.ts";
import { writeTextAtomic } from "../../src/base/files/files.ts";
import { temporaryFolder } from "../hf/temp.ts";

const folder = temporaryFolder();
const filesIn = (path: string) => readdirSync(path).sort();

/** Numbers of processes that are no more, and the name of this system. */
const [dead, gone] = [Bun.spawnSync(["true"]).pid, Bun.spawnSync(["true"]).pid];
const here = /-([0-9a-f]{8})\.tmp$/.exec(temporaryPath(join(folder, "probe")))![1]!;
const elsewhere = "0123abcd";

/** Leaves a folder with a file, an hour old. */
function leave(place: string, entry: string, minutes = 60): string {
  const left = join(place, entry);
  mkdirSync(left, { recursive: true });
  writeFileSync(join(left, "part"), "");
  const time = Date.now() / 1000 - 60 * minutes;
  utimesSync(join(left, "part"), time, time);
  utimesSync(left, time, time);
  return entry;
}

test("a draft has the process and the system in its name, and nothing of an earlier one of that name in it", () => {
  const place = join(folder, "own");
  const draft = temporaryPath(join(place, "x"));
  expect(draft).toBe(join(place, `.x.${process.pid}-${here}.tmp`));
  leave(place, basename(draft));
  expect(temporaryPath(join(place, "x"))).toBe(draft);
  expect(filesIn(place)).toEqual([]);
});

test("what a process of this system left that was killed is removed by whatever is written there next, fresh or old", () => {
  const place = join(folder, "killed");
  leave(place, `.x.${dead}-${here}.tmp`, 0);
  leave(place, `.other.name.${dead}-${here}.tmp`, 0);
  writeFileSync(join(place, `.model.safetensors.${dead}-${here}.tmp`), "half");
  const living = leave(place, `.x.${process.ppid}-${here}.tmp`);
  writeTextAtomic(join(place, "y"), "whole");
  expect(filesIn(place)).toEqual([living, "y"].sort());
});

test("of other systems, and of older versions, only old drafts of the same file are", () => {
  const place = join(folder, "others");
  const kept = [
    leave(place, `.x.${dead}-${elsewhere}.tmp`, 0),
    leave(place, `.y.${dead}-${elsewhere}.tmp`),
    leave(place, `.y.${dead}.tmp`),
    leave(place, `.x.${process.ppid}.tmp`),
  ];
  leave(place, `.x.${gone}-${elsewhere}.tmp`);
  leave(place, `.x.${gone}.tmp`);
  temporaryPath(join(place, "x"));
  expect(filesIn(place)).toEqual(kept.sort());
});

test("what is not ours stays", () => {
  const place = join(folder, "foreign");
  const names = [
    ".tmp",
    ".x.tmp",
    "x.1.tmp",
    `x.${dead}-${here}.tmp`,
    `.x.${dead}-${here}.tmp.bak`,
    `.x.${dead}-${here}0.tmp`,
    ".x.-1.tmp",
  ];
  for (const name of names) leave(place, name);
  temporaryPath(join(place, "x"));
  expect(filesIn(place)).toEqual([...names].sort());
});

test("a process that was killed while it wrote leaves a draft, which the next export into that folder removes", async () => {
  const place = join(folder, "exports");
  mkdirSync(place);
  const root = join(import.meta.dir, "../..");
  const script = `
    import { openAtomic } from ${JSON.stringify(join(root, "src/base/files/files.ts"))};
    openAtomic(process.argv[1]).write(new Uint8Array(1000));
    process.kill(process.pid, "SIGKILL");`;
  const { signalCode, pid } = Bun.spawnSync([process.execPath, "-e", script, join(place, "model-q8_0.gguf")]);
  expect(signalCode).toBe("SIGKILL");
  expect(filesIn(place)).toEqual([`.model-q8_0.gguf.${pid}-${here}.tmp`]);
  const { out, modelfile } = await exportGguf({
    model: join(root, "recipes/base/model"),
    out: join(place, "model-f16.gguf"),
    type: "f16",
  });
  expect(filesIn(place)).toEqual([basename(modelfile), basename(out)].sort());
});
