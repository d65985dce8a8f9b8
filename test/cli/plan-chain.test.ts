import { describe, expect, setDefaultTimeout, spyOn, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { EXIT_INFEASIBLE, planChain } from "../../src/cli/verbs/plan/plan-chain.ts";
import { UserError } from "../../src/base/errors.ts";
import { parseChain } from "../../src/schedule/chain.ts";
import { parseSchedule } from "../../src/schedule/ops.ts";
import { simulate } from "../../src/schedule/simulate.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { golden, makeRandom, randomChain } from "../schedule/chains.ts";
import { remat } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const write = (name: string, text: string) => {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
};

/** Exit status and what was printed. */
function plan(file: string, memory: string, json = true): { code: number; text: string } {
  const written = spyOn(process.stdout, "write").mockImplementation(() => true);
  try {
    const code = planChain(file, memory, json);
    return {
      code,
      text: written.mock.calls
        .map((call) => String(call[0]))
        .join("")
        .trimEnd(),
    };
  } finally {
    written.mockRestore();
  }
}

const { chain, limits, min_memory } = golden.cases.find(({ id }) => id === "np-gap-lm")!;
const file = write("chain.json", JSON.stringify(chain));

describe("remat plan --chain", () => {
  test("one limit: an object whose steps give the time and peak that it states; exit status 0", () => {
    const { code, text } = plan(file, "63");
    const answer = JSON.parse(text);
    expect(code).toBe(0);
    expect(Object.keys(answer)).toEqual(["feasible", "time", "peak", "minimum_memory", "ops"]);
    const { time, peak } = simulate(chain, parseSchedule(answer.ops));
    expect([answer.feasible, answer.time, answer.peak, answer.minimum_memory]).toEqual([true, time, peak, min_memory]);
    expect(time).toBeCloseTo(76.9, 6);
    expect(peak).toBeLessThanOrEqual(63);
  });

  test("several limits: an array in their order; exit status 3 when one of them is too low", () => {
    const feasible = limits.filter(({ opt_time }) => opt_time !== null).map(({ M }) => M);
    const some = plan(file, feasible.toReversed().join(","));
    expect(some.code).toBe(0);
    const peaks: number[] = JSON.parse(some.text).map(({ peak }: { peak: number }) => peak);
    feasible.toReversed().forEach((limit, i) => expect(peaks[i]!).toBeLessThanOrEqual(limit));

    const mixed = plan(file, "63, 28");
    expect(mixed.code).toBe(EXIT_INFEASIBLE);
    const answers = JSON.parse(mixed.text);
    expect(answers.map((answer: { feasible: boolean }) => answer.feasible)).toEqual([true, false]);
    expect(answers[1]).toEqual({ feasible: false, minimum_memory: min_memory });
    // One limit is an object, not an array.
    expect(JSON.parse(plan(file, "28").text)).toEqual({ feasible: false, minimum_memory: min_memory });
  });

  test("as text: time, overhead, peak and steps, or the least memory", () => {
    expect(plan(file, "64", false).text).toContain("memory 64: time 76.7 (0.0 % over the step without recompute), peak 64");
    expect(plan(file, "10", false).text).toBe("memory 10: no schedule fits; the least memory is 29");
  });

  test("sizes in fractions, far apart or beyond whole numbers: the stated least memory works, and no peak exceeds its limit", () => {
    const random = makeRandom(4);
    for (const factor of [0.37, 1e-9, 1e9, 1e200, 1e-200]) {
      for (let i = 0; i < 12; i++) {
        const whole = randomChain(random, random.whole(1, 5));
        const times = (sizes: readonly number[]) => sizes.map((size) => size * factor);
        const { a, g, r, of, ob, ot, w } = whole;
        const scaled = {
          n: whole.n,
          uf: whole.uf,
          ub: whole.ub,
          frozen: whole.frozen,
          a: times(a),
          g: times(g),
          r: times(r),
          of: times(of),
          ob: times(ob),
          ot: times(ot),
          w: times(w),
          ...(i % 3 === 0 && { offload: { out: 2, in: 3 } }),
        };
        const path = write("scaled.json", JSON.stringify(scaled));
        const least = (JSON.parse(plan(path, "0").text) as { minimum_memory: number }).minimum_memory;
        for (const limit of [least, 1.2 * least]) {
          const { code, text } = plan(path, String(limit));
          const { peak, ops } = JSON.parse(text) as { peak: number; ops: string[] };
          expect(code).toBe(0);
          expect(peak).toBeLessThanOrEqual(limit);
          expect(simulate(parseChain(scaled), parseSchedule(ops)).peak).toBe(peak);
        }
      }
    }
    // The tape of a frozen segment is never made.
    const far = write("far.json", JSON.stringify({ a: [4, 2, 3], r: [1e300, 3], uf: [1, 3], ub: [5, 6], frozen: 1 }));
    expect(plan(far, "1000").code).toBe(0);
  });

  test("bad input is a UserError that names the place", () => {
    const bad: [string, string, string][] = [
      [file, "1GB", "--memory: expected a number of bytes"],
      [file, "5,,6", "--memory"],
      [file, "-1", "--memory"],
      [join(folder, "absent.json"), "5", "--chain: cannot read"],
      [write("text.json", "{"), "5", "is not JSON"],
      [write("list.json", "[]"), "5", "is not a chain: the chain must be an object"],
      [write("short.json", JSON.stringify({ ...chain, r: [1] })), "5", "r must have 5 entries"],
      [write("frozen.json", JSON.stringify({ ...chain, frozen: 5 })), "5", "nothing would be trained"],
      [write("size.json", JSON.stringify({ ...chain, a: [...chain.a.slice(1), "x"] })), "5", "a[5] must be a finite number"],
    ];
    for (const [path, memory, message] of bad) {
      expect(() => plan(path, memory)).toThrow(UserError);
      expect(() => plan(path, memory)).toThrow(message);
    }
  });

  test("as a command: the answer alone on stdout, exit status 0, 3 when a limit is too low, 2 on bad input", async () => {
    const good = await remat(["plan", "--chain", file, "--memory", "63,64", "--json"]);
    expect(good.stderr).toBe("");
    expect(good.code).toBe(0);
    expect(JSON.parse(good.stdout).map(({ feasible }: { feasible: boolean }) => feasible)).toEqual([true, true]);
    const low = await remat(["plan", "--chain", file, "--memory", "28", "--json"]);
    expect(low.code).toBe(3);
    expect(JSON.parse(low.stdout)).toEqual({ feasible: false, minimum_memory: 29 });
    const bad = await remat(["plan", "--chain", join(folder, "absent.json"), "--memory", "28"]);
    expect(bad.code).toBe(2);
    expect(bad.stderr).toContain("--chain: cannot read");
  });
});
