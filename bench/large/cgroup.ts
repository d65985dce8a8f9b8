import * as fs from "node:fs";
import { join } from "node:path";

/** A control group (version 2) with a limit of memory, which counts the page cache. */
export interface MemoryGroup {
  readonly folder: string;
  remove(): void;
}

const ROOT = "/sys/fs/cgroup";

/** Makes a group of `bytes` bytes without swap; null where that is not possible. */
export function memoryGroup(bytes: number): MemoryGroup | null {
  const folder = join(ROOT, `remat-large-${process.pid}`);
  try {
    fs.mkdirSync(folder);
    fs.writeFileSync(join(folder, "memory.max"), String(bytes));
    if (fs.existsSync(join(folder, "memory.swap.max"))) fs.writeFileSync(join(folder, "memory.swap.max"), "0");
    return { folder, remove: () => fs.rmdirSync(folder) };
  } catch {
    if (fs.existsSync(folder)) fs.rmdirSync(folder);
    return null;
  }
}

/** The command in a shell that enters the group first. */
export function inGroup({ folder }: MemoryGroup, command: readonly string[]): string[] {
  return ["sh", "-c", `echo $$ > ${folder}/cgroup.procs && exec "$@"`, "sh", ...command];
}
