import { expect, setDefaultTimeout, test } from "bun:test";
import { GatedDelta, GatedDeltaGrad } from "../../src/ops/gated-delta.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  generator,
  i32,
  random,
  type Reference,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";
import { SLOW } from "../support/slow.ts";

setDefaultTimeout(120_000);

interface Sizes {
  readonly keyHeads: number;
  readonly heads: number;
  readonly keyDim: number;
  readonly valueDim: number;
}

/** Token by token, in float64. */
const referenceOf =
  ({ keyHeads, heads, keyDim, valueDim }: Sizes): Reference =>
  ([qkv, a, b, aLog, dtBias, starts]) => {
    const tokens = starts!.length;
    const width = qkv!.length / tokens;
    const out = new Float64Array(tokens * heads * valueDim);
    const states = new Float64Array(Math.ceil(tokens / 64) * heads * keyDim * valueDim);
    for (let h = 0; h < heads; h++) {
      const S = new Float64Array(keyDim * valueDim);
      const keyHead = Math.floor((h * keyHeads) / heads);
      for (let t = 0; t < tokens; t++) {
        const at = (from: number, dim: number) => qkv!.subarray(t * width + from, t * width + from + dim);
        const unit = (x: Float64Array) => {
          const norm = Math.sqrt(x.reduce((sum, v) => sum + v * v, 1e-6));
          return x.map((v) => v / norm);
        };
        const q = unit(at(keyHead * keyDim, keyDim));
        const k = unit(at((keyHeads + keyHead) * keyDim, keyDim));
        const v = at(2 * keyHeads * keyDim + h * valueDim, valueDim);
        if (starts![t] === t) S.fill(0);
        const decay = Math.exp(-Math.exp(aLog![h]!) * Math.log1p(Math.exp(a![t * heads + h]! + dtBias![h]!)));
        const beta = 1 / (1 + Math.exp(-b![t * heads + h]!));
        for (let i = 0; i < S.length; i++) S[i]! *= decay;
        for (let j = 0; j < valueDim; j++) {
          let known = 0;
          for (let i = 0; i < keyDim; i++) known += S[i * valueDim + j]! * k[i]!;
          const change = beta * (v[j]! - known);
          let sum = 0;
          for (let i = 0; i < keyDim; i++) sum += (S[i * valueDim + j]! += k[i]! * change) * q[i]!;
          out[(t * heads + h) * valueDim + j] = sum / Math.sqrt(keyDim);
        }
        if (t % 64 === 63 || t === tokens - 1) states.set(S, (Math.floor(t / 64) * heads + h) * S.length);
      }
    }
    return [out, states];
  };

/** Texts that begin at the places, and tokens of padding, which see themselves alone. */
function startsOf(tokens: number, begins: readonly number[], padding: number): TestTensor {
  const startOf = (t: number) => (t >= tokens - padding ? t : begins.findLast((begin) => begin <= t)!);
  return i32(
    [tokens],
    Array.from({ length: tokens }, (_, t) => startOf(t)),
  );
}

function inputsOf({ keyHeads, heads, keyDim, valueDim }: Sizes, starts: TestTensor, seed: number): TestTensor[] {
  const rng = generator(seed);
  const [tokens] = starts.shape as [number];
  return [
    random(rng, [tokens, 2 * keyHeads * keyDim + heads * valueDim]),
    // Decays from almost 1 to almost 0.
    random(rng, [tokens, heads], 2, -2),
    random(rng, [tokens, heads]),
    random(rng, [heads], 0.5),
    random(rng, [heads]),
    starts,
  ];
}

const SMALL = { keyHeads: 1, heads: 2, keyDim: 5, valueDim: 3 };
const CASES: readonly (Sizes & { readonly tokens: number; readonly begins: readonly number[]; readonly padding: number })[] = [
  { ...SMALL, tokens: 1, begins: [0], padding: 0 },
  { ...SMALL, tokens: 63, begins: [0], padding: 0 },
  { ...SMALL, tokens: 64, begins: [0, 17], padding: 0 },
  { ...SMALL, tokens: 65, begins: [0], padding: 0 },
  { ...SMALL, tokens: 66, begins: [0, 64], padding: 1 },
  { ...SMALL, tokens: 200, begins: [0], padding: 0 },
  { ...SMALL, tokens: 200, begins: [0, 1, 63, 65, 130], padding: 7 },
  { keyHeads: 2, heads: 4, keyDim: 9, valueDim: 18, tokens: 140, begins: [0, 100], padding: 0 },
];

