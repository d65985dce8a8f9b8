import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import type { RunEvent } from "../../src/train/events.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const MIB = 2 ** 20;

// The high-water mark of the process covers start-up, planning, evaluations, checkpoints, samples and the export.
test.each([
  ["lora", 215, ["--no-packing", "--batch-size", "2"]],
  ["full", 240, []],
] as const)("%s: 200 steps with a limit of %d MiB never take a tenth more", async (method, limit, flags) => {
  const { code, stdout, stderr } = await remat([
    ..."train --model recipes/base/model --data recipes/devils-dictionary --sequence-length 128 --truncate --steps 200".split(
      " ",
    ),
    ..."--eval-every 50 --eval-limit 512 --save-every 50 --json --threads 2".split(" "),
    "--method",
    method,
    "--memory",
    `${limit}MiB`,
    "--output",
    join(folder, method),
    ...flags,
  ]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const events = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as RunEvent);
  expect(events.filter(({ type }) => type === "step").length).toBe(200);
  expect(events.filter(({ type }) => type === "checkpoint").length).toBe(4);
  const done = events.find((event) => event.type === "done")!;
  expect(done.processPeak / MIB).toBeLessThan(1.1 * limit);
});
