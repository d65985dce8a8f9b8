import { existsSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";
import { UserError } from "../errors.ts";

/**
 * Bytes that this process may still take: the least of what the machine has available, what is left of each control group
 * that it is in (from its own up to the outermost that can be seen), and what `ulimit` leaves. Swap is not counted: a
 * training step that swaps is slower than one that computes more again. Linux only; elsewhere a size has to be given.
 *
 * `root` stands for `/` in tests, which fake /proc and /sys/fs/cgroup.
 * @throws {UserError} when nothing is known
 */
export function freeMemory(root = "/"): number {
  const read = (path: string) => textOf(join(root, path));
  const free = Math.min(
    availableMemory(read),
    ...controlGroups(read).map((group) => group.limit - group.used),
    underLimits(read),
  );
  if (!Number.isFinite(free))
    throw new UserError("--memory: the free memory of this system is not known; give a size such as 1.5GiB");
  return Math.max(0, free);
}

/** As `freeMemory`; Infinity where nothing is known. */
export function knownFreeMemory(): number {
  try {
    return freeMemory();
  } catch {
    return Infinity;
  }
}

/**
 * Bytes that this process may hold in all: the machine's memory, or the limit of a control group or of `ulimit` where that is less.
 * Infinity where nothing is known.
 */
export function memoryLimit(root = "/"): number {
  const read = (path: string) => textOf(join(root, path));
  const machine = kibibytes(read("proc/meminfo"), "MemTotal") ?? Infinity;
  return Math.min(machine, ...controlGroups(read).map(({ limit }) => limit), mostResident(read));
}

/** The text of a file, or null where there is none. */
type Reader = (path: string) => string | null;

function textOf(path: string): string | null {
  try {
    return existsSync(path) ? readFileSync(path, "utf8") : null;
  } catch {
    // Some files of a control group may be read by root alone.
    return null;
  }
}

/** MemAvailable, see https://docs.kernel.org/filesystems/proc.html: without swapping, caches counted as available. */
function availableMemory(read: Reader): number {
  return kibibytes(read("proc/meminfo"), "MemAvailable") ?? Infinity;
}

/** Returns what an entry `name:  123 kB` of a file says, in bytes. */
function kibibytes(text: string | null, name: string): number | undefined {
  const value = new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text ?? "")?.[1];
  return value === undefined ? undefined : 1024 * Number(value);
}

/**
 * `ulimit -v`, `-d` and `-m` of this process. Addresses that it only reserves count for the kernel, so what is left of
 * the first two is not what may still be touched; but no more than the limit can be resident, which Linux does not enforce for
 * `-m` although it is asked for.
 */
function underLimits(read: Reader): number {
  return mostResident(read) - (kibibytes(read("proc/self/status"), "VmRSS") ?? 0);
}

function mostResident(read: Reader): number {
  const limits = read("proc/self/limits") ?? "";
  return Math.min(
    ...["Max address space", "Max data size", "Max resident set"].map((name) =>
      Number(new RegExp(`^${name}\\s+(\\d+)\\s`, "m").exec(limits)?.[1] ?? Infinity),
    ),
  );
}

/** Memory of a control group, in bytes. */
interface ControlGroup {
  /** Infinite where there is none. */
  readonly limit: number;
  /** Bytes that the group holds, without the page cache, which gives way. */
  readonly used: number;
}

/**
 * The control groups of this process with a limit. Version 2 (https://docs.kernel.org/admin-guide/cgroup-v2.html) has
 * `memory.max`, and `memory.high`, beyond which a process is slowed down; version 1
 * (https://docs.kernel.org/admin-guide/cgroup-v1/memory.html) has `memory.limit_in_bytes`, and says the least
 * limit up to groups that a container cannot see. Both may be mounted at a time.
 */
function controlGroups(read: Reader): ControlGroup[] {
  return mounts(read).flatMap(({ version, folders }) =>
    folders.map((folder): ControlGroup => {
      const number = (name: string) => limitOf(read(posix.join(folder, name)));
      const stat = read(posix.join(folder, "memory.stat")) ?? "";
      const entry = (name: string) => Number(new RegExp(`^${name} (\\d+)$`, "m").exec(stat)?.[1] ?? NaN);
      const [limits, usage, prefix] =
        version === 2
          ? ([[number("memory.max"), number("memory.high")], number("memory.current"), ""] as const)
          : ([
              [number("memory.limit_in_bytes"), entry("hierarchical_memory_limit") || Infinity],
              number("memory.usage_in_bytes"),
              "total_",
            ] as const);
      const cache = (entry(`${prefix}inactive_file`) || 0) + (entry(`${prefix}active_file`) || 0);
      return { limit: Math.min(...limits), used: Number.isFinite(usage) ? Math.max(0, usage - cache) : 0 };
    }),
  );
}

/** A limit file's number; no limit is `max` in version 2, and the largest number of pages in version 1. */
function limitOf(text: string | null): number {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return value >= 0 && value < 2 ** 62 ? value : Infinity;
}

interface Mount {
  readonly version: 1 | 2;
  /** Folders of the process's own group and of those around it, innermost first. */
  readonly folders: readonly string[];
}

/** Where the hierarchies that control memory are mounted, by /proc/self/mountinfo and /proc/self/cgroup (proc(5), cgroups(7)). */
function mounts(read: Reader): Mount[] {
  const groups = (read("proc/self/cgroup") ?? "").split("\n").map((line) => /^(\d+):([^:]*):(.*)$/.exec(line));
  const own = { 1: undefined, 2: undefined } as Record<1 | 2, string | undefined>;
  for (const group of groups) {
    if (group?.[2] === "") own[2] = group[3];
    else if (group?.[2]!.split(",").includes("memory")) own[1] = group[3];
  }
  const found: Mount[] = [];
  for (const line of (read("proc/self/mountinfo") ?? "").split("\n")) {
    const [before, after] = line.split(" - ");
    const [, , , inside, at] = (before ?? "").split(" ");
    const [type, , options] = (after ?? "").split(" ");
    const version = type === "cgroup2" ? 2 : type === "cgroup" && options?.split(",").includes("memory") ? 1 : null;
    if (version === null || inside === undefined || at === undefined || own[version] === undefined) continue;
    const mount = unescape(at);
    // In a container the path may be one of the host, of which the mount shows the container's part alone, as its root.
    const path = posix.relative(unescape(inside), own[version]);
    const visible = path.startsWith("..") || read(posix.join(mount, path, "cgroup.procs")) === null ? "" : path;
    const folders = [mount];
    let folder = mount;
    for (const part of visible.split("/").filter((name) => name !== "")) folders.unshift((folder = posix.join(folder, part)));
    found.push({ version, folders });
  }
  return found;
}

/** Blanks in a path of mountinfo are octal escapes. */
function unescape(path: string): string {
  return path.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));
}

/**
 * Most bytes of memory that this process has had resident. On Linux the high-water mark of its own address space:
 * getrusage's also counts the process that started it, whose memory a child shares until it runs its own program.
 */
export function peakProcessMemory(): number {
  return kibibytes(textOf("/proc/self/status"), "VmHWM") ?? 1024 * process.resourceUsage().maxRSS;
}

/** Bytes of memory that another process has resident; null: there is no such process, or the system does not say. */
export function residentMemory(pid: number): number | null {
  return kibibytes(textOf(`/proc/${pid}/status`), "VmRSS") ?? null;
}
