import { join } from "node:path";
import { createRandom, type Random } from "../../src/base/random.ts";
import type { Nodes } from "../../src/page/api/types.ts";
import { type Box, chats, QUICK, writeBase } from "./box.ts";
import { root } from "./cli.ts";
import { type Host, openHosts } from "./hosts.ts";
import { type NatsServer, startNats } from "./nats.ts";
import { bitsOf, startServerProcess } from "./server-kills.ts";

/**
 * What is done to a fleet: a node, the front or NATS is killed, or a node is parted from the others for longer than its lease: its process is held up, or, where each
 * node is on a host of its own, the link of one that runs a job is cut.
 */
export const HARMS = ["node", "front", "nats", "partition"] as const;

export type Harm = (typeof HARMS)[number];

export interface FleetKillsOptions {
  readonly nodes: number;
  readonly jobs: number;
  readonly harms: readonly Harm[];
  readonly seed: number;
  /** Steps of a job. */
  readonly steps?: number;
  /** Each node is on a host of its own. */
  readonly hosts?: boolean;
  /** Milliseconds of a partition. */
  readonly partitionMs?: number;
  readonly onMessage?: (text: string) => void;
}

export interface FleetKillsReport {
  readonly jobs: number;
  readonly harms: Readonly<Record<Harm, number>>;
  /** Times that a job was begun on a node, of all jobs. */
  readonly attempts: number;
  /** Times that a node was told that its attempt was over while it was at work. */
  readonly fenced: number;
  readonly seconds: number;
  /** Whatever was lost, doubled or other than in an undisturbed run. */
  readonly problems: readonly string[];
}

/** Seconds of the fleet's leases, and how long a partition lasts. */
const LEASE = 2;
const PARTITION_MS = 2500 * LEASE;
/** Milliseconds between two harms, at least and at most. */
const PAUSE_MS = [1000, 4000] as const;

interface NodeProcess {
  readonly child: Bun.Subprocess<"ignore", "ignore", "pipe">;
  readonly name: string;
  /** Times that it was told that its attempt was over while it was at work. */
  fenced: number;
}

/**
 * Has a fleet train jobs while its processes are killed at random, and compares every job with one that nothing disturbed. In one piece: its functions share
 * the processes.
 * @param folder an empty one
 */
