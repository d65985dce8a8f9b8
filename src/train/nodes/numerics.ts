import { version } from "../../../package.json" with { type: "json" };
import type { Device } from "../../device.ts";
import { PROGRAM_FOLDER } from "../../base/process/program.ts";
import { latest } from "../../wasm/kernels.ts";
import { features } from "../../wasm/machine-code/executable.ts";

/** Features of a processor by which libraries choose among routines that round differently. */
const FEATURES = /^(?:avx|fma|f16c|sse4|amx|asimd|sve|sme|bf16|i8mm|fphp)/;

/**
 * A text that two processes share when the same work gives the same bits in both: versions, what multiplies matrices, kernels and the
 * features of the processor. Threads are none of it: results do not depend on their number.
 */
export function numericsOf({ name, description }: Pick<Device, "name" | "description">): string {
  const what = description.replace(/, \d+ threads?/, "");
  const deciding = features().filter((feature) => FEATURES.test(feature));
  return [
    `Remat ${version}`,
    `Bun ${Bun.version}`,
    `${process.platform} ${process.arch}`,
    what,
    ...(name === "wasm" ? [`kernels ${latest(PROGRAM_FOLDER)}`] : []),
    `processor with ${deciding.sort().join(" ") || "unknown features"}`,
  ].join("; ");
}

/** Returns what differs between two numerics, as each of them states it. */
export function numericsDifference(ours: string, theirs: string): { readonly ours: string; readonly theirs: string } | null {
  if (ours === theirs) return null;
  const [a, b] = [ours.split("; "), theirs.split("; ")];
  const only = (these: readonly string[], those: readonly string[]) => these.filter((part) => !those.includes(part)).join("; ");
  return { ours: only(a, b), theirs: only(b, a) };
}
