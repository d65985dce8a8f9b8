import { expect, test } from "bun:test";
import { fastestPeer, noiseOf, spreadOf, type SystemRuns } from "../../bench/compare-rows.ts";

const runs = (system: string, peer: boolean, rates: readonly number[]): SystemRuns => ({
  system,
  peer,
  runs: rates.map((tokensPerSecond) => ({ tokensPerSecond, stepCpuSeconds: 1, peakRss: 1e9, firstStepSeconds: 5 })),
});

test("the fastest peer is by medians, and none of ours", () => {
  const all = [runs("a", true, [100, 101, 500]), runs("b", true, [110, 110, 111]), runs("ours", false, [900, 900, 900])];
  expect(fastestPeer(all)!.system).toBe("b");
  expect(fastestPeer([all[2]!])).toBeNull();
});

test("figures are written of three rounds that hardly differ, and else it is said why not", () => {
  expect(spreadOf(runs("a", true, [90, 100, 120]))).toBeCloseTo(0.2, 12);
  expect(noiseOf([runs("a", true, [100, 101, 99]), runs("b", false, [200, 219, 200])])).toBeNull();
  expect(noiseOf([runs("a", true, [100, 101])])).toBe("a has 2 of at least 3 rounds");
  expect(noiseOf([runs("a", true, [100, 101, 99]), runs("b", false, [200, 260, 200])])).toBe(
    "rounds of b differ by 30 % from their median, more than 10 %: the machine is busy",
  );
});
