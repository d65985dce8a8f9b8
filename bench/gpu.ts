import { join } from "node:path";
import { parseArgs } from "node:util";
import { describeMissing, findCuda, PROVIDER_FILES } from "../src/ort/cuda.ts";
import { installCuda } from "../src/ort/install.ts";
import { gib, judge, type Measured, type RematStep } from "./gpu/judge.ts";

/**
 * Everything that has to be shown on a machine with an NVIDIA card, in one command of under ten minutes, with an
 * assertion on every number; exit code 1 if one fails.
 *
 *     bun bench/gpu.ts [--python PYTHON]        PYTHON has torch for CUDA 13, transformers and peft
 *
 * Tried out on the CPU, where memory is not compared:
 *
 *     bun bench/gpu.ts --provider cpu --shapes smollm2-135m --tokens 64 --layers 2 --steps 3
 *
 * 1. The provider's files are fetched if nothing else is missing. NVIDIA's libraries may be those of PYTHON's packages.
 * 2. Parity with the WebAssembly executor: every operator, all segment models and whole training runs in f32 (TF32 off) within
 *    1e-4, in bf16 and f16 within 2e-2; generation token for token; offload to pinned memory; temporary memory as measured.
 * 3. Tokens/s and peak device memory of a LoRA step (r = 16, gradient checkpointing) against PyTorch, Transformers and
 *    PEFT on the same card, each in a process of its own: at least 0.7 of the speed, at most 1.0 of the memory.
 *
 * `--only parity` or `--only speed` does a half. Each part has a time limit of its own, and none begins behind `--limit` seconds: what
 * is not reached has failed. Results are printed as they come, and as a table (docs/benchmarks.md) at the end.
 */
const { values } = parseArgs({
  options: {
    provider: { type: "string", default: "cuda" },
    python: { type: "string", default: "python3" },
    shapes: { type: "string", default: "qwen2.5-0.5b,qwen2.5-1.5b" },
    tokens: { type: "string", default: "2048,8192" },
    dtypes: { type: "string", default: "bf16,f32" },
    steps: { type: "string", default: "4" },
    layers: { type: "string" },
    only: { type: "string" },
    limit: { type: "string", default: "600" },
  },
});
if (values.only !== undefined && values.only !== "parity" && values.only !== "speed")
  throw new Error(`--only takes parity or speed, got ${values.only}`);
const isCuda = values.provider === "cuda";
const LIMIT_SECONDS = Number(values.limit);
/** The seconds that a test file, and one system's steps, may take. */
const PART_SECONDS = 90;
/** The end of a part that is cut off, in characters. */
const TAIL = 2000;

const root = join(import.meta.dir, "..");
const failures: string[] = [];
const check = (what: string, passed: boolean, detail: string) => {
  console.log(`${passed ? "ok  " : "FAIL"} ${what}: ${detail}`);
  if (!passed) failures.push(`${what}: ${detail.split("\n")[0]}`);
};
const secondsLeft = () => LIMIT_SECONDS - performance.now() / 1000;

/** Output of a command, or null if it failed or took too long, which is then reported. */
function output(what: string, command: readonly string[], env: Record<string, string> = {}): string | null {
  const seconds = Math.min(PART_SECONDS, secondsLeft());
  if (seconds <= 0) {
    check(what, false, `not reached within ${LIMIT_SECONDS} s`);
    return null;
  }
  if (Bun.which(command[0]!) === null) {
    check(what, false, `there is no command ${command[0]}`);
    return null;
  }
  const child = Bun.spawnSync([...command], {
    cwd: root,
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: Math.ceil(1000 * seconds),
    killSignal: "SIGKILL",
  });
  const text = `${child.stdout.toString()}\n${child.stderr.toString()}`;
  if (child.exitCode === 0) return text;
  const why = child.exitedDueToTimeout ? `not done after ${seconds.toFixed(0)} s` : `exit code ${child.exitCode}`;
  check(what, false, `${why}\n${text.trim().slice(-TAIL)}`);
  return null;
}

/** The last line of a command's output that is a JSON object. */
function measured<T extends Measured>(what: string, command: readonly string[]): T | null {
  const text = output(what, command);
  if (text === null) return null;
  const line = text.split("\n").findLast((each) => each.startsWith("{"));
  if (line !== undefined) {
    console.log(`     ${what}: ${line}`);
    return JSON.parse(line) as T;
  }
  check(what, false, `no JSON line in the output\n${text.slice(-TAIL)}`);
  return null;
}

