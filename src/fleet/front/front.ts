import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, extname, join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { hashFile, makeFolder, writeTextAtomic } from "../../base/files/files.ts";
import type { Job } from "../../jobs/job-store.ts";
import type { FleetNode, Traffic } from "../../page/api/types.ts";
import type { HomeFederations } from "../../serve/home/fleet/fleet-api.ts";
import type { TrainConfig, TrainConfigInput } from "../../train/config.ts";
import { serveBases } from "../bases/serve-bases.ts";
import { openFleet, type Fleet } from "../fleet.ts";
import { follow } from "../follow.ts";
import { createDispatch } from "./dispatch.ts";
import { followFederations } from "./federations.ts";
import { followJob, type FrontTrain, trafficFile } from "./follow-job.ts";
import { startLeader } from "../leader.ts";
import { join as joinFleet, leaseOf, type Member, newSession } from "../members.ts";
import { numericsHere } from "../numerics.ts";
import { modelFiles, modelId, objectOf, putFile } from "../objects.ts";
import type { FleetOptions } from "../options.ts";
import { checkSettings, isShare } from "../settings.ts";
import { type BaseModel, FILE_KEYS, type FileKey, type JobRecord, type StoredFile, UNTAKEN } from "../records.ts";
import { dataOf, tidy } from "./tidy.ts";

/** A front: it has jobs, and lets the nodes of its fleet run them. */
export interface Front {
  /** Runs a job in the fleet as if it ran here: events, checkpoints and results come into its run folder. */
  readonly train: FrontTrain;
  /** The nodes that are there, for clients. */
  nodes(): readonly FleetNode[];
  /** Returns what nodes have sent and received for a job, as far as it is known. */
  trafficOf(job: string): Traffic;
  readonly federations: HomeFederations;
  /** Bytes that a job may take on the node that has most for it; null: there is no node. */
  mostForJobs(): number | null;
  stop(): Promise<void>;
}

export interface FrontOptions extends FleetOptions {
  /** The folder of what the front remembers. */
  readonly folder: string;
  /** Base models: what clients call them, what configurations of jobs call them, and their folders. */
  readonly bases: readonly { readonly name: string; readonly model: string; readonly folder: string }[];
  /** Tells whether nothing of a job is needed any more in the fleet. */
  isOver(job: string): boolean;
  readonly onMessage?: ((text: string) => void) | undefined;
}

/** Milliseconds between two looks at what is left of jobs that have ended. */
const TIDY_MS = 10_000;

/** Joins a fleet as a front. @throws {UserError} */
export async function openFront(options: FrontOptions): Promise<Front> {
  makeFolder(options.folder);
  const front = idOf(options.folder);
  const name = `front-${front}`;
  const bases = new Map(
    options.bases.map(({ name: called, model, folder }) => [model, { base: baseOf(called, folder), folder }]),
  );
  const folders = new Map([...bases.values()].map(({ base, folder }) => [base.id, folder]));
  const fleet = await openFleet(options, name);
  const { nats, buckets } = fleet;
  const session = newSession();
  const lease = leaseOf(options);
  const closing = new AbortController();
  const members = new Map<string, Member>();
  const describe = (): Member => ({
    name,
    kind: "front",
    session,
    numerics: numericsHere(),
    lease,
    isLeaving: false,
    slots: 0,
    memory: 0,
    bases: [...folders.keys()],
    jobs: [],
    traffic: {},
    work: {},
  });
  const presence = await joinFleet(buckets.nodes, describe, (error) => options.onMessage?.(error.message)).catch(
    async (error: unknown) => {
      await fleet.close();
      throw error;
    },
  );
  const following = follow<Member>(nats, buckets.nodes, ">", (key, member) => {
    if (member === null) members.delete(key);
    else members.set(key, member);
  });
  await following.begun;
  const dispatch = createDispatch(fleet, front);
  const federations = followFederations(fleet);
  const endServing = serveBases(nats, name, folders);
  const leader = startLeader({ nats, buckets, name, session, lease });
  const nodes = () => [...members.values()].filter(({ kind }) => kind === "node");
  /** What the jobs that are followed are trained on. */
  const followed = new Map<string, readonly string[]>();
  const isNeeded = (name: string) => [...followed.values()].some((names) => names.includes(name));
  let tidying = Promise.resolve();
  const timer = setInterval(() => {
    tidying = tidying.then(() => tidy(fleet, front, { isOver: options.isOver, isNeeded })).catch(() => {});
  }, TIDY_MS);

  const train: FrontTrain = async (config, given, trained) => {
    const known = bases.get(config.model);
    if (known === undefined) throw new UserError(`the base model ${config.model} is not one of this front`);
    const record = recordOf(config, given, trained.job, { front, base: known.base });
    followed.set(record.job, dataOf(record));
    return followJob(
      { fleet, dispatch, members: () => [...members.values()], folder: options.folder, closing: closing.signal },
      record,
      config.output,
      {
        ...trained,
        supply: (job) => supply(fleet, job, config, closing.signal),
      },
    ).finally(() => followed.delete(record.job));
  };
  const called = new Map([...bases.values()].map(({ base }) => [base.id, base.name]));
  const own = (key: string): string | null => (key.startsWith(`${front}.`) ? key.slice(front.length + 1) : null);
  const view = ({ name: id, numerics, slots, memory, isLeaving, bases: has, jobs, traffic, work }: Member): FleetNode => ({
    id,
    object: "node",
    ...numerics,
    slots,
    memory,
    leaving: isLeaving,
    models: has.flatMap((base) => called.get(base) ?? []),
    jobs: jobs.flatMap((key) => own(key) ?? []),
    running: jobs.length,
    traffic,
    work: jobs.map((key) => ({ job: own(key), name: key, traffic: work[key] ?? {} })),
  });
  return {
    train,
    nodes: () => nodes().map(view),
    trafficOf(job) {
      const path = trafficFile(options.folder, job);
      return existsSync(path) ? (JSON.parse(readFileSync(path, "utf8")) as Traffic) : {};
    },
    federations,
    mostForJobs: () => nodes().reduce<number | null>((most, { memory }) => Math.max(most ?? 0, memory), null),
    async stop() {
      clearInterval(timer);
      closing.abort(new UserError("the front has ended", 130));
      await tidying;
      following.end();
      dispatch.end();
      federations.end();
      endServing();
      await leader.stop();
      await presence.leave();
      await fleet.close();
    },
  };
}

