import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { messageOf, UserError } from "../../base/errors.ts";
import { makeFolder, writeTextAtomic } from "../../base/files/files.ts";
import { lockHolder, lockRun, holderOf } from "../../train/run/lock.ts";
import { runApart } from "../../train/apart/train-apart.ts";
import { take } from "./attempt.ts";
import { openBases } from "../bases/bases.ts";
import { openFleet } from "../fleet.ts";
import { startLeader } from "../leader.ts";
import { join as joinFleet, leaseOf, type Member, newSession, type Presence } from "../members.ts";
import { isName, SUBJECTS } from "../names.ts";
import { hostWorkers } from "../parallel/host.ts";
import { numericsHere } from "../numerics.ts";
import { modelFiles, modelId } from "../objects.ts";
import type { FleetOptions } from "../options.ts";
import { isAway, type JobRecord } from "../records.ts";
import { createMeter, type Meter } from "../traffic.ts";
import { runJob, type Train, type Workplace } from "./run-job.ts";

export interface NodeOptions extends FleetOptions {
  readonly home: string;
  /** The name in the fleet (default: this machine's, with a part that the home keeps). */
  readonly name?: string | undefined;
  /** Folders of base models. */
  readonly bases: readonly string[];
  /** Bytes that all jobs may take together. */
  readonly memory: number;
  /** Jobs at a time. */
  readonly parallel: number;
  /** Trains (default: in a process of its own). */
  readonly train?: Train | undefined;
  readonly onMessage?: ((text: string) => void) | undefined;
}

/** A node that takes jobs. */
export interface FleetNode {
  readonly name: string;
  /** Has the jobs save and gives them back, and leaves the fleet. */
  stop(): Promise<void>;
  /** Resolves with the reason when the node cannot go on. */
  readonly failed: Promise<UserError>;
}

/** Milliseconds for which a node whose disk is full takes no job. */
const FULL_MS = 60_000;

/** Milliseconds that a node which leaves waits for its jobs to be saved and for NATS. */
const LEAVE_MS = 60_000;

/**
 * Joins a fleet and runs its jobs. In one piece: its functions share what runs.
 * @throws {UserError}
 */
