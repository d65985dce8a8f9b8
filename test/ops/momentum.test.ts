import { expect, setDefaultTimeout, test } from "bun:test";
import { Lion } from "../../src/ops/lion.ts";
import { MuonMomentum, MuonStep, UnitNorm } from "../../src/ops/muon.ts";
import { Sgd } from "../../src/ops/sgd.ts";
import { checkForward, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const SIZES = [1, 3, 16, 37, 4099];
const tensors = (n: number, count: number) => {
  const rng = generator(n);
  return Array.from({ length: count }, () => random(rng, [n]));
};

const lion: Reference = ([param, grad, m, hyper]) => {
  const [lr, beta1, beta2, decay, scale] = [...hyper!] as [number, number, number, number, number];
  const g = grad!.map((value) => value * scale);
  const mean = (beta: number) => m!.map((value, i) => beta * value + (1 - beta) * g[i]!);
  const direction = mean(beta1);
  return [param!.map((p, i) => p * (1 - lr * decay) - lr * Math.sign(direction[i]!)), mean(beta2)];
};

test.each(SIZES)("Lion of %d elements: error 2e-7, in place, 1 and 2 threads", async (n) => {
  const inputs = [...tensors(n, 3), f32([5], [1e-2, 0.9, 0.99, 0.1, 0.7])];
  await checkForward({ op: Lion, inputs, attrs: {}, reference: lion, bound: 2e-7 });
  await checkOnnx({ op: Lion, inputs, attrs: {}, bound: 2e-7 });
});

test("Lion: where there is no direction, nothing moves", async () => {
  const zeros = f32([3], [0, -0, 0]);
  const [param] = await runWasm(Lion, [f32([3], [1, 2, 3]), zeros, zeros, f32([5], [0.1, 0.9, 0.99, 0, 1])], {});
  expect(param).toEqual(Float32Array.of(1, 2, 3));
});

const sgd: Reference = ([param, grad, b, hyper]) => {
  const [lr, momentum, decay, scale, shareG, shareB] = [...hyper!] as [number, number, number, number, number, number];
  const g = grad!.map((value, i) => value * scale + decay * param![i]!);
  const next = b!.map((value, i) => momentum * value + g[i]!);
  return [param!.map((p, i) => p - lr * (shareG * g[i]! + shareB * next[i]!)), next];
};

test.each(SIZES)("Sgd of %d elements, plain and with Nesterov's momentum: error 2e-7, in place, 1 and 2 threads", async (n) => {
  for (const shares of [
    [0, 1],
    [1, 0.9],
  ]) {
    const inputs = [...tensors(n, 3), f32([6], [1e-2, 0.9, 0.1, 0.7, ...shares])];
    await checkForward({ op: Sgd, inputs, attrs: {}, reference: sgd, bound: 2e-7 });
    await checkOnnx({ op: Sgd, inputs, attrs: {}, bound: 2e-7 });
  }
});

const HYPER = f32([5], [1e-2, 0.95, 0.1, 0.7, 0.9]);

const muonMomentum: Reference = ([grad, b, hyper]) => {
  const [, momentum, , scale, share] = [...hyper!] as [number, number, number, number, number];
  const g = grad!.map((value) => value * scale);
  const next = b!.map((value, i) => momentum * value + (1 - momentum) * g[i]!);
  return [g.map((value, i) => (1 - share) * value + share * next[i]!), next];
};

test.each(SIZES)("what Muon does to %d elements: error 2e-7, in place, 1 and 2 threads", async (n) => {
  const [x, y] = tensors(n, 2) as [ReturnType<typeof f32>, ReturnType<typeof f32>];
  const momentum = { op: MuonMomentum, inputs: [x, y, HYPER], attrs: {} };
  await checkForward({ ...momentum, reference: muonMomentum, bound: 2e-7 });
  await checkOnnx({ ...momentum, bound: 2e-7 });
  const step = { op: MuonStep, inputs: [x, y, HYPER], attrs: { scale: 3.7 } };
  const stepped: Reference = ([param, by]) => [param!.map((p, i) => p * (1 - 1e-2 * 0.1) - 1e-2 * 3.7 * by![i]!)];
  await checkForward({ ...step, reference: stepped, bound: 2e-7 });
  await checkOnnx({ ...step, bound: 2e-7 });
  const unit = { op: UnitNorm, inputs: [x, f32([1], [n + 2])], attrs: { epsilon: 1e-7 } };
  await checkForward({ ...unit, reference: ([all]) => [all!.map((value) => value / Math.sqrt(n + 2))], bound: 2e-7 });
  await checkOnnx({ ...unit, bound: 2e-7 });
});

test("UnitNorm: a matrix of zeros stays one", async () => {
  const [y] = await runWasm(UnitNorm, [f32([3], [0, 0, 0]), f32([1], [0])], { epsilon: 1e-7 });
  expect(y).toEqual(Float32Array.of(0, 0, 0));
});

test("states of another size are refused", () => {
  const type = (n: number) => ({ dtype: "f32", shape: [n] }) as const;
  expect(() => Lion.infer([type(5), type(5), type(4), type(5)], {})).toThrow("Lion: expected param, grad, m of one f32 type");
  expect(() => Sgd.infer([type(5), type(5), type(5), type(5)], {})).toThrow("hyper f32[6]");
  expect(() => MuonMomentum.infer([type(5), type(4), type(5)], {})).toThrow("MuonMomentum: expected grad, b of one f32 type");
  expect(() => MuonStep.infer([type(5), type(4), type(5)], { scale: 1 })).toThrow("MuonStep: expected param, y of one f32 type");
  expect(() => UnitNorm.infer([type(5), type(2)], { epsilon: 1 })).toThrow("UnitNorm: expected an f32 tensor");
});
