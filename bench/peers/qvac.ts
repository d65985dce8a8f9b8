/**
 * Training steps of QVAC's LoRA on random weights in f32, with the JSON line of bench/step.ts. QVAC trains few architectures, so the model is a Qwen3 of the
 * shape's sizes: it has norms of queries and keys besides. `--modules` is a folder `node_modules` with @qvac/llm-llamacpp and bare.
 *
 *     bun bench/peers/qvac.ts --modules /path/to/node_modules --shape smollm2-135m --tokens 512
 */
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../../src/base/random.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { exportGguf } from "../../src/library/export-gguf.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { median } from "../report.ts";
import { randomCheckpoint, type ShapeName, SHAPES } from "../shapes.ts";

const { values } = parseArgs({
  options: {
    modules: { type: "string", default: "" },
    shape: { type: "string", default: "smollm2-135m" },
    tokens: { type: "string", default: "512" },
    steps: { type: "string", default: "3" },
    threads: { type: "string", default: "2" },
  },
});
const [tokens, steps] = [Number(values.tokens), Number(values.steps)];
const folder = mkdtempSync(join(tmpdir(), "remat-qvac-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

const { hidden_size, num_attention_heads, ...shape } = SHAPES[values.shape as ShapeName];
const fields = {
  ...shape,
  hidden_size,
  num_attention_heads,
  head_dim: hidden_size / num_attention_heads,
  architectures: ["Qwen3ForCausalLM"],
  model_type: "qwen3",
};
const model = join(folder, "model");
mkdirSync(model, { recursive: true });
writeFileSync(join(model, "config.json"), JSON.stringify(fields));
const base = join(import.meta.dir, "../../recipes/base/model");
for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(base, file), join(model, file));

const source = randomCheckpoint(parseConfig(fields, "bench/peers/qvac.ts"), "bf16");
writeSafetensors(
  join(model, "model.safetensors"),
  [...source.tensors.values()].map((entry) => ({
    name: entry.name,
    dtype: "bf16" as const,
    shape: entry.shape,
    data() {
      const data = new Uint8Array(entry.bytes);
      source.read(entry, data);
      return data;
    },
  })),
);
await exportGguf({ model, out: join(folder, "model.gguf"), type: "f32", overwrite: true });

// Letters apart are tokens of their own. Steps behind the last one are not waited for.
const random = createRandom(1, "text");
const letters = Array.from({ length: (steps + 2) * tokens }, () => String.fromCharCode(97 + random.below(26)));
writeFileSync(join(folder, "text.txt"), letters.join(" "));

const options = {
  model: join(folder, "model.gguf"),
  tokens,
  threads: Number(values.threads),
  finetune: {
    trainDatasetDir: join(folder, "text.txt"),
    validation: { type: "none" },
    numberOfEpochs: 1,
    learningRate: 1e-4,
    lrScheduler: "constant",
    contextLength: tokens,
    batchSize: tokens,
    microBatchSize: tokens,
    assistantLossOnly: false,
    loraModules: "attn_q,attn_k,attn_v,attn_o,ffn_gate,ffn_up,ffn_down",
    loraRank: 16,
    loraAlpha: 32,
    outputParametersDir: join(folder, "adapter"),
    checkpointSaveDir: join(folder, "checkpoints"),
  },
};
const begin = performance.now();
const script = join(import.meta.dir, "qvac-run.cjs");
// The runtime itself: what npm calls `bare` starts it as a process of its own.
const bare = join(values.modules, `bare-runtime-${process.platform}-${process.arch}/bin/bare`);
const child = Bun.spawn([bare, script, values.modules, JSON.stringify(options)], { stdout: "pipe", stderr: "pipe" });
process.on("exit", () => child.kill("SIGKILL"));
const errors = new Response(child.stderr).text();

/** Processor seconds of the child so far: fields 14 and 15 of Linux's `stat`, in ticks of a hundredth. */
function cpuSeconds(): number {
  const behindName = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return (Number(behindName[11]) + Number(behindName[12])) / 100;
}
const ends: { readonly at: number; readonly cpu: number; readonly loss: number }[] = [];
let rest = "";
for await (const chunk of child.stdout) {
  const lines = (rest + new TextDecoder().decode(chunk)).split("\n");
  rest = lines.pop()!;
  for (const line of lines.filter((text) => text.startsWith('{"step"'))) {
    if (ends.length === steps) break;
    ends.push({ at: (performance.now() - begin) / 1000, cpu: cpuSeconds(), loss: (JSON.parse(line) as { loss: number }).loss });
    if (ends.length === steps) child.kill("SIGKILL");
  }
}
await child.exited;
if (ends.length < Math.min(2, steps)) throw new Error(`QVAC made ${ends.length} steps:\n${await errors}`);
const later = ends.slice(1).map((end, i) => ({ seconds: end.at - ends[i]!.at, cpu: end.cpu - ends[i]!.cpu }));
const stepSeconds = median(later.map(({ seconds }) => seconds));
const { version } = JSON.parse(readFileSync(join(values.modules, "@qvac/llm-llamacpp/package.json"), "utf8")) as {
  version: string;
};
console.log(
  JSON.stringify({
    system: "qvac",
    versions: { "@qvac/llm-llamacpp": version },
    shape: values.shape,
    tokens,
    loss: ends.at(-1)!.loss,
    firstStepSeconds: ends[0]!.at,
    stepSeconds,
    tokensPerSecond: tokens / stepSeconds,
    stepCpuSeconds: median(later.map(({ cpu }) => cpu)),
    peakRss: child.resourceUsage()!.maxRSS,
  }),
);
