import * as fs from "node:fs";
import { join } from "node:path";

/** A control group with a limit of memory, which counts the page cache, and perhaps one of the rate at which a disk is read. */
export interface Group {
  /** Folders of the group, one for each hierarchy that it is in. */
  readonly folders: readonly string[];
  remove(): void;
}

export interface GroupLimits {
  /** Bytes. */
  readonly memory: number;
  /** Bytes a second that are read of the disk of a folder; null: as fast as it goes. */
  readonly read: { readonly folder: string; readonly rate: number } | null;
}

const ROOT = "/sys/fs/cgroup";

/** Makes a group without swap; null where that is not possible. Knows version 2 of control groups, and version 1. */
export function makeGroup({ memory, read }: GroupLimits): Group | null {
  const name = `remat-large-${process.pid}`;
  const isSecond = fs.existsSync(join(ROOT, "cgroup.controllers"));
  const device = read && deviceOf(read.folder);
  const hierarchies: [string, [string, string][]][] = isSecond
    ? [
        [
          join(ROOT, name),
          [
            ["memory.max", String(memory)],
            ["memory.swap.max", "0"],
            ...(read ? ([["io.max", `${device} rbps=${read.rate}`]] as [string, string][]) : []),
          ],
        ],
      ]
    : [
        [
          join(ROOT, "memory", name),
          [
            ["memory.limit_in_bytes", String(memory)],
            ["memory.swappiness", "0"],
          ],
        ],
        ...(read
          ? ([[join(ROOT, "blkio", name), [["blkio.throttle.read_bps_device", `${device} ${read.rate}`]]]] as [
              string,
              [string, string][],
            ][])
          : []),
      ];
  const folders: string[] = [];
  const remove = () => folders.forEach((folder) => fs.rmdirSync(folder));
  try {
    for (const [folder, settings] of hierarchies) {
      fs.mkdirSync(folder);
      folders.push(folder);
      for (const [file, value] of settings) if (fs.existsSync(join(folder, file))) fs.writeFileSync(join(folder, file), value);
    }
    return { folders, remove };
  } catch {
    remove();
    return null;
  }
}

/** The command in a shell that enters the group first. */
export function inGroup({ folders }: Group, command: readonly string[]): string[] {
  const enter = folders.map((folder) => `echo $$ > ${folder}/cgroup.procs`).join(" && ");
  return ["sh", "-c", `${enter} && exec "$@"`, "sh", ...command];
}

/** The disk of a folder, as `major:minor` of the whole disk: partitions are not limited by themselves. */
function deviceOf(folder: string): string {
  const { dev } = fs.statSync(folder);
  // See makedev(3): twelve bits of the major number behind eight of the minor.
  const [major, minor] = [(dev >> 8) & 0xfff, (dev & 0xff) | ((dev >> 12) & 0xfff00)];
  const own = fs.realpathSync(`/sys/dev/block/${major}:${minor}`);
  const whole = fs.existsSync(join(own, "partition")) ? join(own, "..") : own;
  return fs.readFileSync(join(whole, "dev"), "utf8").trim();
}
