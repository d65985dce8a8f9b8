import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/base/bytes.ts";
import { BENCHMARKS, hasSection, machine, median, ownVersions, versionsText, writeSection } from "./report.ts";
import { outcomesOf } from "./compare-promises.ts";
import { fastestPeer, type Measured, medianOf, type Quantity, quietOf, spreadOf, type SystemRuns } from "./compare-rows.ts";
import { SHAPES } from "./shapes.ts";

/**
 * Whole training steps beside PyTorch's: runs bench/step.ts and bench/peers/pytorch.py in turn, several rounds, prints the
 * medians with their ratios to PyTorch f32 with gradient checkpointing and to PyTorch's fastest configuration, and writes them into
 * the section of docs/benchmarks.md that is for this shape and so many tokens, of systems with three rounds
 * that hardly differ. The exit code is 1 where a ratio is not what is promised of it (compare-promises.ts).
 *
 *     PYTHON=/path/to/python bun bench/compare.ts --shapes smollm2-135m --tokens 512,1024 --rounds 3
 *
 * PYTHON (or --python) must have torch, transformers and peft, --mlx-python MLX-LM for the system mlx, and --qvac-modules, a folder node_modules, @qvac/llm-llamacpp and bare for
 * the system qvac; nothing is installed. Without them only this side runs.
 * Each run is a process of its own, on all of `--threads` cores; rounds go through all systems, so that a slow minute of
 * the machine hits all of them.
 */
const { values } = parseArgs({
  options: {
    python: { type: "string", default: process.env["PYTHON"] ?? "" },
    "mlx-python": { type: "string", default: "" },
    "qvac-modules": { type: "string", default: "" },
    shapes: { type: "string", default: Object.keys(SHAPES).join() },
    tokens: { type: "string", default: "512,1024,2048" },
    systems: {
      type: "string",
      default: "pytorch,pytorch-none,pytorch-bf16,pytorch-bf16-none,native,bf16,default,products,nf4,half,wasm",
    },
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "4" },
    threads: { type: "string", default: "2" },
    layers: { type: "string" },
    output: { type: "string", default: BENCHMARKS },
  },
});

interface System {
  readonly label: string;
  /** True: PyTorch; "mlx": MLX-LM; "qvac": QVAC. */
  readonly peer: boolean | "mlx" | "qvac";
  readonly args: readonly string[];
  /** Memory that the process is given: a share of the peak RSS of the baseline, which has run before. */
  readonly share?: number;
}

const ALL_BF16 = ["--dtype", "bf16", "--lora-dtype", "bf16"];