async function requireCuda(): Promise<void> {
  const isOurs = (what: string) => PROVIDER_FILES.some((file) => what.startsWith(file));
  // PyTorch brings NVIDIA's libraries along, as Python packages.
  const python = Bun.which(values.python);
  const prefix = python === null ? null : Bun.spawnSync([python, "-c", "import sys; print(sys.prefix)"], { stderr: "ignore" });
  if (prefix?.exitCode === 0) process.env["VIRTUAL_ENV"] ??= prefix.stdout.toString().trim();
  const before = findCuda().missing;
  if (before.length > 0 && before.every(({ what }) => isOurs(what))) await installCuda();
  const { missing, found } = findCuda();
  for (const entry of missing) process.stderr.write(`${describeMissing(entry)}\n`);
  if (missing.length > 0) process.exit(2);
  console.log(`CUDA: ${found.join(", ")}`);
  const query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader"];
  if (Bun.which("nvidia-smi")) console.log(`card: ${Bun.spawnSync(query).stdout.toString().trim()}`);
}

const PARITY: readonly string[] = [
  "ort/executor",
  "ort/segments",
  "ort/families",
  "ort/engine",
  "ort/precision",
  "ort/generate",
  "ort/offload",
  // WebGPU's temporary memory cannot be asked for.
  ...(values.provider === "webgpu" ? ["ort/webgpu"] : ["runtime/temporary"]),
];

function parity(): void {
  for (const file of PARITY) {
    const command = [process.execPath, "test", `test/${file}.test.ts`];
    const text = output(`parity, ${file}`, command, { REMAT_TEST_PROVIDER: values.provider });
    if (text !== null)
      check(`parity, ${file}`, /\n *[1-9]\d* pass/.test(text), / *\d+ pass\n *\d+ fail/.exec(text)?.[0] ?? "no tests");
  }
}

const rows: string[][] = [["shape", "tokens", "dtype", "system", "tokens/s", "s per step", "allocator", "card"]];
function compare(shape: string, tokens: string, dtype: string): void {
  const name = `${shape}, ${tokens} tokens, ${dtype}`;
  const work = ["--shape", shape, "--tokens", tokens, "--dtype", dtype, "--steps", values.steps];
  if (values.layers) work.push("--layers", values.layers);
  const run = <T extends Measured>(system: string, command: readonly string[], device: string): T | null => {
    const found = measured<T>(`${name}: ${system}`, [...command, "--device", device, ...work]);
    if (found) {
      const { tokensPerSecond, stepSeconds, peakDeviceMemory, cardMemory } = found;
      const bytes = [isCuda ? peakDeviceMemory : undefined, cardMemory].map((each) => (each === undefined ? "" : gib(each)));
      rows.push([shape, tokens, dtype, system, tokensPerSecond.toFixed(0), stepSeconds.toPrecision(3), ...bytes]);
    }
    return found;
  };
  const ours = run<RematStep>("Remat", [process.execPath, "bench/step.ts"], isCuda ? "cuda" : "ort-cpu");
  const peer = run<Measured>("PyTorch", [values.python, "bench/peers/pytorch.py"], isCuda ? "cuda" : "cpu");
  for (const { what, passed, detail } of judge(ours, peer, isCuda)) check(`${name}: ${what}`, passed, detail);
}

if (isCuda) await requireCuda();
if (values.only !== "speed") parity();
if (values.only !== "parity") {
  for (const dtype of values.dtypes.split(","))
    for (const shape of values.shapes.split(",")) for (const tokens of values.tokens.split(",")) compare(shape, tokens, dtype);
}
const seconds = performance.now() / 1000;
check("time", seconds < LIMIT_SECONDS, `${seconds.toFixed(0)} s of at most ${LIMIT_SECONDS}`);
if (rows.length > 1) {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  console.log(["", line(rows[0]!), line(rows[0]!.map(() => "---")), ...rows.slice(1).map(line), ""].join("\n"));
}
console.log(failures.length === 0 ? "all passed" : `${failures.length} failed:\n${failures.join("\n")}`);
process.exitCode = failures.length === 0 ? 0 : 1;
