import { expect, setDefaultTimeout, test } from "bun:test";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "../../src/ops/linear-cross-entropy.ts";
import {
  checkForward,
  checkGradient,
  type Data,
  expectSameBits,
  f32,
  generator,
  half,
  i32,
  random,
  type Reference,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

/**
 * Softmax of the logits of each row that has a label, the derivatives of the cap at them, the scaled loss, and how many labels have
 * the first of the greatest logits.
 */
function head([h, w, labels, scale]: readonly [Float64Array, Float64Array, Float64Array, Float64Array], softcap?: number) {
  const width = h.length / labels.length;
  const vocab = w.length / width;
  let loss = 0;
  let correct = 0;
  const slopes: Float64Array[] = [];
  const p = Array.from(labels, (label, t) => {
    if (label === -100) return new Float64Array(0);
    const logits = Float64Array.from({ length: vocab }, (_, v) => {
      let sum = 0;
      for (let i = 0; i < width; i++) sum += h[t * width + i]! * w[v * width + i]!;
      return sum;
    });
    if (softcap !== undefined) {
      slopes[t] = logits.map((x) => 1 / Math.cosh(x / softcap) ** 2);
      logits.forEach((x, v) => (logits[v] = softcap * Math.tanh(x / softcap)));
    }
    const top = logits.reduce((a, b) => Math.max(a, b));
    const sum = logits.reduce((total, x) => total + Math.exp(x - top), 0);
    loss += (scale[t] ?? scale[0]!) * (Math.log(sum) + top - logits[label]!);
    if (logits.indexOf(top) === label) correct++;
    return logits.map((x) => Math.exp(x - top) / sum);
  });
  return { p, slopes, loss, correct };
}

const lossOf = (softcap?: number): Reference => {
  return ([h, w, labels, scale]) => {
    const { loss, correct } = head([h!, w!, labels!, scale!], softcap);
    return [[loss], [correct]];
  };
};
const reference = lossOf();

const gradOf =
  (softcap?: number): Reference =>
  ([h, w, labels, scale, dloss, sum]) => {
    const { p, slopes, loss } = head([h!, w!, labels!, scale!], softcap);
    const width = h!.length / labels!.length;
    const dh = new Float64Array(h!.length);
    const dw = sum?.length ? sum.slice() : new Float64Array(w!.length);
    p.forEach((row, t) => {
      row.forEach((probability, v) => {
        const d = (scale![t] ?? scale![0]!) * dloss![0]! * (probability - (labels![t] === v ? 1 : 0)) * (slopes[t]?.[v] ?? 1);
        for (let i = 0; i < width; i++) {
          dh[t * width + i]! += d * w![v * width + i]!;
          dw[v * width + i]! += d * h![t * width + i]!;
        }
      });
    });
    return [dh, dw, [loss]];
  };
const gradReference = gradOf();

/** Labels of T tokens, of which a part counts. */
function labelsOf(rng: () => number, tokens: number, vocab: number, part: number): TestTensor {
  return i32(
    [tokens],
    Array.from({ length: tokens }, () => (rng() < part ? Math.floor(rng() * vocab) : -100)),
  );
}

function sample(tokens: number, width: number, vocab: number, part: number, deviation = 0.3): TestTensor[] {
  const rng = generator(tokens + vocab);
  return [
    random(rng, [tokens, width]),
    random(rng, [vocab, width], deviation),
    labelsOf(rng, tokens, vocab, part),
    f32([1], [0.125]),
  ];
}

const SIZES = [
  [1, 1, 1],
  [1, 3, 2],
  [3, 5, 7],
  [13, 24, 101],
  [40, 17, 1030],
  [64, 8, 2051],
] as const;

for (const [tokens, width, vocab] of SIZES) {
  for (const [part, name] of [
    [1, "all"],
    [0, "no"],
    [0.3, "some"],
  ] as const) {
    test(`LinearCrossEntropy of ${tokens} tokens, width ${width}, vocabulary ${vocab}, ${name} labels: error 1e-6, gradients 5e-6`, async () => {
      const inputs = sample(tokens, width, vocab, part);
      const loss = await checkForward({ op: LinearCrossEntropy, inputs, attrs: {}, reference, bound: 1e-6 });
      expectSameBits("3 threads", await runWasm(LinearCrossEntropy, inputs, {}, { threads: 3 }), loss);
      if (part === 0) expect(loss[0]![0]).toBe(0);
      const rng = generator(vocab);
      for (const sum of [null, random(rng, [vocab, width])]) {
        const all = [...inputs, f32([1], [1.5]), sum];
        const outputs = await checkForward({
          op: LinearCrossEntropyGrad,
          inputs: all,
          attrs: {},
          reference: gradReference,
          bound: vocab === 1 ? 1e-6 : 5e-6,
        });
        expectSameBits("3 threads", await runWasm(LinearCrossEntropyGrad, all, {}, { threads: 3 }), outputs);
        expectSameBits("the loss of the gradient operator", [outputs[2]!], [loss[0]!]);
        await checkOnnx({ op: LinearCrossEntropyGrad, inputs: all, attrs: {}, bound: 5e-6 });
      }
      await checkOnnx({ op: LinearCrossEntropy, inputs, attrs: {}, bound: 1e-6 });
    });
  }
}

test("LinearCrossEntropy: gradients by finite differences, error 1e-5", async () => {
  await checkGradient({ op: LinearCrossEntropy, inputs: sample(9, 6, 20, 0.7), attrs: {}, reference, wrt: [0, 1], bound: 1e-5 });
});

for (const softcap of [0.5, 30]) {
  test(`LinearCrossEntropy with logits capped at ${softcap}: error 1e-6, gradients 5e-6, by finite differences 1e-5`, async () => {
    const attrs = { softcap };
    for (const [tokens, width, vocab] of SIZES.slice(2)) {
      const inputs = sample(tokens, width, vocab, 0.7);
      await checkForward({ op: LinearCrossEntropy, inputs, attrs, reference: lossOf(softcap), bound: 1e-6 });
      await checkOnnx({ op: LinearCrossEntropy, inputs, attrs, bound: 1e-6 });
      const all = [...inputs, f32([1], [1.5]), random(generator(vocab), [vocab, width])];
      await checkForward({ op: LinearCrossEntropyGrad, inputs: all, attrs, reference: gradOf(softcap), bound: 5e-6 });
      await checkOnnx({ op: LinearCrossEntropyGrad, inputs: all, attrs, bound: 5e-6 });
    }
    const inputs = sample(9, 6, 20, 0.7, 1);
    await checkGradient({ op: LinearCrossEntropy, inputs, attrs, reference: lossOf(softcap), wrt: [0, 1], bound: 1e-5 });
  });
}

/** The sample with a weight of its own for each token: of either sign, and some are 0. */
function weighted(tokens: number, width: number, vocab: number, part: number): TestTensor[] {
  const rng = generator(3 * tokens + vocab);
  const scales = Array.from({ length: tokens }, () => (rng() < 0.2 ? 0 : Math.fround(0.4 * rng() - 0.2)));
  return [...sample(tokens, width, vocab, part).slice(0, 3), f32([tokens], scales)];
}

test("LinearCrossEntropy with a scale of either sign per token: error 1e-6, gradients 5e-6, by finite differences 1e-5", async () => {
  for (const [tokens, width, vocab] of SIZES) {
    for (const attrs of [{}, { softcap: 2 }]) {
      const inputs = weighted(tokens, width, vocab, 0.7);
      await checkForward({ op: LinearCrossEntropy, inputs, attrs, reference: lossOf(attrs.softcap), bound: 1e-6 });
      await checkOnnx({ op: LinearCrossEntropy, inputs, attrs, bound: 1e-6 });
      const all = [...inputs, f32([1], [1.5]), random(generator(vocab), [vocab, width])];
      await checkForward({ op: LinearCrossEntropyGrad, inputs: all, attrs, reference: gradOf(attrs.softcap), bound: 5e-6 });
      await checkOnnx({ op: LinearCrossEntropyGrad, inputs: all, attrs, bound: 5e-6 });
    }
  }
  await checkGradient({
    op: LinearCrossEntropy,
    inputs: weighted(9, 6, 20, 0.7),
    attrs: {},
    reference,
    wrt: [0, 1],
    bound: 1e-5,
  });
});

test("LinearCrossEntropy: opposite scales give opposite gradients to the last bit", async () => {
  const inputs = [...weighted(40, 17, 1030, 0.7), f32([1], [1.5])];
  const opposite = inputs.with(
    3,
    f32(
      [40],
      (inputs[3]!.data as Float32Array).map((scale) => -scale),
    ),
  );
  const negated = (values: readonly Data[]) => values.map((all) => (all as Float32Array).map((value) => 0 - value));
  const expected = await runWasm(LinearCrossEntropyGrad, inputs, {});
  expectSameBits(
    "negated",
    negated(await runWasm(LinearCrossEntropyGrad, opposite, {})),
    expected.map((all) => all as Float32Array),
  );
});

test("LinearCrossEntropy: the same scale for each token gives the gradients of the one scale to the last bit", async () => {
  const inputs = [...sample(13, 24, 101, 0.7), f32([1], [1.5])];
  const each = inputs.with(3, f32([13], new Float32Array(13).fill(0.125)));
  const [dh, dw] = await runWasm(LinearCrossEntropyGrad, inputs, {});
  expectSameBits("gradients", (await runWasm(LinearCrossEntropyGrad, each, {})).slice(0, 2), [dh!, dw!]);
});

test("LinearCrossEntropy counts a label among equal greatest logits where it is the first; never a NaN; never outside", async () => {
  const values = [1, 3, 2, 3, 3, -1, 3, 2, 3];
  const [h, w] = [f32([12, 1], new Float32Array(12).fill(1)), f32([9, 1], values)];
  const labels = i32([12], [1, 3, 8, 0, 4, -100, 1, 6, 5, 2, 7, 1]);
  const inputs = [h, w, labels, f32([1], [1])];
  const [, correct] = await checkForward({ op: LinearCrossEntropy, inputs, attrs: {}, reference, bound: 1e-6 });
  expect([...correct!]).toEqual([3]);
  await checkOnnx({ op: LinearCrossEntropy, inputs, attrs: {}, bound: 1e-6 });
  // Capped, 80 and 90 are both 0.5.
  const capped = [h, f32([9, 1], [0, 80, 90, 1, 0, 0, 0, 0, 0]), labels, f32([1], [1])];
  const [, equal] = await runWasm(LinearCrossEntropy, capped, { softcap: 0.5 });
  expect([...equal!]).toEqual([3]);
  for (const label of [9, -1]) {
    const [, none] = await runWasm(LinearCrossEntropy, [f32([1, 1], [1]), w, i32([1], [label]), f32([1], [1])], {});
    expect([...none!]).toEqual([0]);
  }
  const [, none] = await runWasm(LinearCrossEntropy, [f32([1, 1], [NaN]), w, i32([1], [0]), f32([1], [1])], {});
  expect([...none!]).toEqual([0]);
});

for (const dtype of ["bf16", "f16"] as const) {
  test(`LinearCrossEntropy reads ${dtype} weights as the same numbers in f32`, async () => {
    const [h, w, labels, scale] = sample(13, 24, 101, 0.5) as [TestTensor, TestTensor, TestTensor, TestTensor];
    const inputs = [h, half(w, dtype), labels, scale];
    await checkForward({ op: LinearCrossEntropy, inputs, attrs: {}, reference, bound: 1e-6 });
    await checkForward({
      op: LinearCrossEntropyGrad,
      inputs: [...inputs, f32([1], [1])],
      attrs: {},
      reference: gradReference,
      bound: 5e-6,
    });
  });
}

test("LinearCrossEntropy in several chunks of rows: error 1e-6, gradients 5e-6; few and all labels", async () => {
  // 48 MiB hold 8 rows of one and a half million logits: two chunks of 5.
  const [tokens, width, vocab] = [9, 1, 1_500_001];
  const rng = generator(5);
  const [h, w] = [random(rng, [tokens, width]), random(rng, [vocab, width])];
  for (const labelled of [(t: number) => t > 6, () => true]) {
    const labels = i32(
      [tokens],
      Array.from({ length: tokens }, (_, t) => (labelled(t) ? (t * 7919) % vocab : -100)),
    );
    const inputs = [h, w, labels, f32([1], [1]), f32([1], [1])];
    const outputs = await runWasm(LinearCrossEntropyGrad, inputs, {}, { threads: 2 });
    const expected = gradReference(inputs.map((x) => Float64Array.from(x.data)));
    outputs.forEach((actual, i) => {
      let [difference, norm] = [0, 0];
      for (let j = 0; j < actual.length; j++) {
        difference += (actual[j]! - expected[i]![j]!) ** 2;
        norm += expected[i]![j]! ** 2;
      }
      expect(Math.sqrt(difference)).toBeLessThanOrEqual([5e-6, 5e-6, 1e-6][i]! * Math.sqrt(norm));
    });
    expectSameBits(
      "loss",
      [outputs[2]!],
      await runWasm(LinearCrossEntropy, inputs.slice(0, 4), {}, { threads: 2, outputs: [0] }),
    );
  }
}, 60_000);

test("LinearCrossEntropy of logits up to 1e4 in size is finite: error 1e-6, gradients 1e-5", async () => {
  const tokens = 12;
  const vocab = 37;
  const rng = generator(8);
  // One feature that is a power of two: the logits are exact.
  const h = f32(
    [tokens, 1],
    Array.from({ length: tokens }, (_, t) => (t % 2 ? 8192 : -8192)),
  );
  const w = f32(
    [vocab, 1],
    Array.from({ length: vocab }, () => Math.fround(2.44 * rng() - 1.22)),
  );
  const inputs = [h, w, labelsOf(rng, tokens, vocab, 0.8), f32([1], [1])];
  const [loss] = await checkForward({ op: LinearCrossEntropy, inputs, attrs: {}, reference, bound: 1e-6 });
  expect(loss![0]).toBeGreaterThan(1000);
  const all = [...inputs, f32([1], [1])];
  await checkForward({ op: LinearCrossEntropyGrad, inputs: all, attrs: {}, reference: gradReference, bound: 1e-5 });
});

test("LinearCrossEntropy: a logit that is NaN, and a label outside the vocabulary, make the loss NaN", async () => {
  const [h, w, labels, scale] = sample(5, 4, 9, 1) as [TestTensor, TestTensor, TestTensor, TestTensor];
  for (const label of [9, -1]) {
    const [loss] = await runWasm(LinearCrossEntropy, [h, w, i32([5], [0, 1, label, 3, 4]), scale], {});
    expect(loss![0]).toBeNaN();
  }
  const poisoned = f32([5, 4], h.data);
  poisoned.data[7] = NaN;
  const [loss] = await runWasm(LinearCrossEntropy, [poisoned, w, labels, scale], {});
  expect(loss![0]).toBeNaN();
  const ignored = i32([5], [0, -100, 2, 3, 4]);
  const [other] = await runWasm(LinearCrossEntropy, [poisoned, w, ignored, scale], {});
  expect(Number.isFinite(other![0])).toBe(true);
});

test("LinearCrossEntropy refuses operands that do not fit", () => {
  const f = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  const labels = { dtype: "i32", shape: [3] } as const;
  expect(() => LinearCrossEntropy.infer([f(4, 2), f(5, 2), labels, f(1)], {})).toThrow("labels i32[T L]");
  expect(() => LinearCrossEntropyGrad.infer([f(3, 2), f(5, 2), labels, f(1), f(1), f(5, 3)], {})).toThrow("sum f32[V, H]");
});
