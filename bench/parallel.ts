/**
 * Steps of one process and of several, of one thread each: how much of what N processes could gain is gained. SmolLM2-135M's shape with
 * random weights, LoRA of rank 8 on all linear layers, micro-batches of 512 tokens.
 *
 *     bun bench/parallel.ts [nodes] [micro-batches] [steps] [f32|bf16|int8]
 *
 * Medians of the steps in which all processes took part, but for the first of a run. Exit code 1 when the efficiency is below 0.85, or the adapters differ.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { formatBytes } from "../src/base/bytes.ts";
import { writeTinyModel } from "../test/support/cli.ts";
import { remat } from "./checkout.ts";
import { median } from "./report.ts";
import { SHAPES } from "./shapes.ts";

const [nodes = 2, microBatches = 4, steps = 4] = process.argv.slice(2, 5).map(Number);
const [encoding = "f32"] = process.argv.slice(5);
const LEAST = 0.85;

interface Step {
  readonly type: string;
  readonly seconds: number;
  readonly forwardBackward: { readonly measured: number };
  readonly nodes?: { readonly ready: number; readonly elsewhere: number; readonly sent: number; readonly received: number };
}

const folder = mkdtempSync(join(tmpdir(), "remat-parallel-"));
try {
  mkdirSync(join(folder, "model"));
  writeTinyModel(join(folder, "model"), { ...SHAPES["smollm2-135m"], head_dim: 64, torch_dtype: "bfloat16" });
  const words = (i: number) => Array.from({ length: 300 }, (_, at) => `word ${(31 * at + 17 * i) % 997}`).join(" ");
  writeFileSync(
    join(folder, "data.jsonl"),
    Array.from({ length: 64 }, (_, i) => `${JSON.stringify({ text: words(i) })}\n`).join(""),
  );

  /** Seconds of a step, and what is sent with it; the adapter of the first steps, which all runs have. */
  const run = async (count: number) => {
    const output = `run-${count}`;
    const flags =
      `--model model --data data.jsonl --truncate --sequence-length 512 --threads 1 --gradient-accumulation ${microBatches} --nodes ${count} --gradient-encoding ${encoding} ` +
      `--steps ${steps} --no-sample --save-minutes 0 --learning-rate 0.001 --output ${output}`;
    await remat(join(import.meta.dir, ".."), ["train", ...flags.split(" ")], folder);
    const lines = readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n");
    const all = lines.map((line) => JSON.parse(line) as Step).filter(({ type }) => type === "step");
    const own = Math.ceil(microBatches / count);
    const full = all.slice(1).filter((step) => step.nodes?.ready === count && step.nodes.elsewhere >= microBatches - own);
    if (full.length === 0) throw new Error(`no step of ${steps} was done by all ${count} processes; give more steps`);
    const adapter = readFileSync(join(folder, output, "adapter_model.safetensors"));
    const mean = (key: "sent" | "received") => full.reduce((sum, step) => sum + step.nodes![key], 0) / full.length;
    const bytes = { sent: mean("sent"), received: mean("received") };
    /** Seconds of a micro-batch at the coordinator: processes beside each other share the machine's memory. */
    const micro = median(full.map((step) => step.forwardBackward.measured / (microBatches - step.nodes!.elsewhere)));
    return {
      seconds: median(full.map(({ seconds }) => seconds)),
      micro,
      counted: full.length,
      bytes,
      adapter,
    };
  };

  const one = await run(1);
  const several = await run(nodes);
  const efficiency = one.seconds / several.seconds / nodes;
  const text = ({ seconds, micro, counted }: typeof one) =>
    `${seconds.toFixed(2)} s a step of ${microBatches} micro-batches, ${micro.toFixed(2)} s a micro-batch (${counted} steps)`;
  console.log(`one process       ${text(one)}`);
  console.log(`${nodes} processes       ${text(several)}`);
  console.log(`efficiency        ${efficiency.toFixed(3)}`);
  console.log(
    `bytes a step      ${formatBytes(several.bytes.sent)} sent, ${formatBytes(several.bytes.received)} received in ${encoding}`,
  );
  const isSame = one.adapter.equals(several.adapter);
  console.log(`adapters          ${isSame ? "the same to the bit" : "DIFFER"}`);
  process.exitCode = isSame && efficiency >= LEAST ? 0 : 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
