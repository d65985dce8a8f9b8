import { expect, setDefaultTimeout, test } from "bun:test";
import type { HeadAttrs } from "../../src/ops/head-kernels.ts";
import { LinearCrossEntropy, LinearCrossEntropyGrad } from "../../src/ops/linear-cross-entropy.ts";
import { TokenCrossEntropy } from "../../src/ops/token-cross-entropy.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  f32,
  generator,
  i32,
  random,
  type Reference,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

interface Sizes {
  readonly tokens: number;
  readonly width: number;
  readonly vocab: number;
  /** Labels of a token. */
  readonly each: number;
}

/** Labels of which some are -100, all of every fifth token, and two of a token are equal now and then. */
function labelsOf({ tokens, vocab, each }: Sizes, rng: () => number): TestTensor {
  const labels = Array.from({ length: tokens * each }, (_, place) => {
    const t = Math.floor(place / each);
    return t % 5 === 4 || rng() < 0.25 ? -100 : Math.floor(rng() * vocab);
  });
  // The others of a token differ, as a teacher's do; its own label may be one of them.
  for (let t = 0; t < tokens; t++) {
    const taken = new Set<number>();
    for (let l = 1; l < each; l++) {
      const place = t * each + l;
      if (taken.has(labels[place]!)) labels[place] = -100;
      taken.add(labels[place]!);
    }
    if (each > 1 && t % 3 === 0) labels[t * each] = labels[t * each + 1]!;
  }
  return i32([tokens * each], labels);
}

function sample(sizes: Sizes): TestTensor[] {
  const { tokens, width, vocab, each } = sizes;
  const rng = generator(tokens + vocab + each);
  const scales = Array.from({ length: tokens * each }, () => 2 * rng() - 1);
  return [random(rng, [tokens, width]), random(rng, [vocab, width], 0.3), labelsOf(sizes, rng), f32([tokens * each], scales)];
}

/** In float64: the losses of each token by each label, how many first labels are hit, and the gradients, from the definition. */
function headOf({ tokens, width, vocab, each }: Sizes, softcap?: number) {
  return ([h, w, labels, scale]: readonly Float64Array[]) => {
    const losses = new Float64Array(tokens * each);
    const [dh, dw] = [new Float64Array(h!.length), new Float64Array(w!.length)];
    let [loss, correct] = [0, 0];
    for (let t = 0; t < tokens; t++) {
      const logits = Float64Array.from({ length: vocab }, (_, v) => {
        let sum = 0;
        for (let i = 0; i < width; i++) sum += h![t * width + i]! * w![v * width + i]!;
        return softcap === undefined ? sum : softcap * Math.tanh(sum / softcap);
      });
      const top = logits.reduce((a, b) => Math.max(a, b));
      const total = logits.reduce((sum, x) => sum + Math.exp(x - top), 0);
      if (logits.indexOf(top) === labels![t * each]) correct++;
      for (let place = t * each; place < (t + 1) * each; place++) {
        const label = labels![place]!;
        if (label === -100) continue;
        const factor = scale?.[place] ?? 1;
        losses[place] = Math.log(total) + top - logits[label]!;
        loss += factor * losses[place]!;
        logits.forEach((x, v) => {
          const slope = softcap === undefined ? 1 : 1 - (x / softcap) ** 2;
          const d = factor * slope * (Math.exp(x - top) / total - Number(v === label));
          for (let i = 0; i < width; i++) {
            dh[t * width + i]! += d * w![v * width + i]!;
            dw[v * width + i]! += d * h![t * width + i]!;
          }
        });
      }
    }
    return { losses, loss, correct, dh, dw };
  };
}

const SIZES: readonly Sizes[] = [
  { tokens: 1, width: 3, vocab: 7, each: 2 },
  { tokens: 13, width: 24, vocab: 101, each: 3 },
  { tokens: 40, width: 17, vocab: 1030, each: 9 },
];

for (const sizes of SIZES) {
  for (const attrs of [{}, { softcap: 2 }] as const satisfies HeadAttrs[]) {
    test(`several labels of a token: losses within 1e-6, gradients 5e-6 on all paths, the same bits for 1 to 3 threads: ${JSON.stringify({ ...sizes, ...attrs })}`, async () => {
      const [h, w, labels, scale] = sample(sizes) as [TestTensor, TestTensor, TestTensor, TestTensor];
      const head = headOf(sizes, "softcap" in attrs ? attrs.softcap : undefined);
      const losses: Reference = (given) => [head(given).losses];
      const sums: Reference = (given) => [[head(given).loss], [head(given).correct]];
      const gradients: Reference = (given) => {
        const { dh, dw, loss } = head(given);
        return [dh, dw, [loss]];
      };
      const one = f32([1], [1]);
      for (const [op, inputs, reference, bound] of [
        [TokenCrossEntropy, [h, w, labels], losses, 1e-6],
        [LinearCrossEntropy, [h, w, labels, scale], sums, 1e-6],
        [LinearCrossEntropyGrad, [h, w, labels, scale, one], gradients, 5e-6],
      ] as const) {
        const results = await checkForward({ op, inputs: [...inputs], attrs, reference, bound });
        expectSameBits("3 threads", await runWasm(op, [...inputs], attrs, { threads: 3 }), results);
        await checkOnnx({ op, inputs: [...inputs], attrs, bound });
      }
      const found = await runWasm(TokenCrossEntropy, [h, w, labels], attrs);
      labels.data.forEach((label, place) => label === -100 && expect(found[0]![place]).toBe(0));
    });
  }
}

test("several labels of a token: gradients by finite differences, error 1e-5", async () => {
  const sizes = { tokens: 6, width: 5, vocab: 11, each: 3 };
  const reference: Reference = (given) => [[headOf(sizes)(given).loss], [headOf(sizes)(given).correct]];
  await checkGradient({ op: LinearCrossEntropy, inputs: sample(sizes), attrs: {}, reference, wrt: [0, 1], bound: 1e-5 });
});

test("the losses by several labels are, to the bit, those of as many rows with a label each", async () => {
  const sizes = { tokens: 30, width: 16, vocab: 300, each: 4 };
  const [h, w, labels] = sample(sizes) as [TestTensor, TestTensor, TestTensor];
  const { tokens, width, each } = sizes;
  const repeated = f32(
    [tokens * each, width],
    Array.from({ length: tokens * each * width }, (_, i) => h.data[Math.floor(i / width / each) * width + (i % width)]!),
  );
  expectSameBits(
    "losses",
    await runWasm(TokenCrossEntropy, [h, w, labels], {}),
    await runWasm(TokenCrossEntropy, [repeated, w, labels], {}),
  );
});

test("labels that are no whole number for each token are refused", () => {
  const f = (...shape: number[]) => ({ dtype: "f32", shape }) as const;
  expect(() => TokenCrossEntropy.infer([f(4, 2), f(5, 2), { dtype: "i32", shape: [6] }], {})).toThrow("labels i32[T L]");
});
