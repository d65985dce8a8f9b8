import { existsSync, mkdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { copy, filesUnder, isRefusal, prepare, shown, Tally, type World } from "./world.ts";

async function mount(args: readonly string[]): Promise<boolean> {
  return (await Bun.spawn([...args], { stdout: "ignore", stderr: "ignore" }).exited) === 0;
}

/**
 * Runs each work on disks of many sizes, from next to nothing to more than what it writes: it comes through with the same bits, or says that it
 * could not write; training then goes on where there is room, to the same bits. Needs the right to mount a tmpfs; null without it.
 */
export async function fullDisk(world: World, levels: number): Promise<Tally | null> {
  const tally = new Tally();
  const disk = world.fresh("disk");
  mkdirSync(disk);
  for (const work of world.works) {
    const whole = join(world.folder, `whole-${work.name.replaceAll(" ", "-")}`);
    const need = filesUnder(whole).reduce((sum, name) => sum + statSync(join(whole, name)).size + 4096, 0);
    for (let level = 1; level <= levels; level++) {
      // tmpfs has pages of 4 KiB, and one of 0 would have no limit.
      const size = Math.max(1, Math.ceil((1.3 * need * level) / levels / 4096)) * 4096;
      if (!(await mount(["mount", "-t", "tmpfs", "-o", `size=${size}`, "tmpfs", disk]))) return null;
      try {
        const output = join(disk, "output");
        prepare(work, output);
        const ended = await world.run(work.args(output));
        const what = `${work.name} on a disk of ${size} bytes`;
        if (ended.code === 0) {
          if (work.bits(output) === world.baseline.get(work.name)!.bits) tally.add("came through");
          else tally.lose(`${what}: other bits`);
        } else if (!isRefusal(ended)) tally.lose(`${what}: ${shown(ended, world)}`);
        else {
          tally.add("said that it could not write");
          if (work.name !== "train") continue;
          const moved = world.fresh("moved");
          if (existsSync(output)) copy(output, moved);
          const again = await world.run(work.args(moved));
          if (again.code !== 0) tally.lose(`${what}, then resumed where there is room: ${shown(again, world)}`);
          else if (work.bits(moved) !== world.baseline.get(work.name)!.bits)
            tally.lose(`${what}, then resumed where there is room: other bits`);
          else tally.add("resumed to the same bits");
        }
      } finally {
        await mount(["umount", disk]);
      }
    }
  }
  return tally;
}
