import { describe, expect, test } from "bun:test";
import { decode, encode } from "../../src/base/codes.ts";
import { createCoordinator } from "../../src/train/nodes/coordinator.ts";
import { createRests } from "../../src/train/nodes/rests.ts";
import type { PastStep } from "../../src/train/nodes/roster.ts";
import { type FakeBehaviour, fakeVector, fakeWorker, gradientsAt, partOf, PREPARE } from "../support/nodes.ts";

const SIZE = 300;
const COUNT = 5;
const STEPS = 19;
const bitsOf = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("hex");
const parametersOf = (step: number) => Float32Array.from({ length: SIZE }, (_, i) => 1 + ((7 * step + i) % 5) / 16);

/** The sums of all steps, as the definition has them: in the last of 8 steps everything is sent. */
function expectedSums(encoding: "int8" | "bf16" | "f32"): string[] {
  const rests = Array.from({ length: COUNT }, () => new Float32Array(SIZE));
  return Array.from({ length: STEPS }, (_, i) => {
    const step = i + 1;
    const sum = new Float32Array(SIZE);
    for (let index = 0; index < COUNT; index++) {
      const wanted = gradientsAt(parametersOf(step), step, index).map((value, at) => value + rests[index]![at]!);
      const sent = encoding === "f32" || step % 8 === 0 ? wanted : decode(encode(wanted, encoding), SIZE, encoding);
      rests[index] = wanted.map((value, at) => value - sent[at]!);
      for (let at = 0; at < SIZE; at++) sum[at] = sum[at]! + sent[at]!;
    }
    return bitsOf(sum);
  });
}

/** Runs steps by a coordinator and workers; `stops`: after which steps another coordinator goes on. */
async function sums(encoding: "int8" | "bf16" | "f32", behaviours: readonly FakeBehaviour[], stops: readonly number[] = []) {
  const found: string[] = [];
  const received: number[] = [];
  let past: readonly PastStep[] = [];
  let elsewhere = 0;
  for (const [i, begin] of [0, ...stops].entries()) {
    const { vector, parameters, gradients, zeroGradients } = fakeVector(SIZE);
    const coordinator = createCoordinator({ vector, encoding, zeroGradients, prepare: PREPARE, warn: () => {} });
    coordinator.resume(past);
    for (const [at, behaviour] of behaviours.entries())
      coordinator.add(`worker ${at + 1}`, fakeWorker(SIZE, { ...behaviour, encoding }).link);
    await Bun.sleep(2);
    for (let step = begin + 1; step <= (stops[i] ?? STEPS); step++) {
      parameters.set(parametersOf(step));
      await coordinator.learn({ step, draw: COUNT * step, count: COUNT, total: 1, factor: 1 }, async (order) => {
        await Bun.sleep(1);
        for (const [at, value] of gradientsAt(parameters, order.step, order.index).entries()) gradients[at]! += value;
        return partOf(order.step, order.index);
      });
      // The optimizer finds what it left.
      expect(bitsOf(parameters)).toBe(bitsOf(parametersOf(step)));
      found.push(bitsOf(gradients));
      received.push(coordinator.last.received);
      elsewhere += coordinator.last.elsewhere;
    }
    past = coordinator.past();
    await coordinator.close();
  }
  return { found, elsewhere, received };
}

describe.each(["int8", "bf16"] as const)("gradients in %s", (encoding) => {
  const expected = expectedSums(encoding);

  test("the sums are those of one process, whatever the number of workers, which dies, hangs or is slow, and who goes on", async () => {
    expect(expected).not.toEqual(expectedSums("f32"));
    expect((await sums(encoding, [])).found).toEqual(expected);
    for (const workers of [[{}], [{}, {}], [{}, { ms: 4 }, {}], [{ hangsAt: 12 }]] satisfies FakeBehaviour[][]) {
      const { found, elsewhere } = await sums(encoding, workers);
      expect(found).toEqual(expected);
      expect(elsewhere).toBeGreaterThan(STEPS / 2);
    }
    for (const diesAt of [1, 4, 7, 15]) expect((await sums(encoding, [{ diesAt }, {}])).found).toEqual(expected);
    expect((await sums(encoding, [{}], [3, 8, 13])).found).toEqual(expected);
  });

  test("a step takes a share of the bytes of f32, but for the last one of each period", async () => {
    const { received } = await sums(encoding, [{ ms: 0 }]);
    const bytes = encode(new Float32Array(SIZE), encoding).length;
    for (const [i, each] of received.entries()) expect(each % ((i + 1) % 8 === 0 ? 4 * SIZE : bytes)).toBe(0);
  });

  test("what is not finite is sent as it is, and what was left stays", () => {
    const rests = createRests(encoding);
    const order = (step: number) => ({ step, index: 0, factor: 1 });
    const first = Float32Array.from({ length: SIZE }, (_, i) => Math.sin(i));
    const left = first.map((value, i) => value - rests.encode(order(1), first.slice()).values[i]!);
    const bad = rests.encode(order(2), new Float32Array(SIZE).fill(NaN));
    expect(bad.encoding).toBe("f32");
    expect(bad.values.every(Number.isNaN)).toBe(true);
    const next = rests.encode(order(3), new Float32Array(SIZE)).values;
    expect(bitsOf(next)).toBe(bitsOf(decode(encode(left, encoding), SIZE, encoding)));
    expect(() => rests.encode(order(7), new Float32Array(SIZE))).toThrow("what was left of micro-batch 0 is not known");
  });
});
