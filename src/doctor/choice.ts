import { mayHaveAdapter } from "../ort/webgpu/adapter.ts";
import { rememberChoice, rememberedChoice } from "../ort/webgpu/choice.ts";
import { type ApartOptions, examineApart } from "./apart.ts";
import type { DeviceReport, Target } from "./report.ts";

/** The processor, in the ways that `--device auto` may compute on it. */
const PROCESSOR: readonly Target[] = [
  { device: "wasm", matmul: "wasm" },
  { device: "wasm", matmul: "native" },
];

/** True if WebGPU's adapter is no software and faster than the kernels on the processor, both in products and in memory. */
export function adapterWins(reports: readonly DeviceReport[]): boolean {
  const adapter = reports.find(({ device }) => device === "webgpu");
  if (!adapter?.works || !adapter.test || adapter.adapter?.isSoftware !== false) return false;
  const { gflops, gbps } = adapter.test;
  return reports.every(({ device, test }) => device !== "wasm" || !test || (gflops > test.gflops && gbps > test.gbps));
}

/**
 * True if `--device auto` is to take WebGPU where there is no CUDA: as was found out once, or else measured now in child processes, and kept.
 * @param mayHave false where the machine has no adapter for sure
 */
export async function prefersWebGpu(options: ApartOptions = {}, mayHave = mayHaveAdapter): Promise<boolean> {
  if (!mayHave()) return false;
  const known = rememberedChoice();
  if (known !== null) return known;
  const adapter = await examineApart({ device: "webgpu", matmul: null }, options);
  const reports = [adapter];
  // Otherwise nothing is to be compared.
  if (adapter.works) for (const target of PROCESSOR) reports.push(await examineApart(target, options));
  const wins = adapterWins(reports);
  if (options.signal?.aborted !== true) rememberChoice(wins);
  return wins;
}
