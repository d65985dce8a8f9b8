import { describe, expect, test } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { freeMemory, memoryLimit } from "../../src/base/process/free-memory.ts";
import { temporaryFolder, userError } from "../hf/temp.ts";

const folder = temporaryFolder();
const MIB = 2 ** 20;
let roots = 0;

/** A root with these files; sizes in kB as the kernel writes them. */
function fake(files: Readonly<Record<string, string>>): string {
  const root = join(folder, String(roots++));
  mkdirSync(root, { recursive: true });
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return root;
}

const machine = (mib: number) => ({
  "proc/meminfo": `MemTotal:       99999999 kB\nMemFree:            1000 kB\nMemAvailable:   ${1024 * mib} kB\nSwapFree:       88888888 kB\n`,
});
const V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
const V1 =
  "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n" +
  "36 31 0:33 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";

/** A group of version 2. */
const group2 = (path: string, max: number | "max", used: number, more: Readonly<Record<string, string>> = {}) =>
  Object.fromEntries(
    Object.entries({
      "cgroup.procs": "1\n",
      "memory.max": `${max === "max" ? max : max * MIB}\n`,
      "memory.current": `${used * MIB}\n`,
      ...more,
    }).map(([name, text]) => [`sys/fs/cgroup${path}/${name}`, text]),
  );

/** A group of version 1; no limit is the largest number of whole pages. */
const group1 = (path: string, limit: number | null, used: number, stat = "") =>
  Object.fromEntries(
    Object.entries({
      "cgroup.procs": "1\n",
      "memory.limit_in_bytes": `${limit === null ? "9223372036854771712" : limit * MIB}\n`,
      "memory.usage_in_bytes": `${used * MIB}\n`,
      "memory.stat": stat,
    }).map(([name, text]) => [`sys/fs/cgroup/memory${path}/${name}`, text]),
  );

const free = (files: Readonly<Record<string, string>>) => freeMemory(fake(files)) / MIB;

describe("free memory", () => {
  test("of the machine: what is available, not swap", () => {
    expect(free(machine(3000))).toBe(3000);
    expect(userError(() => freeMemory(fake({})))).toMatch(/free memory of this system is not known; give a size/);
  });

  describe("cgroup v2", () => {
    const base = { ...machine(9000), "proc/self/mountinfo": V2, "proc/self/cgroup": "0::/user.slice/app.scope\n" };
    const root = { "sys/fs/cgroup/cgroup.procs": "1\n" };

    test("the least along the path, whichever group it is", () => {
      const middle = group2("/user.slice", 2000, 500);
      expect(free({ ...base, ...root, ...middle, ...group2("/user.slice/app.scope", "max", 100) })).toBe(1500);
      expect(free({ ...base, ...root, ...middle, ...group2("/user.slice/app.scope", 800, 100) })).toBe(700);
      expect(free({ ...base, ...root, ...group2("/user.slice", "max", 1), ...group2("/user.slice/app.scope", "max", 1) })).toBe(
        9000,
      );
    });

    test("memory.high counts, the page cache does not, and nothing is less than 0", () => {
      const more = {
        "memory.high": `${600 * MIB}\n`,
        "memory.stat": `anon 5\ninactive_file ${150 * MIB}\nactive_file ${50 * MIB}\n`,
      };
      expect(free({ ...base, ...group2("/user.slice/app.scope", 800, 300, more) })).toBe(500);
      expect(free({ ...base, ...group2("/user.slice/app.scope", 100, 300) })).toBe(0);
    });

    test("in a container: the mount is the group, whatever the path says", () => {
      const inside = { ...machine(9000), ...group2("", 512, 12) };
      expect(free({ ...inside, "proc/self/mountinfo": V2, "proc/self/cgroup": "0::/\n" })).toBe(500);
      // Without a namespace of its own the process sees the host's path, and the mount shows the container's part of it.
      const docker = V2.replace(" / /sys", " /docker/abc /sys");
      expect(free({ ...inside, "proc/self/mountinfo": docker, "proc/self/cgroup": "0::/docker/abc\n" })).toBe(500);
      expect(free({ ...inside, "proc/self/mountinfo": V2, "proc/self/cgroup": "0::/../other\n" })).toBe(500);
      const child = { ...inside, ...group2("/job", 200, 50) };
      expect(free({ ...child, "proc/self/mountinfo": docker, "proc/self/cgroup": "0::/docker/abc/job\n" })).toBe(150);
    });
  });

  describe("cgroup v1", () => {
    const base = {
      ...machine(9000),
      "proc/self/mountinfo": V1,
      "proc/self/cgroup": "9:name=systemd:/\n5:cpu,cpuacct:/elsewhere\n4:memory:/jobs/one\n0::/\n",
    };

    test("the least along the path; no limit is the largest number of pages", () => {
      expect(free({ ...base, ...group1("", null, 1), ...group1("/jobs", 3000, 1000), ...group1("/jobs/one", null, 1) })).toBe(
        2000,
      );
      expect(free({ ...base, ...group1("", null, 1), ...group1("/jobs", 3000, 1000), ...group1("/jobs/one", 64, 4) })).toBe(60);
      expect(free({ ...base, ...group1("", null, 1), ...group1("/jobs", null, 1), ...group1("/jobs/one", null, 1) })).toBe(9000);
    });

    test("a limit of a group that cannot be seen, and the page cache of groups below", () => {
      const stat = `cache 1\nhierarchical_memory_limit ${400 * MIB}\ninactive_file 7\ntotal_inactive_file ${100 * MIB}\ntotal_active_file ${20 * MIB}\n`;
      expect(free({ ...base, ...group1("/jobs/one", null, 220, stat) })).toBe(300);
    });

    test("both versions mounted: the one that controls memory decides", () => {
      const mountinfo = `${V1}38 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n`;
      expect(free({ ...base, "proc/self/mountinfo": mountinfo, ...group1("/jobs/one", 700, 100) })).toBe(600);
    });
  });

  test("ulimit: no more than the limit can be resident", () => {
    const limits = (space: string, data: string, resident: string) =>
      free({
        ...machine(9000),
        "proc/self/status": `VmSize:  8000000 kB\nVmRSS:  ${100 * 1024} kB\n`,
        "proc/self/limits":
          "Limit                     Soft Limit           Hard Limit           Units     \n" +
          `Max data size             ${data.padEnd(20)} unlimited            bytes     \n` +
          `Max resident set          ${resident.padEnd(20)} unlimited            bytes     \n` +
          `Max address space         ${space.padEnd(20)} unlimited            bytes     \n`,
      });
    expect(limits("unlimited", "unlimited", "unlimited")).toBe(9000);
    expect(limits(String(1000 * MIB), "unlimited", "unlimited")).toBe(900);
    expect(limits("unlimited", String(500 * MIB), String(300 * MIB))).toBe(200);
  });
});

test("what a process may hold in all: the machine's memory, or less where a control group or ulimit says so", () => {
  const total = 1024 * 99999999;
  expect(memoryLimit(fake(machine(100)))).toBe(total);
  const group = { ...machine(100), "proc/self/mountinfo": V2, "proc/self/cgroup": "0::/box\n", ...group2("/box", 300, 250) };
  expect(memoryLimit(fake(group))).toBe(300 * MIB);
  const limits =
    "Limit                     Soft Limit           Hard Limit           Units\nMax resident set          104857600            unlimited            bytes\n";
  expect(memoryLimit(fake({ ...group, "proc/self/limits": limits }))).toBe(100 * MIB);
  expect(memoryLimit(fake({}))).toBe(Infinity);
});
