import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { remat, rematApart } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const root = join(import.meta.dir, "../..");
const main = join(root, "src/cli/main.ts");
const model = ["--model", join(root, "recipes/base/model"), "--method", "full", "--batch-size", "4"];
const train = (output: string, steps: number, ...flags: string[]) =>
  ["train", ...model, "--data", join(root, "recipes/devils-dictionary"), "--output", join(folder, output)].concat(
    ["--no-sample", "--eval-limit", "16", "--steps", String(steps)],
    flags,
  );

interface StepRecord {
  readonly type: string;
  readonly loss: number;
  readonly offload?: { readonly out: number; readonly in: number; readonly waited: number };
}

const records = (output: string): StepRecord[] =>
  readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as StepRecord);

const places = (name: string): string => {
  const path = join(folder, name);
  mkdirSync(path);
  return path;
};

describe("train --offload", () => {
  slowTest("the same losses; metrics say what was moved; nothing is left in either folder", async () => {
    const kept = await remat(train("kept", 2, "--no-gradient-checkpointing"));
    expect(kept).toMatchObject({ code: 0 });
    const { code, stderr } = await remat(train("auto", 2, "--no-gradient-checkpointing", "--offload", "auto"));
    expect({ code, stderr }).toMatchObject({ code: 0 });
    expect(stderr).toContain(`offload         a file in ${folder}`);
    expect(stderr).toMatch(/inputs and tapes leave memory \(\d+ MiB/);
    const peak = (text: string) => Number(/measured ([\d.]+) MiB/.exec(text)![1]);
    expect(peak(stderr)).toBeLessThan(0.75 * peak(kept.stderr));
    const [before, after] = [records("kept"), records("auto")];
    expect(after.map(({ type, loss }) => [type, loss])).toEqual(before.map(({ type, loss }) => [type, loss]));
    for (const { type, offload } of after) {
      if (type !== "step") continue;
      expect(offload!.out).toBeGreaterThan(20 * 2 ** 20);
      expect(offload!.in).toBe(offload!.out);
      expect(offload!.waited).toBeGreaterThanOrEqual(0);
    }
    expect(before.every(({ offload }) => offload === undefined)).toBe(true);
    expect(readdirSync(join(folder, "auto")).sort()).toEqual(readdirSync(join(folder, "kept")).sort());
    expect(readdirSync(folder).filter((name) => name.includes("offload"))).toEqual([]);
  });

  test("a killed process leaves nothing: its file had no name", async () => {
    const place = places("killed-place");
    const child = Bun.spawn(
      [process.execPath, main, ...train("killed", 500, "--no-gradient-checkpointing", "--offload", place)],
      {
        stdout: "ignore",
        stderr: "ignore",
      },
    );
    /** Bytes of the nameless files in the folder that the process has open. */
    const open = () =>
      readdirSync(`/proc/${child.pid}/fd`)
        .map((fd) => `/proc/${child.pid}/fd/${fd}`)
        .filter((path) => isIn(path, place))
        .map((path) => statSync(path).size);
    const metrics = join(folder, "killed", "metrics.jsonl");
    while (child.exitCode === null && !(existsSync(metrics) && readFileSync(metrics, "utf8").includes('"type":"step"')))
      await Bun.sleep(50);
    expect(open().length).toBe(1);
    expect(open()[0]!).toBeGreaterThan(20 * 2 ** 20);
    expect(readdirSync(place)).toEqual([]);
    child.kill("SIGKILL");
    await child.exited;
    expect(readdirSync(place)).toEqual([]);
  });

  test("no room for the file: one sentence, and the run folder holds no half of anything", async () => {
    const place = places("full-place");
    // Files of at most 12 MiB; a larger one is an error, not a signal.
    const command = ["bash", "-c", 'ulimit -f 12288; trap "" XFSZ; exec "$@"', "bash", process.execPath, main];
    const child = Bun.spawn([...command, ...train("full", 2, "--no-gradient-checkpointing", "--offload", place)], {
      stdout: "ignore",
      stderr: "pipe",
    });
    const stderr = await new Response(child.stderr).text();
    expect(await child.exited).toBe(2);
    expect(stderr).toMatch(
      /cannot write the offload file in .*full-place: the file would be larger than the file system or the process limit allows\n$/,
    );
    expect(readdirSync(place)).toEqual([]);
    expect(readdirSync(join(folder, "full")).filter((name) => /safetensors|tmp/.test(name))).toEqual([]);
  });

  test("a folder that does not exist is refused before anything is read into memory", async () => {
    const { code, stderr } = await remat(train("nowhere", 1, "--offload", "on"));
    expect(code).toBe(2);
    expect(stderr).toBe("remat: --offload takes off, auto, or a folder that exists; there is no folder on\n");
    expect(existsSync(join(folder, "nowhere"))).toBe(false);
  });
});

function isIn(link: string, place: string): boolean {
  try {
    return readlinkSync(link).startsWith(place);
  } catch {
    return false;
  }
}

describe("plan --offload", () => {
  interface Plan {
    readonly overhead: number;
    readonly outside: number;
    readonly memory: { readonly peak: number };
    readonly schedule: readonly string[];
    readonly offload: { readonly out: number; readonly in: number; readonly bandwidth: { readonly out: number } } | null;
    readonly curve: readonly { readonly overhead: number }[];
  }
  const plan = async (...flags: string[]): Promise<Plan> => {
    const { code, stdout, stderr } = await rematApart(["plan", ...model, "--memory", "270MiB", "--json", ...flags]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return JSON.parse(stdout) as Plan;
  };

  test("less overhead in the same memory, and what is moved", async () => {
    const [without, outside] = await Promise.all([plan(), plan("--offload", "auto")]);
    expect(without.offload).toBeNull();
    expect(without.overhead).toBeGreaterThan(0.05);
    expect(outside.overhead).toBeLessThan(without.overhead / 2);
    expect(outside.memory.peak).toBeLessThanOrEqual(270 * 2 ** 20);
    expect(outside.offload!.out).toBeGreaterThan(2 ** 20);
    expect(outside.offload!.in).toBe(outside.offload!.out);
    expect(outside.schedule.filter((text) => /^O[AT] /.test(text)).length).toBe(outside.outside);
    expect(Math.max(...outside.curve.map(({ overhead }) => overhead))).toBeLessThan(
      Math.max(...without.curve.map(({ overhead }) => overhead)),
    );
  });

  test("a table for people, and the transfers in the drawing", async () => {
    const svg = join(folder, "plan.svg");
    const { code, stdout } = await rematApart(["plan", ...model, "--memory", "270MiB", "--offload", "auto", "--svg", svg]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/offload, modelled bandwidth\n +out in a step +[\d.]+ MiB +954 MiB\/s\n +in /);
    expect(readFileSync(svg, "utf8")).toMatch(/copies out[\s\S]*fetches/);
  });

  test("a bare chain says how fast bytes leave; the answer has the steps that move them", async () => {
    const file = join(folder, "chain.json");
    const chain = { a: [4, 4, 4, 4, 4, 0], r: [20, 20, 20, 20, 20], uf: [5, 5, 5, 5, 5], ub: [9, 9, 9, 9, 9] };
    await Bun.write(file, JSON.stringify({ ...chain, offload: { out: 100, in: 100 } }));
    const { code, stdout } = await remat(["plan", "--chain", file, "--memory", "80,60", "--json"]);
    expect(code).toBe(0);
    for (const { time, peak, ops } of JSON.parse(stdout) as { time: number; peak: number; ops: string[] }[]) {
      expect(time).toBeLessThan(71);
      expect(peak).toBeLessThanOrEqual(80);
      expect(ops.some((op) => /^OT \d$/.test(op))).toBe(true);
      expect(ops.some((op) => /^IT \d$/.test(op))).toBe(true);
    }
  });
});