export async function killFleet(folder: string, options: FleetKillsOptions): Promise<FleetKillsReport> {
  const { seed, steps = 40, partitionMs = PARTITION_MS, onMessage = () => {} } = options;
  const random = createRandom(seed, "fleet kills");
  const begun = performance.now();
  const model = writeBase(folder);
  const home = join(folder, "front");
  const network = options.hosts === true ? openHosts() : null;
  const hosts = network === null ? [] : Array.from({ length: options.nodes }, () => network.add());
  const nats: NatsServer = await startNats([], network?.address);
  const fleet = ["--fleet", nats.url, "--fleet-lease", String(LEASE)];
  let isEnding = false;
  let fenced = 0;
  const nodes: NodeProcess[] = [];
  const problems: string[] = [];
  const startNode = (i: number): void => {
    const name = `node${i}`;
    const args = ["node", ...fleet, "--home", join(folder, name), "--name", name, "--memory", "512MiB"];
    const child = Bun.spawn([...(hosts[i]?.command ?? []), process.execPath, join(root, "src/cli/main.ts"), ...args], {
      stdin: "ignore",
      stdout: "ignore",
      stderr: "pipe",
    });
    const node: NodeProcess = { child, name, fenced: 0 };
    nodes[i] = node;
    void (async () => {
      const text = await heard(child.stderr, (line) => {
        if (line.includes("was taken away")) {
          fenced++;
          node.fenced++;
        }
        if (line.includes("internal error")) problems.push(`${name}: ${line}`);
      });
      await child.exited;
      if (isEnding || child.signalCode !== null) return;
      // A node that comes while NATS is away says so and ends; whoever keeps services running starts it again.
      if (text.includes("no NATS server answers") && nodes[i]?.child === child) startNode(i);
      else problems.push(`${name} ended by itself with ${child.exitCode}: ${text}`);
    })();
  };
  let front = await startServerProcess(home, model, fleet);
  const done = new Set<string>();
  try {
    for (let i = 0; i < options.nodes; i++) startNode(i);
    const box = (): Box => front.box;
    const training_file = await box().upload(chats());
    const job = { training_file, seed: 11, remat: { ...QUICK, steps, save_every: 5, gradient_accumulation: 12, dropout: 0.1 } };
    const reference = (await box().create(job)).id;
    const whole = await box().until(reference);
    if (whole.status !== "succeeded") throw new Error(`an undisturbed job has ${whole.status}: ${JSON.stringify(whole.error)}`);
    const expected = bitsOf(join(home, "runs", reference));
    onMessage(`an undisturbed job took ${((performance.now() - begun) / 1000).toFixed(1)} s with the start of all`);

    const created: string[] = [];
    const create = async () => void created.push((await box().create(job)).id);
    for (let i = 0; i < options.jobs; i++) await create();
    const look = async (): Promise<void> => {
      for (const id of created)
        if (!done.has(id) && (await box().client.fineTuning.jobs.retrieve(id)).finished_at !== null) done.add(id);
    };
    const counts: Record<Harm, number> = { node: 0, front: 0, nats: 0, partition: 0 };
    for (const harm of options.harms) {
      await Bun.sleep(PAUSE_MS[0] + random.uniform() * (PAUSE_MS[1] - PAUSE_MS[0]));
      await look();
      // There is always something to be lost.
      if (done.size === created.length) await create();
      onMessage(`${harm}; ${done.size} of ${created.length} jobs have ended`);
      counts[harm]++;
      switch (harm) {
        case "node": {
          const i = random.below(options.nodes);
          await killed(nodes[i]!.child);
          await Bun.sleep(random.uniform() * 1500 * LEASE);
          startNode(i);
          break;
        }
        case "front":
          await killed(front.child);
          await Bun.sleep(random.uniform() * 1500 * LEASE);
          front = await startServerProcess(home, model, fleet);
          break;
        case "nats":
          await nats.kill();
          await Bun.sleep(random.uniform() * 1500 * LEASE);
          await nats.restart();
          break;
        case "partition":
          if (hosts.length === 0) await holdUp(nodes, random, partitionMs);
          else
            await cutOff({ nodes, hosts, box: front.box, ms: partitionMs, onMessage }).catch((error: unknown) =>
              problems.push(String(error)),
            );
          break;
      }
    }
    while (done.size < created.length) {
      await look();
      await Bun.sleep(100);
    }
    let attempts = 0;
    for (const id of created) {
      const found = await problemsOf(front.box, id, join(home, "runs", id), { expected, steps });
      problems.push(...found.problems);
      attempts += found.attempts;
    }
    isEnding = true;
    const codes = await Promise.all([front, ...nodes].map(({ child }) => (child.kill("SIGTERM"), child.exited)));
    if (codes.some((code) => code !== 0)) problems.push(`the front and the nodes ended with ${codes.join(", ")}`);
    const seconds = (performance.now() - begun) / 1000;
    return { jobs: created.length, harms: counts, attempts, fenced, seconds, problems };
  } finally {
    isEnding = true;
    for (const { child } of [front, ...nodes]) child.kill("SIGKILL");
    await Promise.all([front, ...nodes].map(({ child }) => child.exited));
    await nats.close();
    for (const host of hosts) host.close();
  }
}

/** Holds a node's process up, not the one that trains for it, until its lease is long over. */
async function holdUp(nodes: readonly NodeProcess[], random: Random, ms: number): Promise<void> {
  const { child } = nodes[random.below(nodes.length)]!;
  child.kill("SIGSTOP");
  await Bun.sleep(ms);
  child.kill("SIGCONT");
}

/** Milliseconds in which a node that is reached again is to have noticed, and another one is to have been free for its job. */
const NOTICED_MS = 300_000;

