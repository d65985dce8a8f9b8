import { join } from "node:path";
import { parseArgs } from "node:util";
import { machine, ownVersions, versionsText, writeSection } from "./report.ts";
import { type ShapeName, SHAPES } from "./shapes.ts";

/**
 * Where the time of a training step goes: runs `bench/step.ts --profile` on one thread, sorts operators into groups and
 * writes a table into docs/profile.md.
 *
 *     bun bench/profile.ts --shape smollm2-135m --tokens 512 --matmul native
 *
 * On one thread the profile is in processor time, so it is hardly disturbed by other processes.
 */
const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "smollm2-135m" },
    tokens: { type: "string", default: "512" },
    matmul: { type: "string", default: "native" },
    steps: { type: "string", default: "4" },
    output: { type: "string", default: join(import.meta.dir, "../docs/profile.md") },
  },
});

interface Entry {
  readonly op: string;
  readonly product?: {
    readonly a: readonly number[];
    readonly b: readonly number[];
    readonly transA: boolean;
    readonly transB: boolean;
  };
  readonly seconds: number;
  readonly calls: number;
}

const RANK = 16;
const shape = SHAPES[values.shape as ShapeName];
const tokens = Number(values.tokens);

/** Group of an operator, and its floating-point operations per call where they are what it is measured by. */
function classify({ op, product }: Entry): { group: string; flops: number } {
  const { hidden_size: hidden, num_attention_heads: heads, vocab_size: vocab } = shape;
  const dim = "head_dim" in shape ? (shape.head_dim as number) : hidden / heads;
  // Causal work counted once: half of the score matrix.
  const scores = (tokens * (tokens + 1) * dim * heads) / 2;
  switch (op) {
    case "Gemm": {
      const { a, b, transA, transB } = product!;
      const [m, k] = transA ? [a[1]!, a[0]!] : [a[0]!, a[1]!];
      const n = transB ? b[0]! : b[1]!;
      const flops = 2 * m * n * k;
      if (Math.min(m, n, k) <= RANK) return { group: "adapter products", flops };
      return { group: transB ? "frozen products, forward and replay" : "frozen products, gradient", flops };
    }
    case "Attention":
      return { group: "attention, forward and replay", flops: 4 * scores };
    case "AttentionGrad":
      return { group: "attention, gradient", flops: 10 * scores };
    case "LinearCrossEntropyGrad":
      return { group: "head: logits, loss, gradient", flops: 4 * tokens * vocab * hidden };
    case "SwiGLU":
    case "SwiGLUGrad":
      return { group: "SwiGLU and its gradient", flops: 0 };
    case "RMSNormalization":
    case "RMSNormGrad":
    case "LayerNormalization":
    case "LayerNormGrad":
      return { group: "norms and their gradients", flops: 0 };
    case "CausalConv":
    case "CausalConvGrad":
      return { group: "convolutions and their gradients", flops: 0 };
    case "GatedDelta":
    case "GatedDeltaGrad":
      return { group: "gated delta rule and its gradient", flops: 0 };
    case "AdamW":
    case "SumSquares":
      return { group: "clipping and AdamW", flops: 0 };
    default:
      return { group: "rotary positions, residual sums, embedding", flops: 0 };
  }
}

/** How weights are stored: as products that round them have them, else in f32. */
const dtype = { bf16: "bf16", int8: "q8" }[values.matmul] ?? "f32";
const { matmul, steps } = values;
const args = Object.entries({ shape: values.shape, tokens: values.tokens, matmul, dtype, steps, threads: "1" });
const flags = [...args.flatMap(([name, value]) => [`--${name}`, value]), "--profile"];
const child = Bun.spawn([process.execPath, join(import.meta.dir, "step.ts"), ...flags], {
  stdout: "pipe",
  stderr: "inherit",
});
const output = (await new Response(child.stdout).text()).split("\n");
if ((await child.exited) !== 0) throw new Error("bench/step.ts failed");
const run = JSON.parse(output.find((line) => line.startsWith("{"))!) as { stepCpuSeconds: number };
const entries = JSON.parse(output.find((line) => line.startsWith("profile "))!.slice("profile ".length)) as Entry[];

const groups = new Map<string, { seconds: number; flops: number; calls: number }>();
let best = 0;
for (const entry of entries) {
  const { group, flops } = classify(entry);
  const sum = groups.get(group) ?? { seconds: 0, flops: 0, calls: 0 };
  sum.seconds += entry.seconds;
  sum.flops += flops * entry.calls;
  sum.calls += entry.calls;
  groups.set(group, sum);
  if (group.startsWith("frozen")) best = Math.max(best, (flops * entry.calls) / entry.seconds);
}
const inside = [...groups.values()].reduce((sum, { seconds }) => sum + seconds, 0);
groups.set("outside of kernels", { seconds: Math.max(0, run.stepCpuSeconds - inside), flops: 0, calls: 0 });
const total = Math.max(inside, run.stepCpuSeconds);
const lines = [
  `${machine()}, one thread; ${versionsText(ownVersions())}. Processor time of a step: ${total.toFixed(2)} s.`,
  `The fastest kind of frozen product reaches ${(best / 1e9).toFixed(0)} GFLOP/s; at that rate all counted products would take ` +
    `${((100 * [...groups.values()].reduce((sum, { flops }) => sum + flops, 0)) / best / total).toFixed(0)} % of the step.`,
  "",
  "| part | share | ms | operators | GFLOP/s | share of the fastest |",
  "| --- | --- | --- | --- | --- | --- |",
  ...[...groups]
    .sort(([, a], [, b]) => b.seconds - a.seconds)
    .map(([name, { seconds, flops, calls }]) => {
      const rate =
        flops > 0 ? [(flops / seconds / 1e9).toFixed(0), `${((100 * flops) / seconds / best).toFixed(0)} %`] : ["", ""];
      return `| ${[name, `${((100 * seconds) / total).toFixed(1)} %`, (1000 * seconds).toFixed(0), String(Math.round(calls)), ...rate].join(" | ")} |`;
    }),
];
console.log(lines.join("\n"));
writeSection(values.output, `${values.shape}, ${tokens} tokens, ${values.matmul}`, lines);