for (const { tokens, begins, padding, ...sizes } of CASES) {
  const name = `${tokens} tokens, texts from ${begins.join(", ")}, ${padding} of padding, ${sizes.heads} heads of ${sizes.keyDim}, ${sizes.valueDim}`;
  test(`GatedDelta of ${name}: error 2e-6; gradients by finite differences, error 1e-5`, async () => {
    const inputs = inputsOf(sizes, startsOf(tokens, begins, padding), tokens);
    const attrs = { keyHeads: sizes.keyHeads, keyDim: sizes.keyDim };
    const reference = referenceOf(sizes);
    const [out, states] = await checkForward({ op: GatedDelta, inputs, attrs, reference, bound: 2e-6 });
    expectSameBits("3 threads", await runWasm(GatedDelta, inputs, attrs, { threads: 3 }), [out!, states!]);
    await checkOnnx({ op: GatedDelta, inputs, attrs, bound: 5e-6 });
    const dOut = random(generator(tokens), [tokens, sizes.heads * sizes.valueDim]);
    const chunks = Math.ceil(tokens / 64);
    const kept = { dtype: "f32", shape: [chunks, sizes.heads, sizes.keyDim, sizes.valueDim], data: states! } as const;
    const backward = [dOut, ...inputs, kept];
    await checkOnnx({ op: GatedDeltaGrad, inputs: backward, attrs, bound: 5e-5 });
    const [gradients, again] = [
      await runWasm(GatedDeltaGrad, backward, attrs),
      await runWasm(GatedDeltaGrad, backward, attrs, { threads: 3 }),
    ];
    expectSameBits("gradients with 3 threads", again, gradients);
    const nothing = new Float64Array(states!.length);
    const options = { op: onlyOut, inputs, attrs, reference: ((x) => [reference(x)[0]!, nothing]) as Reference };
    await checkGradient({ ...options, wrt: [0, 1, 2, 3, 4], bound: 1e-5, samples: SLOW ? 400 : 15 });
  });
}

/** The operator without its states, which have no gradient. */
const onlyOut = {
  ...GatedDelta,
  gradient: (context) => {
    const { gradient } = GatedDelta;
    if (typeof gradient !== "function") throw new Error("no gradient rule");
    return gradient({ ...context, grad: (i) => (i === 0 ? context.grad(0) : null) });
  },
} satisfies typeof GatedDelta;

/** The same query and key again and again, with decays of almost 1 and betas of almost 1: powers of the triangular matrices grow beyond f32. */
function repeated(sizes: Sizes, tokens: number): TestTensor[] {
  const [qkv, , , aLog, dtBias, starts] = inputsOf(sizes, startsOf(tokens, [0], 0), 3) as [TestTensor, ...TestTensor[]];
  const width = qkv.shape[1]!;
  for (let t = 1; t < tokens; t++) (qkv.data as Float32Array).copyWithin(width * t, 0, 2 * sizes.keyHeads * sizes.keyDim);
  const gates = [-4, 3].map((mean, i) => random(generator(i), [tokens, sizes.heads], 0.1, mean)) as [TestTensor, TestTensor];
  return [qkv, ...gates, aLog!, dtBias!, starts!];
}

test("the same key again and again, error 5e-6; gradients by finite differences, errors 5e-6 and 1e-4 of decays", async () => {
  const inputs = repeated(SMALL, 66);
  const attrs = { keyHeads: 1, keyDim: 5 };
  const reference = referenceOf(SMALL);
  const [, states] = await checkForward({ op: GatedDelta, inputs, attrs, reference, bound: 5e-6 });
  const nothing = new Float64Array(states!.length);
  const options = { op: onlyOut, inputs, attrs, reference: ((x) => [reference(x)[0]!, nothing]) as Reference };
  await checkGradient({ ...options, wrt: [0, 2], bound: 5e-6, samples: 15 });
  // What is written over at once hardly decays before: the gradients of decays are small differences of large sums.
  await checkGradient({ ...options, wrt: [1, 3, 4], bound: 1e-4, samples: 15 });
});

test("the largest heads: error 5e-6 between executors", async () => {
  const sizes = { keyHeads: 1, heads: 1, keyDim: 256, valueDim: 256 };
  const attrs = { keyHeads: 1, keyDim: 256 };
  const inputs = inputsOf(sizes, startsOf(66, [0], 0), 3);
  const [, states] = await runWasm(GatedDelta, inputs, attrs);
  await checkOnnx({ op: GatedDelta, inputs, attrs, bound: 5e-6 });
  const kept = { dtype: "f32", shape: [2, 1, 256, 256], data: states! } as const;
  await checkOnnx({ op: GatedDeltaGrad, inputs: [random(generator(4), [66, 256]), ...inputs, kept], attrs, bound: 5e-5 });
});

test("sizes that do not fit are refused", () => {
  const type = (dtype: "f32" | "i32", ...shape: number[]) => ({ dtype, shape }) as const;
  const attrs = { keyHeads: 2, keyDim: 4 };
  const gates = [type("f32", 5, 4), type("f32", 5, 4), type("f32", 4), type("f32", 4)];
  expect(() => GatedDelta.infer([type("f32", 5, 29), ...gates, type("i32", 5)], attrs)).toThrow("qkv [T, 16 + heads * valueDim]");
  expect(() => GatedDelta.infer([type("f32", 5, 28), ...gates, type("i32", 4)], attrs)).toThrow("starts i32[5]");
  expect(() => GatedDelta.infer([type("f32", 5, 28), ...gates.with(1, type("f32", 5, 2)), type("i32", 5)], attrs)).toThrow(
    "b f32[5, 4]",
  );
  const wide = [type("f32", 5, 16 + 4 * 257), ...gates, type("i32", 5)];
  expect(() => GatedDelta.infer(wide, attrs)).toThrow("at most 256 features");
});
