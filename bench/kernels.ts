/**
 * Matrix products and the fused head against the register-only peak of this machine, measured in the same process and
 * minute.
 *
 *     bun bench/kernels.ts [gemm] [bf16] [int8] [head]
 *
 * gemm: GFLOP/s and share of one thread's peak, for one and for two threads (per thread). bf16: the same of products in bf16 by machine code,
 * on the shapes of a step, beside the peak of `vdpbf16ps`, with exit code 1 where one thread has less than is promised of it, or two have less than is promised of one's rate. int8: those of the forward pass with weights of 8-bit codes, beside the peak of `vpdpbusd`. head: time of LinearCrossEntropyGrad beside that of its bare products on all rows at once. Medians, and the best run in brackets:
 * on a busy machine the best is the better estimate.
 */
import type { TensorType } from "../src/graph/types.ts";
import type { FloatType } from "../src/base/dtype.ts";
import { Gemm } from "../src/ops/gemm.ts";
import { LinearCrossEntropyGrad } from "../src/ops/linear-cross-entropy.ts";
import { createWasmExecutor, type WasmExecutor } from "../src/wasm/executor.ts";
import type { MatmulChoice } from "../src/wasm/matmul.ts";
import { callOf } from "./operator-call.ts";
import { median } from "./report.ts";
import { measurePeak } from "./peak.ts";
import { type Timing, time } from "./time.ts";

interface Product {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA?: 1;
  readonly transB?: 1;
  /** Type of B in memory; i8: codes with scales. */
  readonly weight?: FloatType | "i8";
  /** Added in place. */
  readonly sum?: true;
  readonly what: string;
}

const PRODUCTS: readonly Product[] = [
  { m: 512, n: 576, k: 1536, transB: 1, what: "down projection" },
  { m: 1024, n: 1024, k: 1024, what: "square" },
  { m: 1024, n: 1024, k: 1024, transA: 1, what: "square, A transposed" },
  { m: 512, n: 1536, k: 576, transB: 1, weight: "bf16", what: "up projection, bf16" },
  { m: 512, n: 576, k: 1536, weight: "bf16", what: "its gradient of x" },
  { m: 1536, n: 576, k: 512, transA: 1, sum: true, what: "its gradient of W" },
  { m: 256, n: 16384, k: 576, transB: 1, weight: "bf16", what: "logits" },
  { m: 512, n: 16, k: 576, transB: 1, what: "LoRA down" },
  { m: 512, n: 576, k: 16, transB: 1, sum: true, what: "LoRA up" },
  { m: 576, n: 16, k: 512, transA: 1, sum: true, what: "gradient of LoRA B" },
  { m: 1, n: 4864, k: 896, transB: 1, weight: "bf16", what: "decode one token" },
  { m: 16, n: 4864, k: 896, transB: 1, weight: "bf16", what: "16 tokens" },
];

/** Products of SmolLM2-135M's step with frozen weights, forward and back, in pieces as the head takes them, and the wide ones of Qwen2.5-0.5B's. */
const BF16_PRODUCTS: readonly Product[] = [
  { m: 512, n: 576, k: 576, transB: 1, weight: "bf16", what: "queries" },
  { m: 512, n: 1536, k: 576, transB: 1, weight: "bf16", what: "up projection" },
  { m: 512, n: 576, k: 1536, transB: 1, weight: "bf16", what: "down projection" },
  { m: 512, n: 576, k: 576, weight: "bf16", what: "gradient of queries' x" },
  { m: 512, n: 576, k: 1536, weight: "bf16", what: "gradient of up's x" },
  { m: 512, n: 1536, k: 576, weight: "bf16", what: "gradient of down's x" },
  { m: 512, n: 16384, k: 576, transB: 1, weight: "bf16", what: "logits" },
  { m: 512, n: 576, k: 16384, weight: "bf16", what: "gradient of the head's x" },
  { m: 2048, n: 1536, k: 576, transB: 1, weight: "bf16", what: "up, 2048 tokens" },
  { m: 2048, n: 576, k: 1536, weight: "bf16", what: "its gradient" },
  { m: 512, n: 4864, k: 896, transB: 1, weight: "bf16", what: "Qwen2.5-0.5B's up" },
  { m: 512, n: 896, k: 4864, weight: "bf16", what: "its gradient" },
  { m: 512, n: 896, k: 4864, transB: 1, weight: "bf16", what: "its down" },
  { m: 512, n: 4864, k: 896, weight: "bf16", what: "its gradient" },
];

/** What is promised of them: their share of the peak, in percent, and how many times the rate of one thread two have, by the median of all. */
const BF16_PROMISE = { share: 85, speedup: 1.9 };
const INT8_PRODUCTS: readonly Product[] = BF16_PRODUCTS.filter(({ transB, n }) => transB === 1 && n < 16384).map(
  (product): Product => ({ ...product, weight: "i8" }),
);

const f32 = (...shape: number[]): TensorType => ({ dtype: "f32", shape });
const rate = (operations: number, seconds: number): number => operations / seconds / 1e9;
const cell = (value: number, digits = 1): string => value.toFixed(digits).padStart(6);

