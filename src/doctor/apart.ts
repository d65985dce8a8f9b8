import { programCommand } from "../base/process/program.ts";
import { type DeviceReport, type Target, unknownDevice } from "./report.ts";

/** Argument by which the command line runs `examineDevice` alone. */
export const CHILD = "examine-device";

/** Seconds after which a driver that hangs is given up. */
const PATIENCE = 120;

export interface ApartOptions {
  /** The command of the child process, for tests. */
  readonly command?: (target: Target) => readonly string[];
  /** Seconds until the child is ended. */
  readonly patience?: number;
  /** Ends the child. */
  readonly signal?: AbortSignal;
}

/** Examines a device in a child process: a library or a driver that crashes or hangs there is a problem of the report. */
export async function examineApart(
  target: Target,
  { command = childCommand, patience = PATIENCE, signal }: ApartOptions = {},
): Promise<DeviceReport> {
  const child = Bun.spawn([...command(target)], {
    stdin: "ignore",
    stdout: "pipe",
    // Drivers write warnings there, and Bun the trace of a crash.
    stderr: "ignore",
    env: { ...process.env, BUN_ENABLE_CRASH_REPORTING: "0" },
    ...(signal && { signal }),
  });
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, 1000 * patience);
  const [output, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  clearTimeout(timer);
  const report = readReport(output);
  if (report !== null && code === 0) return report;
  const tested = report ?? unknownDevice(target);
  const problem = (text: string): DeviceReport => ({ ...tested, works: false, crashed: true, problem: text });
  if (isLate) return problem(`it did not answer within ${patience} seconds`);
  const end = child.signalCode === null ? `ended the process with exit code ${code}` : `crashed (${child.signalCode})`;
  return problem(`its library or driver ${end}${report === null ? "" : " when the device was closed, after it had been tested"}`);
}

const childCommand = (target: Target): readonly string[] => [...programCommand(), CHILD, JSON.stringify(target)];

/** The report in what the child wrote: its last line, if it came so far. */
function readReport(output: string): DeviceReport | null {
  try {
    return JSON.parse(output.trimEnd().split("\n").at(-1)!) as DeviceReport;
  } catch {
    return null;
  }
}