/** The name that a front keeps. */
function idOf(folder: string): string {
  const path = join(folder, "front");
  if (existsSync(path)) return readFileSync(path, "utf8").trim();
  const letters = "abcdefghijklmnopqrstuvwxyz0123456789";
  const id = Array.from(crypto.getRandomValues(new Uint32Array(8)), (value) => letters[value % letters.length]!).join("");
  writeTextAtomic(path, `${id}\n`);
  return id;
}

function baseOf(name: string, folder: string): BaseModel {
  const files = modelFiles(folder);
  return { name, id: modelId(files), files };
}

/** The keys of a configuration that are of this machine, or that the node chooses. */
const OWN_KEYS = ["adapter", "model", "output", "resume", "overwrite"] as const satisfies (keyof TrainConfig)[];

/** A job as it goes into the fleet: everything is named by its content. */
function recordOf(
  config: TrainConfig,
  given: readonly string[],
  { id, examination: { memory }, created_at }: Job,
  { front, base }: { readonly front: string; readonly base: BaseModel },
): JobRecord {
  const isFile = (key: FileKey) => config[key] !== undefined && !(key === "valid" && isShare(String(config[key])));
  const named = FILE_KEYS.filter(isFile);
  const files = named.map((key) => [key, storedFile(String(config[key]))] as const);
  const own: readonly string[] = [...OWN_KEYS, ...named];
  const settings = Object.fromEntries(Object.entries(config).filter(([key]) => !own.includes(key))) as TrainConfigInput;
  checkSettings(settings);
  return {
    front,
    job: id,
    created: 1000 * created_at,
    base,
    files: Object.fromEntries(files) as Partial<Record<FileKey, StoredFile>>,
    adapter: config.adapter === undefined ? null : adapterFiles(config.adapter),
    settings,
    given,
    isElastic: memory.asked === null,
    least: memory.asked ?? Math.min(memory.least, memory.leastStreamed ?? Infinity),
    ...UNTAKEN,
  };
}

/** A file of the home, which has its hash in its name there, or any other one. */
function storedFile(path: string): StoredFile {
  const name = basename(path);
  const [, known] = /^([0-9a-f]{64})(?:\.|$)/.exec(name) ?? [];
  return { path: name, sha256: known ?? hashFile(path), bytes: statSync(path).size };
}

/** The files of an adapter's folder, or of a checkpoint's. */
function adapterFiles(folder: string): StoredFile[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isFile() && [".json", ".safetensors"].includes(extname(entry.name)))
    .map(({ name }) => ({ path: name, sha256: hashFile(join(folder, name)), bytes: statSync(join(folder, name)).size }));
}

/** Puts what a node needs for a job into the object store; base models it fetches from who has them. */
async function supply({ files }: Fleet, job: JobRecord, config: TrainConfig, signal: AbortSignal): Promise<void> {
  for (const key of FILE_KEYS) {
    const file = job.files[key];
    if (file !== undefined) await putFile(files, objectOf.data(job.front, file), String(config[key]), { signal });
  }
  for (const file of job.adapter ?? [])
    await putFile(files, objectOf.data(job.front, file), join(config.adapter!, file.path), { signal });
}
