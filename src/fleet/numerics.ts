import { readFileSync } from "node:fs";
import { join } from "node:path";
import { lazily } from "../base/lazily.ts";
import { PROGRAM_FOLDER } from "../base/process/program.ts";
import { latest } from "../wasm/kernels.ts";
import { bf16Kernel, features } from "../wasm/machine-code/executable.ts";

/** The processor's features by which kernels are chosen here, in ONNX Runtime, or by the engine of WebAssembly. */
const DECIDING = [
  "sse4_1",
  "avx",
  "fma",
  "avx2",
  "avx512f",
  "avx512bw",
  "avx512_bf16",
  "avx512_vnni",
  "avx_vnni",
  "asimd",
  "sve",
];

/** Describes everything of a machine that decides a run's bits besides the run's own settings. */
export interface Numerics {
  /** Remat's version with the hash of its kernels. All machines of a fleet have the same. */
  readonly version: string;
  /** The processor: its architecture, and those of its features that decide. A job goes on among machines that have the same. */
  readonly processor: string;
}

/** Returns this machine's. */
export const numericsHere = lazily((): Numerics => {
  const { version } = JSON.parse(readFileSync(join(PROGRAM_FOLDER, "package.json"), "utf8")) as { readonly version: string };
  const has = new Set(features());
  const deciding = DECIDING.filter((feature) => has.has(feature));
  const bf16 = bf16Kernel() === "amx" ? ["amx_bf16"] : [];
  return {
    version: `${version}+kernels.${latest(PROGRAM_FOLDER) ?? "none"}+bun.${Bun.version}`,
    processor: [`${process.platform}-${process.arch}`, ...deciding, ...bf16].join(" "),
  };
});