const SYSTEMS: Readonly<Record<string, System>> = {
  native: { label: "Remat, native products", peer: false, args: ["--matmul", "native"] },
  bf16: { label: "Remat, native products, weights stored as bf16", peer: false, args: ["--matmul", "native", "--dtype", "bf16"] },
  nf4: {
    label: "Remat, native products, weights quantised to NF4",
    peer: false,
    args: ["--matmul", "native", "--dtype", "nf4-all"],
  },
  half: {
    label: "Remat, native products, bf16 weights, half of PyTorch's memory given",
    peer: false,
    args: ["--matmul", "native", "--dtype", "bf16"],
    share: 0.5,
  },
  wasm: { label: "Remat, WebAssembly alone", peer: false, args: ["--matmul", "wasm"] },
  "wasm-default": {
    label: "Remat, WebAssembly alone, bf16 weights, memory by default",
    peer: false,
    args: ["--matmul", "wasm", "--dtype", "bf16", "--strategy", "auto"],
  },
  default: {
    label: "Remat, native products, bf16 weights, memory by default",
    peer: false,
    args: ["--matmul", "native", "--dtype", "bf16", "--strategy", "auto"],
  },
  products: {
    label: "Remat, bf16 products, bf16 weights, memory by default",
    peer: false,
    args: ["--matmul", "bf16", "--dtype", "bf16", "--strategy", "auto"],
  },
  "products-least": {
    label: "Remat, bf16 products, bf16 weights",
    peer: false,
    args: ["--matmul", "bf16", "--dtype", "bf16"],
  },
  int8: {
    label: "Remat, int8 products, 8-bit weights, memory by default",
    peer: false,
    args: ["--matmul", "int8", "--dtype", "q8", "--strategy", "auto"],
  },
  full: { label: "Remat, native products, all weights trained", peer: false, args: ["--matmul", "native", "--tuning", "full"] },
  "full-8bit": {
    label: "Remat, native products, all weights trained, 8-bit AdamW",
    peer: false,
    args: ["--matmul", "native", "--tuning", "full", "--optimizer", "adamw8bit"],
  },
  "pytorch-full": { label: "PyTorch f32, all weights trained", peer: true, args: ["--tuning", "full"] },
  pytorch: { label: "PyTorch f32", peer: true, args: [] },
  "pytorch-none": { label: "PyTorch f32, no checkpointing", peer: true, args: ["--strategy", "off"] },
  "pytorch-autocast": {
    label: "PyTorch f32 with autocast, no checkpointing",
    peer: true,
    args: ["--autocast", "--strategy", "off"],
  },
  "pytorch-mixed": { label: "PyTorch bf16, adapters f32", peer: true, args: ["--dtype", "bf16"] },
  "pytorch-bf16": { label: "PyTorch bf16, adapters too", peer: true, args: ALL_BF16 },
  "pytorch-bf16-none": {
    label: "PyTorch bf16, adapters too, no checkpointing",
    peer: true,
    args: [...ALL_BF16, "--strategy", "off"],
  },
  mlx: { label: "MLX-LM f32, CPU backend", peer: "mlx", args: [] },
  qvac: { label: "QVAC f32, a Qwen3 of these sizes", peer: "qvac", args: [] },
  "pytorch-compiled": {
    label: "PyTorch bf16, adapters too, no checkpointing, torch.compile",
    peer: true,
    args: [...ALL_BF16, "--strategy", "off", "--compile"],
  },
};
const BASELINE = "pytorch";

/** The JSON line of a run. */
interface Run extends Measured {
  readonly versions?: Readonly<Record<string, string>>;
}

interface Row extends SystemRuns {
  readonly shape: string;
  readonly tokens: number;
  readonly runs: readonly Run[];
}

/** What begins a system's command line; null: it is not here. */
function commandOf({ peer }: System): string[] | null {
  const script = (name: string) => join(import.meta.dir, name);
  switch (peer) {
    case false:
      return [process.execPath, script("step.ts")];
    case true:
      return values.python === "" ? null : [values.python, script("peers/pytorch.py")];
    case "mlx":
      return values["mlx-python"] === "" ? null : [values["mlx-python"], script("peers/mlx-lm.py")];
    case "qvac":
      return values["qvac-modules"] === ""
        ? null
        : [process.execPath, script("peers/qvac.ts"), "--modules", values["qvac-modules"]];
  }
}

async function run(name: string, shape: string, tokens: string, baseline: readonly Run[]): Promise<Run> {
  const system = SYSTEMS[name]!;
  const memory = system.share ? ["--memory", String(Math.floor(system.share * median(baseline.map((one) => one.peakRss))))] : [];
  const common = ["--shape", shape, "--tokens", tokens, "--steps", values.steps, "--threads", values.threads];
  const layers = values.layers === undefined ? [] : ["--layers", values.layers];
  const child = Bun.spawn([...commandOf(system)!, ...common, ...layers, ...system.args, ...memory], {
    stdout: "pipe",
    stderr: "pipe",
  });
  const [output, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`${system.label}, ${shape}, ${tokens} tokens failed:\n${errors}`);
  return JSON.parse(output.split("\n").find((line) => line.startsWith("{"))!) as Run;
}

