import { createOrtExecutor, type OrtExecutor } from "../../src/ort/executor.ts";
import type { OrtProvider } from "../../src/ort/providers.ts";

/** The CPU's, or the one that `bench/gpu.ts` has these tests run on. */
export const PROVIDER = (process.env["REMAT_TEST_PROVIDER"] ?? "cpu") as OrtProvider;

export function openOrt(threads: number): OrtExecutor {
  return createOrtExecutor({ threads, provider: PROVIDER });
}

/** Bound of a relative error: other devices sum in another order. bf16 rounds to 4e-3. */
export function boundFor(cpu: number, weights: "f32" | "bf16" | "f16" = "f32"): number {
  if (PROVIDER === "cpu") return cpu;
  return Math.max(cpu, weights === "f32" ? 1e-4 : 2e-2);
}