interface CutOff {
  readonly nodes: readonly NodeProcess[];
  readonly hosts: readonly Host[];
  readonly box: Box;
  readonly ms: number;
  onMessage(text: string): void;
}

/** Cuts the link of a node that runs a job. @throws {Error} nobody takes the job over, or the node goes on with it when its link is mended */
async function cutOff({ nodes, hosts, box, ms, onMessage }: CutOff): Promise<void> {
  const working = async () => ((await (await box.ask("/v1/nodes")).json()) as Nodes).data.filter(({ jobs }) => jobs.length > 0);
  const found = await noticed("no node runs a job", async () => (await working())[0] ?? null);
  const [job] = found.jobs;
  const i = nodes.findIndex(({ name }) => name === found.id);
  const node = nodes[i]!;
  const before = node.fenced;
  hosts[i]!.cut();
  onMessage(`the link of ${found.id} is cut, which runs ${job}`);
  const begun = performance.now();
  try {
    await noticed(`nobody takes ${job} over from ${found.id}`, async () => {
      const { finished_at } = await box.client.fineTuning.jobs.retrieve(job!);
      return finished_at !== null || (await working()).some(({ id, jobs }) => id !== found.id && jobs.includes(job!)) || null;
    });
    await Bun.sleep(Math.max(0, ms - (performance.now() - begun)));
  } finally {
    hosts[i]!.mend();
  }
  await noticed(`${found.id} goes on with ${job}, which was taken from it`, async () => node.fenced > before || null);
  onMessage(`${found.id} has been told that ${job} is another's`);
}

/** Waits for something that is to come. @throws {Error} */
async function noticed<T>(otherwise: string, look: () => Promise<T | null>): Promise<T> {
  for (const until = performance.now() + NOTICED_MS; performance.now() < until; await Bun.sleep(50)) {
    const found = await look();
    if (found !== null) return found;
  }
  throw new Error(otherwise);
}

async function killed(child: Bun.Subprocess): Promise<void> {
  child.kill("SIGKILL");
  await child.exited;
}

/** Lines of a process's standard error that a problem shows. */
const SHOWN = 12;

/** Reads a stream to its end, and returns the last lines. */
async function heard(stream: ReadableStream<Uint8Array>, onLine: (line: string) => void): Promise<string> {
  const decoder = new TextDecoder();
  const lines = [""];
  const last: string[] = [];
  for await (const piece of stream) {
    const [first, ...rest] = decoder.decode(piece, { stream: true }).split("\n");
    lines.push(`${lines.pop()}${first}`, ...rest);
    for (const line of lines.splice(0, lines.length - 1)) {
      onLine(line);
      last.push(line);
    }
    last.splice(0, last.length - SHOWN);
  }
  return [...last, ...lines].join("\n");
}

async function problemsOf(
  box: Box,
  id: string,
  run: string,
  { expected, steps }: { readonly expected: string; readonly steps: number },
): Promise<{ readonly problems: string[]; readonly attempts: number }> {
  const job = await box.client.fineTuning.jobs.retrieve(id);
  if (job.status !== "succeeded") return { problems: [`${id} has ${job.status}: ${JSON.stringify(job.error)}`], attempts: 0 };
  const problems: string[] = [];
  if (bitsOf(run) !== expected) problems.push(`${id} has other bits`);
  const messages: string[] = [];
  const told: number[] = [];
  for await (const event of box.client.fineTuning.jobs.listEvents(id, { limit: 1000 })) {
    if (event.type === "metrics") told.push((event.data as { step: number }).step);
    else messages.push(event.message);
  }
  const all = Array.from({ length: steps }, (_, i) => i + 1);
  if (told.sort((a, b) => a - b).join() !== all.join()) problems.push(`${id} told the steps ${told.join()}`);
  const ends = messages.filter((message) => message === "The job has successfully completed").length;
  if (ends !== 1) problems.push(`${id} has ended ${ends} times`);
  const numbers = messages.flatMap((message) => /\(attempt (\d+) in the fleet\)/.exec(message)?.[1] ?? []);
  return { problems, attempts: Math.max(1, ...numbers.map(Number)) };
}
