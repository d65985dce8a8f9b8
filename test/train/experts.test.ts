import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";
import { ExpertMlp, ExpertMlpGrad, SWIGLU_EXPERTS } from "../../src/ops/expert-mlp.ts";
import { build, closeExecutors, gradients, llama, lora } from "../support/engine.ts";
import {
  expectSameBits,
  expectWithin,
  f32,
  generator,
  i32,
  random,
  relativeError,
  runGraph,
  type TestTensor,
} from "../support/ops.ts";
import { quantised, QUANTISED_FORMATS } from "../support/quantised.ts";

setDefaultTimeout(120_000);
afterEach(closeExecutors);

const [TOKENS, WIDTH, SIZE, COUNT, K] = [9, 64, 128, 3, 2];

/** A mixture and its gradients by x, the weights and no matrix, of matrices in f32 or as codes with scales. */
async function mixtureOf(tensors: readonly TestTensor[], matrices: readonly (TestTensor | readonly TestTensor[])[]) {
  const builder = new GraphBuilder("mixture");
  const feeds = new Map<string, TestTensor>();
  const add = (tensor: TestTensor, role: "boundary" | "param") => {
    const name = builder.input(`in${feeds.size}`, role, { dtype: tensor.dtype, shape: tensor.shape });
    feeds.set(name, tensor);
    return name;
  };
  const [dy, ...inputs] = tensors.map((tensor) => add(tensor, "boundary"));
  const weights = matrices.map((matrix) =>
    "dtype" in matrix
      ? add(matrix, "param")
      : builder.value(
          Dequantize,
          matrix.map((part) => add(part, "param")),
          {},
        ),
  );
  const y = builder.value(ExpertMlp, [...inputs, ...weights], SWIGLU_EXPERTS);
  const [dx, dweights] = builder.node(ExpertMlpGrad, [dy!, ...inputs, ...weights], SWIGLU_EXPERTS);
  for (const name of [y, dx!, dweights!]) builder.output({ name, role: "boundary" });
  return [...(await runGraph(builder.build(), feeds)).values()];
}

for (const format of QUANTISED_FORMATS)
  test(`experts of matrices in ${format}: within 1e-6 of those with the numbers that the codes stand for`, async () => {
    const rng = generator(7);
    const tensors = [
      random(rng, [TOKENS, WIDTH]),
      random(rng, [TOKENS, WIDTH]),
      f32(
        [TOKENS, K],
        Array.from({ length: TOKENS * K }, () => rng()),
      ),
      i32(
        [TOKENS, K],
        Array.from({ length: TOKENS * K }, (_, slot) => slot % COUNT),
      ),
    ];
    const shapes = [0, 1, 2].flatMap(() => [[SIZE, WIDTH] as const, [SIZE, WIDTH] as const, [WIDTH, SIZE] as const]);
    const matrices = shapes.map((shape) => quantised(random(rng, shape, 0.2), format));
    const [asCodes, asValues] = [
      await mixtureOf(
        tensors,
        matrices.map(({ codes, scales }) => [codes, scales]),
      ),
      await mixtureOf(
        tensors,
        matrices.map(({ values }) => values),
      ),
    ];
    // Products of few rows add up in another order where matrices are f32.
    asCodes.forEach((values, i) => expectWithin(["y", "dx", "dweights"][i]!, relativeError(values, asValues[i]!), 1e-6));
  });

const MOE = {
  architectures: undefined,
  model_type: "qwen3_moe",
  num_key_value_heads: 2,
  head_dim: 32,
  num_experts: 3,
  num_experts_per_tok: 2,
  moe_intermediate_size: 192,
};

test("experts with native products: those of the kernels within 1e-5, of quantised matrices too; the same bits for any number of threads", async () => {
  const config = llama(2, 128, MOE);
  for (const quantize of ["off", "nf4"] as const) {
    const of = async (matmul: "wasm" | "native", threads: number) =>
      gradients(await build(config, lora(0), { name: "per-segment" }, 90, { threads, matmul }, { quantize }), 90);
    const [kernels, native, more] = [await of("wasm", 2), await of("native", 2), await of("native", 3)];
    expect(Math.abs(native.losses[0]! - kernels.losses[0]!)).toBeLessThan(1e-5);
    for (const [name, values] of kernels.values) expectWithin(name, relativeError(native.values.get(name)!, values), 1e-5);
    for (const [name, values] of native.values) expectSameBits(name, [more.values.get(name)!], [values]);
  }
});
