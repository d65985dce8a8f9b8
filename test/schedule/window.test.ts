import { describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import { planWindow, windowSizes, type WindowUse, windowWait } from "../../src/schedule/window.ts";

/** Random reads of a step: several at one command, some of the same bytes again soon or late. */
function randomUses(seed: number): WindowUse[] {
  const random = createRandom(seed, "window");
  const keys = Array.from({ length: 3 + random.below(20) }, (_, i) => ({ key: `w${i}`, bytes: 1 + random.below(5000) }));
  const uses: WindowUse[] = [];
  let at = 0;
  for (let i = 0; i < 60; i++) {
    at += random.below(3);
    const use = { ...keys[random.below(keys.length)]!, at };
    if (!uses.some((other) => other.at === at && other.key === use.key)) uses.push(use);
  }
  return uses;
}

describe("a window", () => {
  test("holds what a command reads when it reads it, whatever is loaded beside, in every order that the plan allows", () => {
    for (let seed = 0; seed < 200; seed++) {
      const uses = randomUses(seed);
      const { least, ample } = windowSizes(uses);
      for (const capacity of [least, ample, 2 * ample]) {
        const { loads, loadOf } = planWindow(uses, capacity)!;
        /** By byte: the load that it belongs to. */
        const ring = new Int32Array(capacity).fill(-1);
        let begun = 0;
        // As early as it may, each load overwrites its bytes at once.
        const advance = (at: number) => {
          for (; begun < loads.length && loads[begun]!.after < at; begun++)
            ring.fill(begun, loads[begun]!.offset, loads[begun]!.offset + loads[begun]!.bytes);
        };
        advance(0);
        uses.forEach(({ bytes, at, key }, use) => {
          advance(at);
          const load = loadOf[use]!;
          const { offset } = loads[load]!;
          expect(loads[load]!.key).toBe(key);
          expect(ring.subarray(offset, offset + bytes).every((owner) => owner === load)).toBe(true);
        });
        expect(loads.every(({ offset, bytes }) => offset % 64 === 0 && offset + bytes <= capacity)).toBe(true);
      }
    }
  });

  test("of everything loads each piece once; one that is too small for a command is none", () => {
    for (let seed = 0; seed < 50; seed++) {
      const uses = randomUses(seed);
      expect(planWindow(uses, windowSizes(uses).least - 64)).toBeNull();
      const sizes = new Map(uses.map(({ key, bytes }) => [key, bytes]));
      const all = [...sizes.values()].reduce((sum, bytes) => sum + Math.ceil(bytes / 64) * 64, 0);
      expect(planWindow(uses, all)!.bytes).toBe([...sizes.values()].reduce((sum, bytes) => sum + bytes, 0));
    }
  });

  test("makes a step wait for the first load, and then only as far as the disk is slower than the computation", () => {
    const uses = Array.from({ length: 10 }, (_, i): WindowUse => ({ key: `w${i}`, bytes: 6400, at: i }));
    const runs = uses.map((_, i) => ({ seconds: 1, from: i, to: i + 1 }));
    const plan = planWindow(uses, 2 * 6400)!;
    expect(windowWait(plan, uses, runs, 6400)).toBeCloseTo(1, 9);
    expect(windowWait(plan, uses, runs, 64000)).toBeCloseTo(0.1, 9);
    // Half as fast: every load takes two seconds, of which one is hidden.
    expect(windowWait(plan, uses, runs, 3200)).toBeCloseTo(2 + 9 * 1, 9);
    // With room for one alone nothing is hidden.
    expect(windowWait(planWindow(uses, 6400)!, uses, runs, 6400)).toBeCloseTo(10, 9);
  });
});
