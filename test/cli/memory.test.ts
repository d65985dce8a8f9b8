import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseMemory } from "../../src/train/memory/limit.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";
import { rematApart } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const recipes = join(import.meta.dir, "../../recipes");
const model = ["--model", join(recipes, "base/model"), "--method", "full", "--batch-size", "4", "--threads", "1"];

test("sizes, shares and auto", () => {
  const free = () => 1000;
  expect(["1.5GiB", "800MB", "2g", "4096", "50%", "auto"].map((text) => parseMemory(text, free))).toEqual([
    1.5 * 2 ** 30,
    8e8,
    2 ** 31,
    4096,
    500,
    800,
  ]);
  for (const text of ["", "much", "-1GB", "0", "5 apples", "120%"])
    expect(userError(() => parseMemory(text, free))).toMatch(/--memory takes a size/);
});

describe("train --memory", () => {
  const train = (memory: string, output: string, ...flags: string[]) =>
    rematApart(
      ["train", ...model, "--data", join(recipes, "devils-dictionary"), "--output", join(folder, output)].concat(
        ["--steps", "2", "--no-sample", "--eval-limit", "24", "--memory", memory],
        flags,
      ),
    );
  const losses = (output: string) =>
    readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => (JSON.parse(line) as { loss: number }).loss);

  // limit.test.ts has such a run in the plain suite, too.
  slowTest("the process stays within the limit + 10 %, with the same losses whatever the limit", async () => {
    const limits = [330, 450];
    for (const limit of limits) {
      const { code, stderr } = await train(`${limit}MiB`, `limit-${limit}`);
      expect({ code, stderr }).toMatchObject({ code: 0 });
      const [, value, unit] = /; process ([\d.]+) (\w+)/.exec(stderr)!;
      expect(parseMemory(`${value}${unit}`)).toBeLessThan(1.1 * limit * 2 ** 20);
    }
    expect(losses(`limit-${limits[0]}`)).toEqual(losses(`limit-${limits[1]}`));
  });

  slowTest("a limit that nothing fits names the least one and what lowers it; that one works", async () => {
    // With weights in memory: test/library/stream.test.ts has runs whose weights are in files.
    const resident = ["--stream", "off"];
    // A process that has tokenized the data itself is some MiB larger than one that finds the tokens.
    await train("10MiB", "first", ...resident);
    const { code, stderr } = await train("200MiB", "little", ...resident);
    expect(code).toBe(2);
    const [, least] = /not enough: the least that works is (\d+) MiB/.exec(stderr)!;
    // The least limit must work whatever else the machine does: again and again.
    for (const run of [1, 2, 3]) expect(await train(`${least}MiB`, `least-${run}`, ...resident)).toMatchObject({ code: 0 });
    expect(stderr).toMatch(/--sequence-length.*--batch-size.*--method lora.*--quantize/);
    // Less than the process itself takes is answered in the same way: with the least that works.
    const [, sameLeast] = /not enough: the least that works is (\d+) MiB/.exec(
      (await train("10MiB", "less", ...resident)).stderr,
    )!;
    expect(Math.abs(Number(sameLeast) - Number(least))).toBeLessThanOrEqual(8);
    expect((await train("1GiB", "off", "--no-gradient-checkpointing")).stderr).toMatch(/--memory needs gradient checkpointing/);
  });
});

describe("plan", () => {
  interface Plan {
    readonly memory: { readonly peak: number };
    readonly overhead: number;
    readonly withoutCheckpointing: number;
    readonly schedule: readonly string[];
    readonly curve: readonly { readonly memory: number; readonly overhead: number }[];
  }
  const plan = async (...flags: string[]): Promise<Plan> => {
    const { code, stdout, stderr } = await rematApart(["plan", ...model, "--json", ...flags]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    return JSON.parse(stdout) as Plan;
  };

  test("less memory costs time; the curve falls from the least memory to no overhead", async () => {
    const plans = await Promise.all(["320MiB", "500MiB"].map((memory) => plan("--memory", memory)));
    expect(plans[0]!.memory.peak).toBeLessThanOrEqual(320 * 2 ** 20);
    expect(plans[0]!.overhead).toBeGreaterThan(plans[1]!.overhead);
    const { curve } = plans[1]!;
    expect(curve.at(-1)!.overhead).toBeLessThan(0.001);
    for (let i = 1; i < curve.length; i++) {
      expect(curve[i]!.memory).toBeGreaterThan(curve[i - 1]!.memory);
      // Equal where the difference of two times is lost when 1 is taken off.
      expect(curve[i]!.overhead).toBeLessThanOrEqual(curve[i - 1]!.overhead);
    }
    expect((await plan("--no-gradient-checkpointing")).overhead).toBeLessThan(0.001);
  });

  test("a table for people, and a drawing", async () => {
    const svg = join(folder, "plan.svg");
    const { code, stdout } = await rematApart(["plan", ...model, "--memory", "330MiB", "--svg", svg]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/block +7 /);
    expect(stdout).toMatch(/schedule \(\d+ steps\)\n +F/);
    expect(readFileSync(svg, "utf8")).toMatch(/^<svg[\s\S]*Memory of one step[\s\S]*<\/svg>\n$/);
  });
});
