import { expect, test } from "bun:test";
import { outcomesOf } from "../../bench/compare-promises.ts";
import { fastestPeer, quietOf, spreadOf, type SystemRuns } from "../../bench/compare-rows.ts";

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
  const [peer, calm, busy] = [
    runs("a", true, [100, 101, 99]),
    runs("b", false, [200, 219, 200]),
    runs("c", false, [200, 260, 200]),
  ];
  expect(quietOf([peer, calm])).toEqual({ rows: [peer, calm], notes: [] });
  expect(quietOf([runs("a", true, [100, 101])])).toEqual({ rows: [], notes: ["a has 2 of at least 3 rounds"] });
  const note = (system: string) => `rounds of ${system} differ by 30 % from their median, more than 10 %: the machine is busy`;
  expect(quietOf([peer, calm, busy])).toEqual({ rows: [peer, calm], notes: [note("c")] });
  expect(quietOf([{ ...busy, peer: true }, calm])).toEqual({ rows: [], notes: [note("c")] });
});

test("ratios of medians are held against what is promised of a shape, of systems that ran", () => {
  const at = { shape: "qwen2.5-0.5b", tokens: 512, layers: null };
  const peer = runs("pytorch-bf16-none", true, [100, 100, 101]);
  const light = (rates: readonly number[]): SystemRuns => {
    const { runs: all, ...rest } = runs("products", false, rates);
    return { ...rest, runs: all.map((one) => ({ ...one, peakRss: 5e8 })) };
  };
  expect(outcomesOf([peer, light([131, 500, 130])], at)).toEqual([
    {
      text: "kept: qwen2.5-0.5b, 512 tokens, products beside pytorch-bf16-none: 1.31 of the rate (1.3 at least), 0.50 of the memory (0.6 at most)",
      isKept: true,
    },
  ]);
  expect(outcomesOf([peer, light([129, 129, 500])], at).map(({ isKept }) => isKept)).toEqual([false]);
  expect(outcomesOf([peer, runs("products", false, [200, 200, 200])], at).map(({ isKept }) => isKept)).toEqual([false]);
  expect(outcomesOf([peer, light([129, 129, 129])], { ...at, layers: "6" })).toEqual([]);
});
