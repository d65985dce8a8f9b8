import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { ENCODERS, FAMILIES, type GoldenFamily } from "../test/support/golden.ts";
import { broken, runs, starts } from "./webgpu/processes.ts";
import { flatMemory, strategies } from "./webgpu/engines.ts";

/**
 * Everything that has to hold on WebGPU, on whatever adapter there is; Mesa's software will do, with an hour's patience.
 *
 *     bun bench/webgpu.ts                                    everything
 *     bun bench/webgpu.ts --only strategies --families llama,qwen3
 *     bun bench/webgpu.ts --only memory --steps 200
 *
 * - `starts`: devices are opened in ten processes, one after the other.
 * - `strategies`: each family, with LoRA and in full, by every strategy and with offload: loss and gradients as on the kernels within 1e-4, the same
 *   bits by all of them.
 * - `memory`: 200 steps in the same buffers; how much the process has grown.
 * - `runs`: training that is killed and resumed has the bits of one that is not; in f16 and with dropout; the verbs that read what was trained.
 * - `drivers`: none, one that is no library, and one that ends the process: an error of one line.
 *
 * `bun bench/gpu.ts --provider webgpu --only parity` has the tests of operators and segments. Exit code 1 if something does not hold.
 */
const { values } = parseArgs({
  options: {
    only: { type: "string" },
    families: { type: "string" },
    steps: { type: "string", default: "200" },
    kills: { type: "string", default: "3" },
  },
});

const folder = mkdtempSync(join(tmpdir(), "remat-webgpu-"));
const PARTS: Readonly<Record<string, (check: Check) => Promise<void>>> = {
  starts: (check) => starts(check),
  drivers: (check) => broken(check, folder),
  runs: (check) => runs(check, folder, Number(values.kills)),
  memory: (check) => flatMemory(check, Number(values.steps)),
  strategies: (check) => strategies(check, families(), folder),
};

/** Notes an assertion down. */
export type Check = (what: string, passed: boolean, detail: string) => void;

const failures: string[] = [];
const check: Check = (what, passed, detail) => {
  console.log(`${passed ? "ok  " : "FAIL"} ${what}: ${detail}`);
  if (!passed) failures.push(what);
};

function families(): GoldenFamily[] {
  const all: readonly GoldenFamily[] = [...FAMILIES, ...ENCODERS];
  const asked = values.families?.split(",");
  for (const name of asked ?? [])
    if (!all.some((each) => each === name)) throw new Error(`--families: expected some of ${all.join(", ")}; got ${name}`);
  return all.filter((name) => !asked || asked.includes(name));
}

const asked = values.only?.split(",") ?? Object.keys(PARTS);
for (const name of asked)
  if (!Object.hasOwn(PARTS, name)) throw new Error(`--only: expected some of ${Object.keys(PARTS).join(", ")}; got ${name}`);
try {
  for (const name of asked) await PARTS[name]!(check);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
console.log(failures.length === 0 ? "all passed" : `${failures.length} failed:\n${failures.join("\n")}`);
process.exitCode = failures.length === 0 ? 0 : 1;
