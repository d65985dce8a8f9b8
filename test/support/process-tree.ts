import { readdirSync, readFileSync } from "node:fs";

/** Bytes that a process and its children hold, shared ones shared out: the sum of their PSS. */
export function treeBytes(pid: number): number {
  try {
    const own = 1024 * Number(/^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0);
    return childrenOf(pid).reduce((sum, child) => sum + treeBytes(child), own);
  } catch {
    // It has ended in the meantime.
    return 0;
  }
}

/** A limit for what runs in the tests' own process: so many bytes above what that holds, which may be gigabytes, in whole MiB. */
export const limitHere = (bytes: number): string => `${Math.ceil((process.memoryUsage.rss() + bytes) / 2 ** 20)}MiB`;

/** Seconds of processor time that a process has used so far, without its children. */
export function processorSeconds(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
    // utime and stime, in ticks of which Linux has 100 a second; see proc(5).
    return (Number(fields[11]) + Number(fields[12])) / 100;
  } catch {
    return 0;
  }
}

/** Seconds of processor time that processes have used which this one has started and which have ended. */
export function endedChildrenSeconds(): number {
  const fields = readFileSync("/proc/self/stat", "utf8").split(") ")[1]!.split(" ");
  // cutime and cstime; see proc(5).
  return (Number(fields[13]) + Number(fields[14])) / 100;
}

/** The processes that a process has started and that have not ended. */
export function childrenOf(pid: number): number[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").split(" ").filter(Boolean).map(Number),
  );
}

/** Sends a process a signal, if it has not ended. */
export function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended.
  }
}

/**
 * Lets processes run for a fifth of the time until something has happened, and stops them: runs are to have steps left then, however fast
 * the machine is.
 */
export async function slowed<T>(pids: readonly number[], wait: Promise<T>): Promise<T> {
  let isOver = false;
  const waited = wait.finally(() => (isOver = true));
  const send = (name: NodeJS.Signals) => pids.forEach((pid) => signal(pid, name));
  try {
    while (!isOver) {
      send("SIGCONT");
      await Promise.race([waited, Bun.sleep(100)]);
      send("SIGSTOP");
      await Promise.race([waited, Bun.sleep(400)]);
    }
    return await waited;
  } catch (error) {
    send("SIGCONT");
    throw error;
  }
}
