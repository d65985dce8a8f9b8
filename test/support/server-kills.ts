import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type OpenAI from "openai";
import { createRandom } from "../../src/base/random.ts";
import { readMetrics } from "../../src/jobs/metrics.ts";
import { lockHolder } from "../../src/train/run/lock.ts";
import { BASE, type Box, boxAt, chats, QUICK, writeBase } from "./box.ts";
import { root } from "./cli.ts";

/** Processes that are killed. */
export const VICTIMS = ["child", "server", "both"] as const;

export type Victim = (typeof VICTIMS)[number];

export interface KillsReport {
  readonly jobs: number;
  /** Kills that met a process, by victim. */
  readonly kills: Readonly<Record<Victim, number>>;
  /** Whatever was lost, doubled or other than in an undisturbed run. */
  readonly problems: readonly string[];
}

/** Some steps that take a second together. */
const JOB = { remat: { ...QUICK, steps: 40, save_every: 5, gradient_accumulation: 12, dropout: 0.1 }, seed: 11 };

interface ServerProcess {
  readonly box: Box;
  readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;
}

/** Starts `remat serve --home` as a user does. */
export async function startServerProcess(
  home: string,
  model: string,
  more: readonly string[] = [],
  env: NodeJS.ProcessEnv = process.env,
): Promise<ServerProcess> {
  const args = [
    "serve",
    "--home",
    home,
    "--model",
    model,
    "--port",
    "0",
    "--threads",
    "1",
    "--max-tokens",
    "128",
    "--json",
    ...more,
  ];
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...args], {
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    env,
  });
  const listening = Promise.withResolvers<string | null>();
  // Read to the end: a server whose output nobody takes would end.
  void (async () => {
    let text = "";
    const decoder = new TextDecoder();
    for await (const piece of child.stdout) {
      text += decoder.decode(piece, { stream: true });
      const line = text.split("\n").find((each) => each.includes('"listening"'));
      if (line?.endsWith("}") === true) listening.resolve((JSON.parse(line) as { url: string }).url);
    }
    listening.resolve(null);
  })();
  const url = await listening.promise;
  if (url !== null) return { child, box: boxAt({ url, model: BASE, context: 128, stop: async () => {} }) };
  throw new Error(`the server ended with ${await child.exited}: ${await new Response(child.stderr).text()}`);
}

/**
 * Trains job after job on a server, kills processes at random instants, and compares every job with one that nothing disturbed.
 * @param folder an empty one
 * @param atStep kills at this step of the job instead of at random
 */
export async function killServers(
  folder: string,
  victims: readonly Victim[],
  seed: number,
  atStep: number | null = null,
): Promise<KillsReport> {
  const model = writeBase(folder);
  const home = join(folder, "home");
  const random = createRandom(seed, "server kills");
  const problems: string[] = [];
  const kills = { child: 0, server: 0, both: 0 };
  let server = await startServerProcess(home, model);
  const training = await server.box.upload(chats());
  const runOf = (id: string) => join(home, "runs", id);
  const created: string[] = [];
  /** The client asks again with the same key until it has an answer. */
  const create = async (): Promise<string> => {
    for (;;) {
      try {
        const response = await server.box.ask("/v1/fine_tuning/jobs", {
          method: "POST",
          body: JSON.stringify({ model: BASE, training_file: training, ...JOB }),
          headers: { "content-type": "application/json", "idempotency-key": `job ${created.length}` },
        });
        if (!response.ok) throw new Error(await response.text());
        const { id } = (await response.json()) as { id: string };
        created.push(id);
        return id;
      } catch (error) {
        if (server.child.exitCode === null && server.child.signalCode === null) throw error;
        server = await startServerProcess(home, model);
      }
    }
  };
  const jobOf = (id: string) => server.box.client.fineTuning.jobs.retrieve(id);
  const from = performance.now();
  const whole = await create();
  const reference = await server.box.until(whole);
  if (reference.status !== "succeeded")
    throw new Error(`an undisturbed job has ${reference.status}: ${JSON.stringify(reference.error)}`);
  const duration = performance.now() - from;
  const expected = bitsOf(runOf(whole));

  let id = await create();
  for (const victim of victims) {
    if (atStep === null) await Bun.sleep(random.uniform() * duration);
    else while (readMetrics(runOf(id)).length < atStep) await Bun.sleep(2);
    if ((await jobOf(id)).finished_at !== null) {
      problems.push(...(await problemsOf(server.box, id, runOf(id), expected)));
      id = await create();
      await Bun.sleep(random.uniform() * duration);
    }
    const trainer = existsSync(runOf(id)) ? lockHolder(runOf(id)) : null;
    if (victim !== "server" && trainer !== null) process.kill(trainer, "SIGKILL");
    if (victim !== "child") {
      server.child.kill("SIGKILL");
      await server.child.exited;
      server = await startServerProcess(home, model);
    }
    if (victim !== "child" || trainer !== null) kills[victim]++;
  }
  await server.box.until(id);
  problems.push(...(await problemsOf(server.box, id, runOf(id), expected)));
  const listed: string[] = [];
  for await (const job of server.box.client.fineTuning.jobs.list({ limit: 100 })) listed.push(job.id);
  if (listed.toReversed().join() !== created.join())
    problems.push(`there are the jobs ${listed.join()}, created were ${created.join()}`);
  server.child.kill("SIGTERM");
  const code = await server.child.exited;
  if (code !== 0) problems.push(`the server ended with ${code}: ${await new Response(server.child.stderr).text()}`);
  return { jobs: created.length, kills, problems };
}

/** Everything of a run that must be the same to the bit. */
export function bitsOf(run: string): string {
  const losses = readMetrics(run).map(({ type, step, loss, gradientNorm }) => JSON.stringify([type, step, loss, gradientNorm]));
  return [
    new Bun.CryptoHasher("sha256").update(readFileSync(join(run, "adapter_model.safetensors"))).digest("hex"),
    ...losses,
  ].join("\n");
}

async function problemsOf(box: Box, id: string, run: string, expected: string): Promise<string[]> {
  const problems: string[] = [];
  const job = await box.client.fineTuning.jobs.retrieve(id);
  if (job.status !== "succeeded") return [`${id} has ${job.status}: ${JSON.stringify(job.error)}`];
  if (bitsOf(run) !== expected) problems.push(`${id} has other bits`);
  const events: OpenAI.FineTuning.FineTuningJobEvent[] = [];
  for await (const event of box.client.fineTuning.jobs.listEvents(id, { limit: 1000 })) events.push(event);
  const told = events
    .reverse()
    .filter(({ type }) => type === "metrics")
    .map(({ data }) => (data as { step: number }).step);
  const steps = Array.from({ length: JOB.remat.steps }, (_, i) => i + 1);
  if (told.join() !== steps.join()) problems.push(`${id} told the steps ${told.join()}`);
  const table = await (await box.client.files.content(job.result_files[0]!)).text();
  if (table.trimEnd().split("\n").length !== steps.length + 1) problems.push(`${id} has another result file: ${table}`);
  return problems;
}
