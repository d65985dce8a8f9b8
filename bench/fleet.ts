import { mkdirSync, mkdtempSync, readFileSync, existsSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../src/base/random.ts";
import { openFleet } from "../src/fleet/fleet.ts";
import type { Member } from "../src/fleet/members.ts";
import { startNode } from "../src/fleet/node/node.ts";
import { numericsHere } from "../src/fleet/numerics.ts";
import { modelId } from "../src/fleet/objects.ts";
import { assign, heldBases, isOrphan, loads, waiting } from "../src/fleet/placement.ts";
import { type JobRecord, keyOf, readEntry, UNTAKEN } from "../src/fleet/records.ts";
import { startNats } from "../test/support/nats.ts";

/**
 * Simulates a fleet in virtual time, with the rules by which jobs are placed and taken back in a real one (`src/fleet/placement.ts`), and compares four simulated nodes with
 * four real ones, whose jobs sleep in the place of training.
 *
 *     bun bench/fleet.ts                       # 1,000 nodes, 10,000 jobs of an hour, 1 % of the nodes lost each hour
 *     bun bench/fleet.ts --real                # four real nodes with kills, and the same simulated
 *
 * Exit code 1 when a job does not end, more than 5 % of the time is lost, the process takes 2 GiB, or the real fleet differs by more than 10 %.
 */
const { values } = parseArgs({
  options: {
    nodes: { type: "string", default: "1000" },
    jobs: { type: "string", default: "10000" },
    seed: { type: "string", default: "1" },
    real: { type: "boolean", default: false },
    /** A node of the real fleet: `NAME URL HOME`. */
    node: { type: "string" },
  },
});

/** Times in seconds. */
interface Settings {
  readonly nodes: number;
  /** Durations of the jobs, without what is lost. */
  readonly jobs: readonly number[];
  readonly lease: number;
  readonly checkpoint: number;
  /** From a node's yes to its first step. */
  readonly start: number;
  /** When nodes die and come back. */
  readonly losses: readonly { readonly at: number; readonly node: number; readonly back: number }[];
}

interface Outcome {
  readonly seconds: number;
  readonly ended: number;
  readonly attempts: number;
  /** Of the time of all attempts, what was computed again, waited for and started anew. */
  readonly lost: number;
  /** Milliseconds of the longest placing. */
  readonly placing: number;
}

const JOB: JobRecord = {
  front: "bench",
  job: "",
  created: 0,
  base: { name: "none", id: modelId([]), files: [] },
  files: {},
  adapter: null,
  settings: { model: "none", data: "none" },
  given: [],
  least: 1,
  isElastic: true,
  ...UNTAKEN,
};

const nameOf = (i: number): string => `node${i}`;

/** In one piece: its functions share the state of the fleet. */
function simulate({ nodes, jobs, lease, checkpoint, start, losses }: Settings): Outcome {
  const members = new Map<string, Member>();
  /** Nodes that are at work, by the session that they have. */
  const alive = new Map<string, string>();
  const records = new Map<string, JobRecord>();
  const done = new Map<string, number>();
  const begun = new Map<string, number>();
  let [lost, busy, attempts, ended, last, placing, sessions] = [0, 0, 0, 0, 0, 0, 0];
  const queue: { at: number; order: number; act: () => void }[] = [];
  let order = 0;
  const at = (time: number, act: () => void) => {
    const event = { at: time, order: order++, act };
    // A heap would be longer than it is worth: events are few, and mostly come at the end.
    let i = queue.length;
    while (i > 0 && (queue[i - 1]!.at < time || (queue[i - 1]!.at === time && queue[i - 1]!.order < event.order))) i--;
    queue.splice(i, 0, event);
  };
  const join = (i: number) => {
    const session = String(sessions++).padStart(8, "0");
    alive.set(nameOf(i), session);
    members.set(nameOf(i), {
      name: nameOf(i),
      kind: "node",
      session,
      numerics: numericsHere(),
      lease: 1000 * lease,
      isLeaving: false,
      slots: 1,
      memory: 1,
      bases: [JOB.base.id],
      jobs: [],
      traffic: {},
      work: {},
    });
  };
  jobs.forEach((duration, i) => {
    const job = { ...JOB, job: `job${i}`, created: i };
    records.set(keyOf(job), job);
    done.set(keyOf(job), duration);
  });
  for (let i = 0; i < nodes; i++) join(i);

  const place = (now: number): void => {
    for (const [key, job] of records) if (isOrphan(job, members)) records.set(key, { ...job, state: "queued" });
    const from = performance.now();
    const placed = assign(waiting(records.values()), members.values(), loads(records.values()), heldBases(members.values()));
    placing = Math.max(placing, performance.now() - from);
    for (const { job, node } of placed) {
      const key = keyOf(job);
      const attempt = job.attempt + 1;
      records.set(key, { ...job, state: "running", attempt, node: node.name, session: node.session });
      attempts++;
      begun.set(key, now);
      const left = done.get(key)!;
      at(now + start + left, () => {
        const current = records.get(key);
        if (current?.attempt !== attempt || current.state !== "running" || alive.get(node.name) !== node.session) return;
        records.delete(key);
        busy += now + start + left - now;
        lost += start;
        ended++;
        last = now + start + left;
        place(last);
      });
    }
  };
  for (const { at: time, node, back } of losses) {
    at(time, () => {
      const name = nameOf(node);
      if (!alive.delete(name)) return;
      for (const [key, job] of records) {
        if (job.state !== "running" || job.node !== name) continue;
        const worked = Math.max(0, time - begun.get(key)! - start);
        const saved = Math.floor(worked / checkpoint) * checkpoint;
        done.set(key, done.get(key)! - saved);
        busy += time - begun.get(key)!;
        lost += time - begun.get(key)! - saved;
      }
      at(time + Math.min(lease, back), () => {
        if (!alive.has(name)) members.delete(name);
        place(time + Math.min(lease, back));
      });
      at(time + back, () => {
        join(node);
        place(time + back);
      });
    });
  }
  place(0);
  while (queue.length > 0 && records.size > 0) queue.pop()!.act();
  return { seconds: last, ended, attempts, lost: lost / busy, placing };
}

/** Losses at random: so large a share of the nodes each hour, for a quarter of an hour. */
function lossesOf(nodes: number, share: number, hours: number, seed: number): Settings["losses"] {
  const random = createRandom(seed, "losses");
  const count = Math.round(nodes * share * hours);
  return Array.from({ length: count }, () => ({
    at: random.uniform() * hours * 3600,
    node: random.below(nodes),
    back: 900,
  })).sort((a, b) => a.at - b.at);
}

const LEASE = 2;
const START = 0.3;
const CHECKPOINT = 1;

/** A node whose jobs sleep: the durations are in the jobs' settings, as their number of steps of a hundredth of a second. */
async function serveNode(text: string): Promise<void> {
  const [name, fleet, home] = text.split(" ") as [string, string, string];
  // The base model of the jobs has no files: a job goes only to fleets in which somebody has its base.
  mkdirSync(join(home, "bases", JOB.base.id), { recursive: true });
  await startNode({
    fleet,
    fleetLease: LEASE,
    home,
    name,
    bases: [],
    memory: 1 << 30,
    parallel: 1,
    async train({ output, steps }, _, { sink = () => {} }) {
      await Bun.sleep(1000 * START);
      mkdirSync(output, { recursive: true });
      const path = join(output, "slept.json");
      let slept = existsSync(path) ? Number(readFileSync(path, "utf8")) : 0;
      while (slept < steps!) {
        const now = Math.min(steps! - slept, 100 * CHECKPOINT);
        await Bun.sleep(10 * now);
        slept += now;
        writeFileSync(path, String(slept));
        sink({ type: "checkpoint", step: slept });
      }
      return { reason: "finished", step: slept, steps: slept } as never;
    },
  });
}

/** What four real nodes took, and what was measured of them before: seconds that a node takes to join, and a job besides its own time. */
interface Real {
  readonly seconds: number;
  readonly attempts: number;
  readonly joining: number;
  readonly start: number;
}

async function runReal(settings: Settings): Promise<Real> {
  const folder = mkdtempSync(join(tmpdir(), "remat-bench-fleet-"));
  const nats = await startNats();
  const fleet = await openFleet({ fleet: nats.url }, "bench");
  const children: Bun.Subprocess[] = [];
  const start = (i: number) => {
    const home = join(folder, nameOf(i));
    const command = [process.execPath, import.meta.path, "--node", `${nameOf(i)} ${nats.url} ${home}`];
    children[i] = Bun.spawn(command, { stdout: "ignore", stderr: "inherit" });
  };
  const { jobs, nodes } = fleet.buckets;
  try {
    const put = async (name: string, duration: number, created: number): Promise<string> => {
      const job = { ...JOB, job: name, created, settings: { ...JOB.settings, steps: Math.round(100 * duration) } };
      await jobs.create(keyOf(job), JSON.stringify(job));
      return keyOf(job);
    };
    const ended = async (key: string): Promise<JobRecord> => {
      for (;;) {
        const { value } = (await readEntry<JobRecord>(jobs, key))!;
        if (value.failure !== null) throw new Error(value.failure.message);
        if (value.state === "ended") return value;
        await Bun.sleep(20);
      }
    };
    const started = performance.now();
    for (let i = 0; i < settings.nodes; i++) start(i);
    for (let i = 0; i < settings.nodes; i++) while ((await readEntry(nodes, nameOf(i))) === null) await Bun.sleep(20);
    const joining = (performance.now() - started) / 1000;
    // The first one waits until somebody leads.
    await ended(await put("first", 0.1, 0));
    const tried = performance.now();
    const measured = await Promise.all(Array.from({ length: 2 * settings.nodes }, (_, i) => put(`measured${i}`, 5, 0)));
    for (const key of measured) await ended(key);
    const overhead = (performance.now() - tried) / 1000 / 2 - 5;
    const from = performance.now();
    const keys = await Promise.all(settings.jobs.map((duration, i) => put(`job${i}`, duration, i)));
    const harms = settings.losses.map(async ({ at, node, back }) => {
      await Bun.sleep(1000 * at);
      children[node]!.kill("SIGKILL");
      await Bun.sleep(1000 * back);
      start(node);
    });
    let attempts = 0;
    for (const key of keys) attempts += (await ended(key)).attempt;
    const seconds = (performance.now() - from) / 1000;
    await Promise.all(harms);
    return { seconds, attempts, joining, start: overhead };
  } finally {
    for (const child of children) child.kill("SIGKILL");
    await Promise.all(children.map(({ exited }) => exited));
    await fleet.close();
    await nats.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

const seed = Number(values.seed);
const random = createRandom(seed, "durations");
if (values.node !== undefined) {
  await serveNode(values.node);
} else if (values.real) {
  const settings: Settings = {
    nodes: 4,
    jobs: Array.from({ length: 24 }, () => 4 + 4 * random.uniform()),
    lease: LEASE,
    checkpoint: CHECKPOINT,
    start: START,
    losses: [3.4, 9.7, 15.2, 21.9].map((time, i) => ({ at: time, node: i, back: 6 })),
  };
  const real = await runReal(settings);
  const losses = settings.losses.map((loss) => ({ ...loss, back: loss.back + real.joining }));
  const simulated = simulate({ ...settings, start: real.start, losses });
  const difference = Math.abs(real.seconds / simulated.seconds - 1);
  console.log(
    `a node takes ${real.joining.toFixed(2)} s to join here, and a job ${real.start.toFixed(2)} s besides its own time`,
  );
  console.log(`four nodes, four losses, ${settings.jobs.length} jobs: ${real.seconds.toFixed(1)} s in ${real.attempts} attempts`);
  console.log(
    `the same simulated: ${simulated.seconds.toFixed(1)} s in ${simulated.attempts} attempts, ${(100 * difference).toFixed(1)} % apart`,
  );
  process.exitCode = difference > 0.1 ? 1 : 0;
} else {
  const [nodes, count] = [Number(values.nodes), Number(values.jobs)];
  const jobs = Array.from({ length: count }, () => 1800 + 3600 * random.uniform());
  const hours = (1.5 * count) / nodes + 2;
  const from = performance.now();
  const { seconds, ended, attempts, lost, placing } = simulate({
    nodes,
    jobs,
    lease: 15,
    checkpoint: 120,
    start: 20,
    losses: lossesOf(nodes, 0.01, hours, seed),
  });
  const peak = process.memoryUsage.rss();
  console.log(`${nodes} nodes, ${count} jobs: ${ended} ended in ${attempts} attempts and ${(seconds / 3600).toFixed(2)} hours`);
  console.log(`lost of the nodes' time: ${(100 * lost).toFixed(2)} %; the longest placing took ${placing.toFixed(1)} ms`);
  console.log(`the process has ${(peak / 2 ** 20).toFixed(0)} MiB after ${((performance.now() - from) / 1000).toFixed(0)} s`);
  process.exitCode = ended === count && lost <= 0.05 && peak < 2 ** 31 ? 0 : 1;
}
