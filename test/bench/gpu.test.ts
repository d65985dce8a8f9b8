import { expect, test } from "bun:test";
import { judge, type Measured, type RematStep } from "../../bench/gpu/judge.ts";

const GIB = 2 ** 30;
const PEER: Measured = { tokensPerSecond: 1000, stepSeconds: 1, peakDeviceMemory: 10 * GIB, cardMemory: 11 * GIB };
const OURS: RematStep = {
  tokensPerSecond: 700,
  stepSeconds: 1.4,
  peakDeviceMemory: 10 * GIB,
  cardMemory: 11 * GIB,
  firstLoss: 11.9,
  loss: 11.8,
  predictedPeak: 100,
  measuredPeak: 101.9,
};

/** Names of the assertions that fail. */
const failing = (ours: RematStep | null, peer: Measured | null = PEER, isCuda = true) =>
  judge(ours, peer, isCuda).flatMap(({ what, passed }) => (passed ? [] : [what]));

test("what just fits passes every assertion, and each fails alone", () => {
  expect(judge(OURS, PEER, true).map(({ what }) => what)).toEqual([
    "loss",
    "predicted memory",
    "speed",
    "device memory of the allocator",
    "device memory in all",
  ]);
  expect(failing(OURS)).toEqual([]);
  expect(failing({ ...OURS, loss: 11.9 })).toEqual(["loss"]);
  expect(failing({ ...OURS, loss: NaN })).toEqual(["loss"]);
  for (const measuredPeak of [102.1, 97.9, NaN]) expect(failing({ ...OURS, measuredPeak })).toEqual(["predicted memory"]);
  expect(failing({ ...OURS, tokensPerSecond: 699 })).toEqual(["speed"]);
  expect(failing({ ...OURS, peakDeviceMemory: 10.1 * GIB })).toEqual(["device memory of the allocator"]);
  expect(failing({ ...OURS, cardMemory: 11.1 * GIB })).toEqual(["device memory in all"]);
});

test("without a card memory is not compared, without a peer nothing is, and what was not measured has no assertions", () => {
  expect(judge(OURS, PEER, false).map(({ what }) => what)).toEqual(["loss", "predicted memory", "speed"]);
  expect(judge(OURS, null, true).map(({ what }) => what)).toEqual(["loss", "predicted memory"]);
  const { cardMemory: _, ...unknown } = PEER;
  expect(judge(OURS, unknown, true)).toHaveLength(4);
  expect(judge(null, PEER, true)).toEqual([]);
});

test("a detail says both numbers, the ratio and what is asked for", () => {
  expect(judge(OURS, PEER, true).map(({ detail }) => detail)).toEqual([
    "11.9000 to 11.8000",
    "1.90 % off",
    "700 tokens/s, PyTorch 1000: 0.70 (at least 0.7, aim 1.2)",
    "10.00 GiB, PyTorch 10.00 GiB: 1.00 (at most 1, aim 0.6)",
    "11.00 GiB, PyTorch 11.00 GiB: 1.00 (at most 1, aim 0.6)",
  ]);
});
