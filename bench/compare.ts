import { join } from "node:path";
import { parseArgs } from "node:util";
import { formatBytes } from "../src/base/bytes.ts";
import { BENCHMARKS, machine, median, ownVersions, versionsText, writeSection } from "./report.ts";
import { SHAPES } from "./shapes.ts";

/**
 * Whole training steps beside PyTorch's: runs bench/step.ts and bench/peers/pytorch.py in turn, several rounds, prints the
 * medians with their ratios to PyTorch f32, and writes them into docs/benchmarks.md.
 *
 *     PYTHON=/path/to/python bun bench/compare.ts --shapes smollm2-135m --tokens 512,1024 --rounds 3
 *
 * PYTHON (or --python) must have torch, transformers and peft; nothing is installed. Without it only this side runs.
 * Each run is a process of its own, on all of `--threads` cores; rounds go through all systems, so that a slow minute of
 * the machine hits all of them.
 */
const { values } = parseArgs({
  options: {
    python: { type: "string", default: process.env["PYTHON"] ?? "" },
    shapes: { type: "string", default: Object.keys(SHAPES).join() },
    tokens: { type: "string", default: "512,1024,2048" },
    systems: { type: "string", default: "pytorch,native,bf16,nf4,half,wasm,pytorch-bf16" },
    rounds: { type: "string", default: "3" },
    steps: { type: "string", default: "4" },
    threads: { type: "string", default: "2" },
    layers: { type: "string" },
    output: { type: "string", default: BENCHMARKS },
  },
});

interface System {
  readonly label: string;
  readonly peer: boolean;
  readonly args: readonly string[];
  /** Memory that the process is given: a share of the peak RSS of the baseline, which has run before. */
  readonly share?: number;
}

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
  pytorch: { label: "PyTorch f32", peer: true, args: [] },
  "pytorch-bf16": { label: "PyTorch bf16 (arithmetic too)", peer: true, args: ["--dtype", "bf16"] },
};
const BASELINE = "pytorch";

/** The JSON line of a run. */
interface Run {
  readonly tokensPerSecond: number;
  readonly stepCpuSeconds: number;
  readonly peakRss: number;
  readonly firstStepSeconds: number;
  readonly versions?: Readonly<Record<string, string>>;
}

interface Row {
  readonly shape: string;
  readonly tokens: number;
  readonly system: string;
  readonly runs: readonly Run[];
}

async function run(name: string, shape: string, tokens: string, baseline: readonly Run[]): Promise<Run> {
  const system = SYSTEMS[name]!;
  const memory = system.share ? ["--memory", String(Math.floor(system.share * median(baseline.map((one) => one.peakRss))))] : [];
  const common = ["--shape", shape, "--tokens", tokens, "--steps", values.steps, "--threads", values.threads];
  const script = system.peer
    ? [values.python, join(import.meta.dir, "peers/pytorch.py")]
    : [process.execPath, join(import.meta.dir, "step.ts")];
  const layers = values.layers === undefined ? [] : ["--layers", values.layers];
  const child = Bun.spawn([...script, ...common, ...layers, ...system.args, ...memory], { stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
  if ((await child.exited) !== 0) throw new Error(`${system.label}, ${shape}, ${tokens} tokens failed:\n${errors}`);
  return JSON.parse(output.split("\n").find((line) => line.startsWith("{"))!) as Run;
}

/** Lines of a Markdown table: medians, and in brackets the ratio to the baseline of the same shape and tokens. */
function table(rows: readonly Row[]): string[] {
  const of = (row: Row, key: "tokensPerSecond" | "stepCpuSeconds" | "peakRss" | "firstStepSeconds") =>
    median(row.runs.map((one) => one[key]));
  return [
    "| model | tokens | system | tokens/s | CPU s per step | peak RSS | first step after |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...rows.map((row) => {
      const base = rows.find((other) => other.system === BASELINE && other.shape === row.shape && other.tokens === row.tokens);
      const cell = (key: Parameters<typeof of>[1], text: string) =>
        base && base !== row ? `${text} (${(of(row, key) / of(base, key)).toFixed(2)})` : text;
      const cells = [
        row.shape,
        String(row.tokens),
        SYSTEMS[row.system]!.label,
        cell("tokensPerSecond", of(row, "tokensPerSecond").toFixed(0)),
        cell("stepCpuSeconds", of(row, "stepCpuSeconds").toFixed(2)),
        cell("peakRss", formatBytes(of(row, "peakRss"))),
        cell("firstStepSeconds", `${of(row, "firstStepSeconds").toFixed(1)} s`),
      ];
      return `| ${cells.join(" | ")} |`;
    }),
  ];
}

function circumstances(rows: readonly Row[]): string[] {
  const peer = rows.flatMap((row) => row.runs).find((one) => one.versions)?.versions ?? {};
  const layers = values.layers === undefined ? "" : `, ${values.layers} layers only`;
  return [
    `${machine()}, ${values.threads} threads; ${versionsText({ ...ownVersions(), ...peer })}; ` +
      `medians of ${values.rounds} rounds of ${values.steps} steps, the first of which counts for the last column alone.`,
    "",
    `LoRA r = 16 on all linear layers, random weights, one row of tokens, gradient checkpointing on${layers}. ` +
      "In brackets: ratio to PyTorch f32.",
  ];
}

const systems = values.systems.split(",").filter((name) => values.python !== "" || !SYSTEMS[name]?.peer);
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
for (const shape of values.shapes.split(",")) {
  const all = cases
    .filter((one) => one.shape === shape)
    .flatMap(({ tokens }) =>
      systems.map((system): Row => ({ shape, tokens: Number(tokens), system, runs: rows.get(`${shape} ${tokens} ${system}`)! })),
    );
  const lines = [...circumstances(all), "", ...table(all)];
  console.log(lines.join("\n"));
  writeSection(values.output, `steps, ${shape}`, lines);
}
