// Renders every hostile template in a process of its own, so that what they leave behind can be told from what other tests do.
import { readFileSync } from "node:fs";
import { DEEP, ENDLESS, GROWING, LONG } from "./hostile-sources.ts";
import { outcome } from "./outcome.ts";

/** Resident bytes of the process without its garbage. */
function resident(): number {
  Bun.gc(true);
  return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"))![1]);
}

const before = resident();
const outcomes = [GROWING, ENDLESS, DEEP, LONG].map((sources) => sources.map((source) => outcome(source)));
process.stdout.write(JSON.stringify({ outcomes, grown: resident() - before }));
