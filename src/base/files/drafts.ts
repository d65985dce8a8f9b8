import { readdirSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { basename, dirname, join } from "node:path";

/**
 * A file or folder that becomes `path` when it is whole: `.NAME.PID-SYSTEM.tmp` beside it. What earlier processes left in that folder when
 * they were killed is removed; what another program may have made is not touched.
 */
export function temporaryPath(path: string): string {
  const folder = dirname(path);
  const name = basename(path);
  const own = join(folder, `.${name}.${processName()}.tmp`);
  let entries: string[] = [];
  try {
    entries = readdirSync(folder);
  } catch {
    // What is to be written there says so.
  }
  for (const entry of entries) {
    // A cache has thousands of others.
    if (!entry.endsWith(".tmp")) continue;
    const at = join(folder, entry);
    if (at === own || isAbandoned(at, entry, name)) removeQuietly(at);
  }
  return own;
}

/** The name of a draft; drafts of older versions do not name the system. */
const DRAFT = /^\.(?<name>.+)\.(?<pid>\d+)(?:-(?<system>[0-9a-f]{8}))?\.tmp$/s;

/** A process on another machine, or in another container, looks dead from here but goes on writing. */
const ABANDONED_MS = 60_000;

/** Whether an entry of a folder is the draft of a process that is no more; `name` is that of the file to be written now. */
function isAbandoned(path: string, entry: string, name: string): boolean {
  const draft = DRAFT.exec(entry)?.groups;
  if (draft === undefined) return false;
  // Where the system is this one, nobody else has given such a name; elsewhere only drafts of the same file are looked at.
  const isHere = draft["system"] === system();
  if (!isHere && draft["name"] !== name) return false;
  if (!isDead(Number(draft["pid"]))) return false;
  return isHere || Date.now() - lastChange(path) > ABANDONED_MS;
}

function isDead(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as { code?: string }).code === "ESRCH";
  }
}

/** This process's number and its system, as drafts have them in their names. */
export function processName(): string {
  return `${process.pid}-${system()}`;
}

/** Whether a process of that name runs in this system and is not this one. What runs in other systems cannot be known. */
export function isAliveElsewhere(name: string): boolean {
  const [pid, where] = name.split("-");
  return where === system() && Number(pid) !== process.pid && !isDead(Number(pid));
}

/** The time of the last change in a file or folder, in milliseconds; what goes away meanwhile has none. */
function lastChange(path: string): number {
  try {
    const stat = statSync(path);
    if (!stat.isDirectory()) return stat.mtimeMs;
    return Math.max(stat.mtimeMs, ...readdirSync(path).map((entry) => lastChange(join(path, entry))));
  } catch {
    return 0;
  }
}

function removeQuietly(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // It is in nobody's way.
  }
}

let known: string | null = null;

/** Tells apart the systems in which a process number means the same process: machine, its start, and container. */
function system(): string {
  const attempt = (read: () => string): string => {
    try {
      return read();
    } catch {
      return "";
    }
  };
  return (known ??= new Bun.CryptoHasher("sha256")
    .update(hostname())
    .update(attempt(() => readFileSync("/proc/sys/kernel/random/boot_id", "utf8")))
    .update(attempt(() => readlinkSync("/proc/self/ns/pid")))
    .digest("hex")
    .slice(0, 8));
}