function productCall(executor: WasmExecutor, product: Product): () => void {
  const { m, n, k, transA = 0, transB = 0, weight = "f32", sum } = product;
  const a = f32(...(transA ? [k, m] : [m, k]));
  const b: TensorType = { dtype: weight, shape: transB ? [n, k] : [k, n] };
  const attrs = { transA, transB };
  return sum ? callOf(executor, Gemm, [a, b, f32(m, n)], attrs, { inPlace: [0, 2] }) : callOf(executor, Gemm, [a, b], attrs);
}

async function benchProducts(
  executors: readonly WasmExecutor[],
  unit: Parameters<typeof measurePeak>[1],
  products: readonly Product[],
  least = { share: 0, speedup: 0 },
): Promise<void> {
  const broken: string[] = [];
  const speedups: number[] = [];
  const peaks: Timing[] = [];
  for (const { threads } of executors) {
    const peak = await measurePeak(threads, unit);
    peaks.push(peak);
    console.log(`peak of ${threads} threads, each: ${peak.median.toFixed(1)} (${peak.best.toFixed(1)}) GFLOP/s`);
  }
  console.log("\nGFLOP/s per thread, median (best), and the best's share of the peak of as many threads");
  for (const product of products) {
    const { m, n, k, transA, transB, weight = "f32", what } = product;
    const measured = executors.map((executor, i) => {
      const run = productCall(executor, product);
      time(run, 0.08);
      const { median, best } = time(run, 0.3);
      const operations = (2 * m * n * k) / executor.threads;
      const share = (100 * rate(operations, best)) / peaks[i]!.best;
      if (share < least.share && executor.threads === 1)
        broken.push(`${what}: ${share.toFixed(0)} % of the peak with one thread`);
      return { median: rate(operations, median), best: rate(operations, best), share };
    });
    const cells = measured.map(({ median, best, share }) => `${cell(median)} (${cell(best)}) ${cell(share, 0)} %`);
    const [one, two] = measured;
    if (one && two) speedups.push((2 * two.best) / one.best);
    const shape = `${m}x${n}x${k} ${transA ? "T" : "N"}${transB ? "T" : "N"} ${weight}`;
    console.log([shape.padEnd(25), what.padEnd(22), ...cells].join("  "));
  }
  const speedup = median(speedups);
  console.log(`two threads have ${speedup.toFixed(2)} times the rate of one (the median of the best of each product)`);
  if (speedup < least.speedup) broken.push(`two threads: ${speedup.toFixed(2)} times the rate of one`);
  if (broken.length === 0) return;
  console.log(`less than is promised (${least.share} % of the peak, ${least.speedup} times): ${broken.join("; ")}`);
  process.exitCode = 1;
}

function benchHead(executor: WasmExecutor): void {
  console.log(`\nLinearCrossEntropyGrad, bf16 weights frozen, ${executor.threads} threads: ms, median (best)`);
  for (const [tokens, width, vocab] of [[512, 576, 49152]] as const) {
    const inputs: TensorType[] = [
      f32(tokens, width),
      { dtype: "bf16", shape: [vocab, width] },
      { dtype: "i32", shape: [tokens] },
      f32(1),
      f32(1),
    ];
    const fused = callOf(executor, LinearCrossEntropyGrad, inputs, {}, { labels: vocab, outputs: [0, 2] });
    const logits = productCall(executor, { m: tokens, n: vocab, k: width, transB: 1, weight: "bf16", what: "" });
    const gradient = productCall(executor, { m: tokens, n: width, k: vocab, weight: "bf16", what: "" });
    for (const run of [fused, logits, gradient]) run();
    const [head, ...products] = [fused, logits, gradient].map((run) => time(run, 1));
    const bare = { median: 0, best: 0 };
    for (const product of products) {
      bare.median += product.median;
      bare.best += product.best;
    }
    const show = ({ median, best }: Timing): string => `${cell(1000 * median)} (${cell(1000 * best)})`;
    console.log(
      `T ${tokens}, H ${width}, V ${vocab}: ${show(head!)}, bare products ${show(bare)}, ratio ${(head!.best / bare.best).toFixed(2)}`,
    );
  }
}

const groups = Bun.argv.slice(2);
const wants = (group: string): boolean => groups.length === 0 || groups.includes(group);
const open = (matmul: MatmulChoice) => Promise.all([1, 2].map((threads) => createWasmExecutor({ threads, matmul })));
const executors = await open("wasm");
if (wants("gemm")) await benchProducts(executors, "wasm", PRODUCTS);
if (wants("bf16")) {
  const machine = await open("bf16");
  await benchProducts(machine, "bf16", BF16_PRODUCTS, BF16_PROMISE);
  for (const executor of machine) executor.close();
}
if (wants("int8")) {
  const machine = await open("int8");
  await benchProducts(machine, "int8", INT8_PRODUCTS);
  for (const executor of machine) executor.close();
}
if (wants("head")) for (const executor of executors) benchHead(executor);
for (const executor of executors) executor.close();
