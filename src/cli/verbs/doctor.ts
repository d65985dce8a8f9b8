import { z } from "zod";
import { examine, type Report } from "../../doctor/examine.ts";
import type { DeviceReport } from "../../doctor/report.ts";
import { UserError } from "../../base/errors.ts";
import { describeMissing } from "../../ort/cuda.ts";
import { CUDA_PACKAGE, installCuda } from "../../ort/install.ts";
import { formatBytes } from "../../base/bytes.ts";
import { describeFlags } from "../flags/flags.ts";
import { readFlags } from "../flags/model-flags.ts";
import { print } from "../terminal/output.ts";

const schema = z.strictObject({
  json: z.boolean().default(false).describe("print one JSON object"),
  install: z.enum(["cuda"]).optional().describe("fetch the CUDA provider's files of ONNX Runtime, then look again"),
  from: z.string().min(1).optional().describe("--install: take the downloaded archive from this file, without network"),
});

export { schema as flags };

export function help(): string {
  return `Says for each device whether it works, how fast it is, and what is missing if it does not.

Usage: remat doctor [--json] [--install cuda [--from FILE]]

Each device is tested in a process of its own, which a driver may crash, against numbers computed in float64; speed is that of a matrix product of 512 rows, columns and terms
(GFLOP/s) and of an addition of long vectors (GB/s). --install cuda fetches ${formatBytes(CUDA_PACKAGE.bytes)}
from the Python package index, checks them and puts two files beside ONNX Runtime's library.

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const flags = readFlags("doctor", schema, args);
  if (flags.from !== undefined && flags.install === undefined) throw new UserError("--from needs --install cuda");
  if (flags.install) {
    const paths = await installCuda({ from: flags.from, onBytes: showDownload() });
    process.stderr.write(`installed ${paths.join(" and ")}\n`);
  }
  const report = await examine();
  print(flags.json ? JSON.stringify(report) : formatReport(report));
  return report.devices.some(({ works }) => works) ? 0 : 1;
}

/** A line for every tenth. */
function showDownload(): (bytes: number, total: number) => void {
  let last = -1;
  return (bytes, total) => {
    const tenth = Math.floor((10 * bytes) / total);
    if (tenth > last) process.stderr.write(`${10 * tenth} % of ${formatBytes(total)}\n`);
    last = tenth;
  };
}

/** The systems that each device is for. */
const WHERE =
  "where     wasm and ort-cpu: everywhere; cuda: Linux x64 with an NVIDIA card; webgpu: Linux x64 with a Vulkan driver (Mesa 25 or newer), Windows, macOS on Apple's chips; DirectML and CoreML are not supported";

export function formatReport({ system, runtime, cores, memory, devices, auto }: Report): string {
  const lines = [
    `system    ${system}, ${runtime}, ${cores} cores, ${formatBytes(memory.free)} of ${formatBytes(memory.total)} memory free`,
    ...devices.flatMap(formatDevice),
    WHERE,
    `--device auto takes ${auto}`,
  ];
  return lines.join("\n");
}

function formatDevice({ device, works, description, test, problem, missing, found, leftToCpu }: DeviceReport): string[] {
  const name = device.padEnd(10);
  if (works && test) {
    const speed = `${test.gflops.toFixed(0)} GFLOP/s, ${test.gbps.toFixed(1)} GB/s`;
    const left = leftToCpu === null ? [] : [`          left to the CPU: ${leftToCpu.join(", ") || "nothing"}`];
    return [`${name}works: ${speed}, error ${test.error.toExponential(1)} (${description})`, ...left];
  }
  const there = found.length > 0 ? [`          there: ${found.join(", ")}`] : [];
  if (missing.length === 0) return [`${name}does not work: ${problem}`, ...there];
  return [`${name}does not work; missing:`, ...missing.map((entry) => `          - ${describeMissing(entry)}`), ...there];
}
