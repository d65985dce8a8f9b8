import { openLibc } from "../base/process/libc.ts";

/** The variable that ONNX Runtime looks for when its environment is made. */
const VARIABLE = "ORT_DISABLE_TELEMETRY";

let done = false;

/**
 * Keeps ONNX Runtime from what it does otherwise on Linux and macOS: it writes an identifier of the machine and a database of events
 * into the user's cache and a file for each process into the temporary folder, and sends the events to Microsoft. To be called before
 * it is begun. It reads C's environment, which is not `process.env`; a user's own setting stays.
 */
export function forbidTelemetry(): void {
  if (done) return;
  done = true;
  const libc = openLibc({ setenv: { args: ["ptr", "ptr", "i32"], returns: "i32" } });
  const cString = (value: string) => new TextEncoder().encode(`${value}\0`);
  libc?.setenv(cString(VARIABLE), cString("1"), 0);
}