export async function startNode(options: NodeOptions): Promise<FleetNode> {
  const { parallel, train = runApart, onMessage = () => {} } = options;
  const home = resolve(options.home);
  for (const each of ["", "runs", "attempts", "files", "bases"]) makeFolder(join(home, each));
  const lock = lockRun(home, options.home, inUse);
  const name = options.name ?? nameOf(home);
  if (!isName(name)) throw new UserError(`--name: expected up to 64 letters, digits, - and _, got ${JSON.stringify(name)}`);
  const session = newSession();
  const lease = leaseOf(options);
  const folders = knownBases(home, options.bases);
  const fleet = await openFleet(options, name).catch((error: unknown) => {
    lock.release();
    throw error;
  });
  const { nats, js, buckets, files, runs } = fleet;
  const running = new Map<string, Promise<void>>();
  const meter = createMeter();
  /** Meters of those that run, by their keys. */
  const meters = new Map<string, Meter>();
  const meterOf = (key: string): Meter => {
    const made = createMeter(meter);
    meters.set(key, made);
    return made;
  };
  /** No job is taken any more, and those that run are given back. */
  const leaving = new AbortController();
  /** What could not be given back is left to the fleet. */
  const closed = new AbortController();
  const failed = Promise.withResolvers<UserError>();
  let notBefore = 0;
  const memory = Math.floor(options.memory / parallel);
  const numerics = numericsHere();
  const describe = (): Member => ({
    name,
    kind: "node",
    session,
    numerics,
    lease,
    isLeaving: leaving.signal.aborted || performance.now() < notBefore,
    slots: parallel,
    memory,
    bases: [...folders.keys()],
    jobs: [...running.keys()],
    traffic: meter.traffic,
    work: Object.fromEntries([...running.keys()].map((key) => [key, meters.get(key)?.traffic ?? {}])),
  });
  let presence: Presence | null = null;
  const onBase = () => presence?.tell();
  const bases = openBases({ nats, nodes: buckets.nodes, name, home, folders, meter, onBase });
  const place: Workplace = {
    nats,
    js,
    jobs: buckets.jobs,
    files,
    runs,
    home,
    node: name,
    processor: numerics.processor,
    memory,
    bases,
    train,
    meter,
    closed: closed.signal,
    onFull() {
      notBefore = performance.now() + FULL_MS;
      presence?.tell();
    },
  };
  removeOldRuns(home);
  /** Takes a job and begins to run it; null: there is no slot, or it is not to be had. */
  const begin = async (key: string): Promise<JobRecord | null> => {
    if (leaving.signal.aborted || running.has(key) || running.size >= parallel || performance.now() < notBefore) return null;
    const taken = Promise.withResolvers<void>();
    running.set(key, taken.promise);
    let attempt: Awaited<ReturnType<typeof take>> = null;
    try {
      attempt = await take(buckets.jobs, key, { node: name, session }, closed.signal);
    } catch (error) {
      if (!closed.signal.aborted && !isAway(error)) onMessage(`${key}: ${messageOf(error)}`);
    }
    if (attempt === null) {
      running.delete(key);
      taken.resolve();
      return null;
    }
    const { job, number } = attempt;
    onMessage(`${key}: attempt ${number} begins`);
    presence?.tell();
    const done = runJob(place, attempt, meterOf(key), leaving.signal).then(
      (how) => onMessage(`${key}: attempt ${number} ${how}`),
      (error: unknown) => {
        onMessage(`${key}: internal error (please report it): ${error instanceof Error ? error.stack : String(error)}`);
        return attempt
          .write({ state: "ended", failure: { message: messageOf(error), exitCode: null, code: null, lastLines: null } })
          .then(
            () => {},
            () => {},
          );
      },
    );
    running.set(
      key,
      done.finally(() => {
        running.delete(key);
        meters.delete(key);
        taken.resolve();
        presence?.tell();
      }),
    );
    return job;
  };
  const offers = nats.subscribe(SUBJECTS.offers(name), {
    callback(error, message) {
      if (error !== null) return;
      void begin(message.string()).then((taken) => message.respond(JSON.stringify({ taken })));
    },
  });
  const endHosting = hostWorkers({
    nats,
    files,
    home,
    node: name,
    memory,
    leaving: leaving.signal,
    bases,
    occupy(key, until) {
      if (leaving.signal.aborted || running.has(key) || running.size >= parallel) return null;
      running.set(key, until);
      presence?.tell();
      void until.then(() => {
        running.delete(key);
        meters.delete(key);
        presence?.tell();
      });
      return meterOf(key);
    },
    onMessage,
  });
  try {
    presence = await joinFleet(buckets.nodes, describe, failed.resolve);
  } catch (error) {
    await fleet.close();
    lock.release();
    throw error;
  }
  const leader = startLeader({ nats, buckets, name, session, lease });
  const stop = async () => {
    leaving.abort();
    offers.unsubscribe();
    endHosting();
    presence?.tell();
    const timer = setTimeout(() => closed.abort(new Error("NATS did not answer when the node left")), LEAVE_MS);
    await leader.stop();
    await Promise.all(running.values());
    clearTimeout(timer);
    await presence?.leave();
    bases.end();
    await fleet.close();
    lock.release();
  };
  let stopped: Promise<void> | null = null;
  return { name, failed: failed.promise, stop: () => (stopped ??= stop()) };
}

function inUse(file: string): UserError {
  const pid = holderOf(file);
  return new UserError(
    `--home: another node${pid ? ` (process ${pid})` : ""} works in this folder; end it, or choose another one`,
  );
}

/** The base models of the flags, and those that were fetched before, by their ids. @throws {UserError} a folder that is not there */
function knownBases(home: string, folders: readonly string[]): Map<string, string> {
  const bases = new Map<string, string>();
  for (const id of readdirSync(join(home, "bases"))) {
    const folder = join(home, "bases", id);
    // One whose fetching was cut short is fetched on when it is needed.
    if (modelId(modelFiles(folder)) === id) bases.set(id, folder);
  }
  for (const folder of folders) {
    if (!existsSync(join(folder, "config.json")))
      throw new UserError(`--model ${folder}: expected the folder of a base model, with a config.json; there is none`);
    bases.set(modelId(modelFiles(folder)), resolve(folder));
  }
  return bases;
}

/** This machine's name with a part that is the home's own: a fleet may have two machines of one name. */
function nameOf(home: string): string {
  const path = join(home, "name");
  if (existsSync(path)) return readFileSync(path, "utf8").trim();
  const machine = hostname()
    .replaceAll(/[^A-Za-z0-9_-]/g, "-")
    .slice(0, 48);
  const name = `${machine}-${crypto.getRandomValues(new Uint32Array(1))[0]!.toString(36).slice(0, 4)}`;
  writeTextAtomic(path, `${name}\n`);
  return name;
}

/** Removes run folders that an earlier start has left; the fleet has what is to be kept of them. A process that still works in one ends by itself. */
function removeOldRuns(home: string): void {
  for (const name of readdirSync(join(home, "runs"))) {
    const folder = join(home, "runs", name);
    if (lockHolder(folder) === null) rmSync(folder, { recursive: true, force: true });
  }
}
