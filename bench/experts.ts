/**
 * Products of experts beside plain ones: the rate of `ExpertMlp`, and of its gradient with frozen matrices, at some tokens an expert, as a
 * share of the rate at which one expert's matrices are multiplied with the rows of all of them.
 *
 *     bun bench/experts.ts [--rows 32] [--experts 16] [--width 2048] [--size 768] [--weights bf16] [--rounds 9]
 *
 * Both take turns; times are processor times, of which the least counts. Each expert has the same number of rows, each token two experts.
 */
import { parseArgs } from "node:util";
import type { FloatType } from "../src/base/dtype.ts";
import type { TensorType } from "../src/graph/types.ts";
import { ExpertMlp, ExpertMlpGrad, SWIGLU_EXPERTS } from "../src/ops/expert-mlp.ts";
import { Gemm } from "../src/ops/gemm.ts";
import { createWasmExecutor, type WasmExecutor } from "../src/wasm/executor.ts";
import type { MatmulChoice } from "../src/wasm/matmul.ts";
import { callOf } from "./operator-call.ts";

const { values } = parseArgs({
  options: {
    rows: { type: "string", default: "32" },
    experts: { type: "string", default: "16" },
    width: { type: "string", default: "2048" },
    size: { type: "string", default: "768" },
    weights: { type: "string", default: "bf16" },
    rounds: { type: "string", default: "9" },
  },
});
const [rows, experts, width, size, rounds] = [values.rows, values.experts, values.width, values.size, values.rounds].map(
  Number,
) as [number, number, number, number, number];
const PER_TOKEN = 2;
const all = rows * experts;

const f32 = (...shape: number[]): TensorType => ({ dtype: "f32", shape });
const weight = (...shape: number[]): TensorType => ({ dtype: values.weights as FloatType, shape });

/** Processor seconds. */
function seconds(run: () => void): number {
  const begin = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(begin);
  return (user + system) / 1e6;
}

function bench(executor: WasmExecutor): void {
  const slots = [f32(all / PER_TOKEN, PER_TOKEN), { dtype: "i32", shape: [all / PER_TOKEN, PER_TOKEN] } as const];
  const matrices = Array.from({ length: experts }, () => [weight(size, width), weight(size, width), weight(width, size)]).flat();
  const x = f32(all / PER_TOKEN, width);
  const product = (n: number, k: number, transB: 0 | 1) =>
    callOf(executor, Gemm, [f32(all, k), transB ? weight(n, k) : weight(k, n)], { transB });
  const [toSize, toWidth] = [product(size, width, 1), product(width, size, 1)];
  const [fromSize, fromWidth] = [product(width, size, 0), product(size, width, 0)];
  const pairs = {
    forward: {
      grouped: callOf(executor, ExpertMlp, [x, ...slots, ...matrices], SWIGLU_EXPERTS, { labels: experts }),
      plain: [toSize, toSize, toWidth],
    },
    gradient: {
      grouped: callOf(executor, ExpertMlpGrad, [x, x, ...slots, ...matrices], SWIGLU_EXPERTS, {
        labels: experts,
        outputs: [0, 1],
      }),
      plain: [toSize, toSize, fromWidth, fromSize, fromSize],
    },
  };
  for (const [name, { grouped, plain }] of Object.entries(pairs)) {
    const times = Array.from(
      { length: rounds + 1 },
      () => [seconds(grouped), seconds(() => plain.forEach((run) => run()))] as const,
    );
    const [group, one] = [0, 1].map((i) => Math.min(...times.slice(1).map((pair) => pair[i]!))) as [number, number];
    const rate = (time: number): string => ((2 * all * width * size * plain.length) / time / 1e9).toFixed(1);
    const kind = `${executor.matmul.name}, ${executor.threads} threads`;
    console.log(
      `${kind.padEnd(18)} ${name.padEnd(9)} grouped ${rate(group)}, plain ${rate(one)} GFLOP/s of processor time: ${(one / group).toFixed(2)}`,
    );
  }
}

console.log(`${experts} experts [${size}, ${width}] in ${values.weights}, ${rows} tokens each`);
for (const matmul of ["wasm", "native"] satisfies MatmulChoice[])
  for (const threads of [1, 2]) {
    const executor = await createWasmExecutor({ threads, matmul });
    bench(executor);
    executor.close();
  }
