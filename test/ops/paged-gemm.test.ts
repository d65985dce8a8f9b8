import { expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Cast } from "../../src/ops/cast.ts";
import { Dequantize } from "../../src/ops/dequantize.ts";
import { Gemm } from "../../src/ops/gemm.ts";
import { runOn, sharedExecutors } from "../support/executor.ts";
import { type Data, expectSameBits, generator, half, random, type TestTensor, toFloat64 } from "../support/ops.ts";
import { SLOW, slowTest } from "../support/slow.ts";
import { quantised } from "../support/quantised.ts";

setDefaultTimeout(120_000);

const executor = sharedExecutors();

/** Two pages, the second one shorter. */
const [ROWS, LENGTH] = [3009, 2816];
const rng = generator(3);
const weight = random(rng, [ROWS, LENGTH], 0.1);
const STORED = {
  f32: { inputs: { w: weight }, values: weight },
  bf16: { inputs: { w: half(weight, "bf16") }, values: half(weight, "bf16") },
  nf4: (() => {
    const { codes, scales, values } = quantised(weight, "nf4");
    return { inputs: { w: codes, scales }, values };
  })(),
} as const;

/** Elements that are compared with the definition in float64. */
const SAMPLES = 300;

for (const [name, { inputs, values }] of Object.entries(STORED)) {
  for (const transB of [0, 1]) {
    const check = name === "bf16" ? test : slowTest;
    check(
      `a product with a large ${name} weight, ${transB ? "transposed" : "as it is"}: error 2e-6 of the norm; all forms of A and C; 1 and 2 threads alike`,
      async () => {
        const exact = toFloat64(values);
        const [n, k] = transB ? [ROWS, LENGTH] : [LENGTH, ROWS];
        for (const m of SLOW ? [1, 5, 40] : [5]) {
          for (const [transA, form] of [
            [0, "none"],
            [1, "matrix"],
            [0, "row"],
            [0, "matrix"],
          ] as const) {
            const a = random(rng, transA ? [k, m] : [m, k]);
            const c = form === "none" ? null : random(rng, form === "row" ? [n] : [m, n]);
            const builder = new GraphBuilder("paged");
            const feeds = new Map<string, TestTensor>([["a", a]]);
            builder.input("a", "boundary", { dtype: "f32", shape: a.shape });
            for (const [input, tensor] of Object.entries(inputs)) {
              builder.input(input, "param", { dtype: tensor.dtype, shape: tensor.shape });
              feeds.set(input, tensor);
            }
            if (c) {
              builder.input("c", "boundary", { dtype: "f32", shape: c.shape });
              feeds.set("c", c);
            }
            const b =
              name === "f32"
                ? "w"
                : name === "bf16"
                  ? builder.value(Cast, ["w"], { to: 1 })
                  : builder.value(Dequantize, ["w", "scales"], {});
            const y = builder.value(Gemm, c ? ["a", b, "c"] : ["a", b], { alpha: 0.5, beta: 1, transA, transB });
            builder.output({ name: y, role: "boundary" });
            const graph = builder.build();
            const results: Data[] = [];
            for (const matmul of ["wasm", "native"] as const) {
              const made: Data[] = [];
              for (const threads of [1, 2]) {
                const program = (await executor(matmul, threads)).prepare(graph);
                expect(program.reads.filter(({ input }) => input === "w").length).toBeGreaterThan(1);
                made.push(runOn(await executor(matmul, threads), graph, feeds).get(y)!);
              }
              expectSameBits(`${m} rows by ${matmul}`, [made[1]!], [made[0]!]);
              results.push(made[0]!);
            }
            const [left, addend] = [toFloat64(a), c && toFloat64(c)];
            for (let sample = 0; sample < SAMPLES; sample++) {
              const [i, j] = [Math.floor(rng() * m), Math.floor(rng() * n)];
              let [sum, norm] = [0, 0];
              for (let p = 0; p < k; p++) {
                const product = left[transA ? p * m + i : i * k + p]! * exact[transB ? j * k + p : p * n + j]!;
                sum += product;
                norm += product * product;
              }
              const wanted = 0.5 * sum + (addend ? addend[form === "row" ? j : i * n + j]! : 0);
              for (const result of results)
                expect(Math.abs(result[i * n + j]! - wanted)).toBeLessThan(2e-6 * (1 + Math.sqrt(norm)));
            }
          }
        }
      },
    );
  }
}
