import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Describes what a command of a checkout printed and took. */
export interface Ran {
  readonly stdout: string;
  /** Seconds of all its threads, in user and system mode. */
  readonly cpuSeconds: number;
  /** Bytes: most that was resident. */
  readonly peakRss: number;
}

/** Runs the command line of a checkout in `cwd`. @throws with what it printed when it fails */
export async function remat(checkout: string, args: readonly string[], cwd: string): Promise<Ran> {
  const child = Bun.spawn([process.execPath, join(checkout, "src/cli/main.ts"), ...args], {
    cwd,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  if (code !== 0) throw new Error(`${checkout}: remat ${args.join(" ")}\nexit code ${code}\n${stderr}`);
  const { cpuTime, maxRSS } = child.resourceUsage()!;
  return { stdout, cpuSeconds: Number(cpuTime.total) / 1e6, peakRss: maxRSS };
}

/** The commit that is checked out. */
export function commitOf(checkout: string): string {
  return Bun.spawnSync(["git", "-C", checkout, "rev-parse", "--short", "HEAD"]).stdout.toString().trim();
}

/** Leaves a run folder that holds nothing but measured times, from which a run with `--overwrite` is planned. */
export function plantCosts(folder: string, costs: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(costs, join(folder, "costs.json"));
  writeFileSync(join(folder, "train-config.json"), "{}\n");
}
