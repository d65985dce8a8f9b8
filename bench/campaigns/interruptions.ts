import { constants } from "node:os";
import { Tally, prepare, shown, type Work, type World } from "./world.ts";

/** Brings an interrupted work to its end and compares it with the undisturbed one. */
async function finish(world: World, work: Work, output: string, what: string, tally: Tally): Promise<void> {
  work.again(output);
  prepare(work, output);
  const ended = await world.run(work.args(output));
  if (ended.code !== 0) tally.lose(`${what}: done again, ${shown(ended, world)}`);
  else if (work.bits(output) !== world.baseline.get(work.name)!.bits) tally.lose(`${what}: done again, other bits`);
  else tally.add("the same bits");
}

/**
 * Kills each work at random instants, training several times one after the other, and does it again: the same bits. What a killed verb left
 * where it writes a file is nothing or a whole file.
 */
export async function kills(world: World, count: number): Promise<Tally> {
  const tally = new Tally();
  for (const work of world.works) {
    const { ms, bits } = world.baseline.get(work.name)!;
    for (let i = 0; i < count; i++) {
      const output = world.fresh(work.name);
      prepare(work, output);
      const times: number[] = [];
      for (let again = work.name === "train" ? 1 + world.random.below(3) : 1; again > 0; again--) {
        const child = world.start(work.args(output));
        const at = 1.1 * ms * world.random.uniform();
        times.push(Math.round(at));
        await Promise.race([Bun.sleep(at), child.exited]);
        child.kill("SIGKILL");
        await child.exited;
        tally.add(child.signalCode === "SIGKILL" ? "killed" : "came through before the kill");
      }
      const what = `${work.name} killed after ${times.join(", ")} ms`;
      if (work.name === "export gguf" || work.name === "generate") {
        const left = work.bits(output).split("\n");
        const whole = bits.split("\n");
        const visible = left.filter((line) => /^[^.][^ ]*\.(gguf|jsonl|Modelfile) /.test(line));
        for (const line of visible) if (!whole.includes(line)) tally.lose(`${what}: ${line.split(" ")[0]} is not whole`);
      }
      await finish(world, work, output, what, tally);
    }
  }
  return tally;
}

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"] as const;

/** Sends signals to training at random instants: the exit code is 128 with the signal's number, and `--resume` comes to the same bits. */
export async function signals(world: World, count: number): Promise<Tally> {
  const tally = new Tally();
  const work = world.works[0]!;
  const { ms } = world.baseline.get(work.name)!;
  for (const signal of SIGNALS) {
    for (let i = 0; i < count; i++) {
      const output = world.fresh(work.name);
      const child = world.start(work.args(output));
      const stderr = new Response(child.stderr).text();
      const at = ms * world.random.uniform();
      await Promise.race([Bun.sleep(at), child.exited]);
      child.kill(signal);
      const code = await child.exited;
      const what = `train, ${signal} after ${Math.round(at)} ms`;
      const expected = 128 + constants.signals[signal];
      if (code === 0) tally.add("came through before the signal");
      else if (code === expected) tally.add(`ended by ${signal} with ${code}`);
      else tally.lose(`${what}: expected exit code ${expected}, ${shown({ code, stderr: await stderr }, world)}`);
      await finish(world, work, output, what, tally);
    }
  }
  return tally;
}