/** Lines of a Markdown table: medians with the spread of rates, in brackets the ratio to the baseline, and of rate and memory the ratio to the fastest peer. */
function table(rows: readonly Row[]): string[] {
  const base = rows.find(({ system }) => system === BASELINE);
  const fastest = fastestPeer(rows);
  return [
    "| model | tokens | system | tokens/s | CPU s per step | peak RSS | first step after | of the fastest PyTorch: rate, RSS |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...rows.map((row) => {
      const ratio = (other: Row, key: Quantity) => (medianOf(row, key) / medianOf(other, key)).toFixed(2);
      const cell = (key: Quantity, text: string) => (base && base !== row ? `${text} (${ratio(base, key)})` : text);
      const cells = [
        row.shape,
        String(row.tokens),
        SYSTEMS[row.system]!.label,
        cell("tokensPerSecond", `${medianOf(row, "tokensPerSecond").toFixed(0)} ± ${(100 * spreadOf(row)).toFixed(0)} %`),
        cell("stepCpuSeconds", medianOf(row, "stepCpuSeconds").toFixed(2)),
        cell("peakRss", formatBytes(medianOf(row, "peakRss"))),
        cell("firstStepSeconds", `${medianOf(row, "firstStepSeconds").toFixed(1)} s`),
        fastest ? `${ratio(fastest, "tokensPerSecond")}, ${ratio(fastest, "peakRss")}` : "",
      ];
      return `| ${cells.join(" | ")} |`;
    }),
  ];
}

function circumstances(rows: readonly Row[]): string[] {
  const peer = rows.flatMap((row) => row.runs).find((one) => one.versions)?.versions ?? {};
  const what = systems.every((name) => SYSTEMS[name]!.args.includes("full"))
    ? "All weights trained"
    : "LoRA r = 16 on all linear layers";
  const layers = values.layers === undefined ? "" : `, ${values.layers} layers only`;
  return [
    `${machine()}, ${values.threads} threads; ${versionsText({ ...ownVersions(), ...peer })}; ` +
      `medians of ${values.rounds} rounds of ${values.steps} steps, the first of which counts for "first step after" alone.`,
    "",
    `${what}, random weights, one row of tokens, gradient checkpointing on where nothing else is said${layers}. ` +
      (rows.some(({ system }) => system === BASELINE) ? "In brackets: ratio to PyTorch f32 with gradient checkpointing. " : "") +
      "Behind ±: the greatest distance of a round from the median.",
  ];
}

const systems = values.systems.split(",").filter((name) => !SYSTEMS[name] || commandOf(SYSTEMS[name]) !== null);
for (const name of systems)
  if (SYSTEMS[name]?.share && systems.indexOf(BASELINE) !== 0) throw new Error(`--systems: ${name} wants ${BASELINE} first`);
for (const name of systems) if (!SYSTEMS[name]) throw new Error(`--systems: one of ${Object.keys(SYSTEMS).join(", ")}`);
const cases = values.shapes.split(",").flatMap((shape) => values.tokens.split(",").map((tokens) => ({ shape, tokens })));
const rows = new Map<string, Run[]>();
for (let round = 1; round <= Number(values.rounds); round++) {
  for (const { shape, tokens } of cases) {
    for (const system of systems) {
      const result = await run(system, shape, tokens, rows.get(`${shape} ${tokens} ${BASELINE}`) ?? []);
      const key = `${shape} ${tokens} ${system}`;
      rows.set(key, [...(rows.get(key) ?? []), result]);
      process.stderr.write(
        `round ${round}: ${key}: ${result.tokensPerSecond.toFixed(1)} tokens/s, ${result.stepCpuSeconds.toFixed(2)} CPU s per step, ` +
          `${formatBytes(result.peakRss)}, first step after ${result.firstStepSeconds.toFixed(1)} s\n`,
      );
    }
  }
}
for (const { shape, tokens } of cases) {
  const all = systems.map((system): Row => ({
    shape,
    tokens: Number(tokens),
    system,
    peer: SYSTEMS[system]!.peer !== false,
    runs: rows.get(`${shape} ${tokens} ${system}`)!,
  }));
  const linesOf = (written: readonly Row[]) => [...circumstances(written), "", ...table(written)];
  console.log(linesOf(all).join("\n"));
  const layers = values.layers === undefined ? "" : `, ${values.layers} layers`;
  const section = `steps, ${shape}, ${tokens} tokens${layers}`;
  const { rows: quiet, notes } = quietOf(all);
  for (const note of notes) console.log(`\nnot written: ${note}`);
  if (quiet.length > 0 && hasSection(values.output, section)) writeSection(values.output, section, linesOf(quiet));
  else if (quiet.length > 0) console.log(`\nnot written: ${values.output} has no section for ${section}`);
  for (const { text, isKept } of outcomesOf(all, { shape, tokens: Number(tokens), layers: values.layers ?? null })) {
    console.log(text);
    if (!isKept) process.exitCode = 1;
  }
}
