import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import type { NatsConnection } from "@nats-io/transport-node";
import { messageOf, UserError } from "../../base/errors.ts";
import { hashFile } from "../../base/files/files.ts";
import type { TrainConfig } from "../../train/config.ts";
import type { FromWorker, ToWorker } from "../../train/nodes/messages.ts";
import { openFleet, type Fleet } from "../fleet.ts";
import { leaseOf, type Member, newSession } from "../members.ts";
import { SUBJECTS } from "../names.ts";
import { numericsHere } from "../numerics.ts";
import { modelFiles, modelId, objectOf, putFile } from "../objects.ts";
import type { FleetOptions } from "../options.ts";
import { FILE_KEYS, type FileKey, keysOf, readEntry, type StoredFile } from "../records.ts";
import { checkSettings, isShare } from "../settings.ts";
import { serveBases } from "../bases/serve-bases.ts";
import { openNatsWay, type NatsWay } from "./nats-way.ts";
import type { Answer, Offer } from "./offer.ts";
import { decode, encode } from "./wire.ts";

export interface RecruitOptions {
  readonly fleet: FleetOptions;
  /** Workers, at most. */
  readonly count: number;
  readonly prepare: Extract<ToWorker, { type: "prepare" }>;
  /** The base model's folder on this machine. */
  readonly folder: string;
  joined(worker: string): void;
  message(worker: string, message: FromWorker): void;
  left(worker: string, why: string): void;
  note(text: string): void;
}

/** Nodes of a fleet that work for a run. */
export interface Recruits {
  send(worker: string, message: ToWorker): void;
  dismiss(worker: string): void;
  close(): Promise<void>;
}

/** Milliseconds between two looks for nodes, for an answer, and until a node that refused is asked again. */
const LOOK_MS = 1000;
const ANSWER_MS = 5000;
const AGAIN_MS = 10_000;

/** The name of a run beside those of members. */
const memberOf = (run: string): string => `run-${run}`;

/** Looks for nodes for as long as there are fewer than are wanted. @throws {UserError} a fleet that is not reached, settings that name something of this machine */
export async function recruit(options: RecruitOptions): Promise<Recruits> {
  const { count, note, joined, left, message } = options;
  const run = newSession();
  const fleet = await openFleet(options.fleet, memberOf(run));
  const closing = new AbortController();
  const ways = new Map<string, NatsWay>();
  /** By name: when a node may be asked again. */
  const notBefore = new Map<string, number>();
  const silence = leaseOf(options.fleet);
  let endServing = () => {};
  let offer: Omit<Offer, "up" | "down">;
  try {
    offer = { ...(await store(fleet, run, options, closing.signal)), silence };
    endServing = serveBases(fleet.nats, offer.member, new Map([[offer.base.id, options.folder]]));
  } catch (error) {
    await fleet.close();
    throw error;
  }

  const ask = async (node: string): Promise<void> => {
    const subject = `${SUBJECTS.parallel(node)}.${newSession()}`;
    const [up, down] = [`${subject}.up`, `${subject}.down`];
    notBefore.set(node, performance.now() + AGAIN_MS);
    const lose = (why: string) => {
      if (ways.delete(node)) left(node, why);
    };
    const way = openNatsWay(fleet.nats, {
      to: down,
      from: up,
      silence,
      message(bytes) {
        try {
          message(node, decode<FromWorker>(bytes));
        } catch (error) {
          way.close();
          lose(messageOf(error));
        }
      },
      closed: lose,
    });
    const refused = await request(fleet.nats, node, { ...offer, up, down });
    if (refused !== null || closing.signal.aborted) return way.close();
    ways.set(node, way);
    joined(node);
  };
  const look = async (): Promise<void> => {
    if (ways.size >= count) return;
    const ready = (await members(fleet)).filter(({ name }) => !ways.has(name) && (notBefore.get(name) ?? 0) <= performance.now());
    for (const { name } of ready.slice(0, count - ways.size)) await ask(name);
  };
  const looking = (async () => {
    let said = false;
    while (!closing.signal.aborted) {
      await look().catch((error: unknown) => !closing.signal.aborted && note(`the fleet: ${messageOf(error)}`));
      if (ways.size === 0 && !said)
        note(
          "no node of the fleet with this machine's version and processor features has a free slot; the run goes on alone until one has",
        );
      said = true;
      await Bun.sleep(LOOK_MS);
    }
  })();
  return {
    send: (worker, message) => ways.get(worker)?.send(encode(message)),
    dismiss(worker) {
      ways.get(worker)?.close();
      ways.delete(worker);
    },
    async close() {
      closing.abort(new Error("the run has ended"));
      for (const way of ways.values()) way.close();
      endServing();
      await Promise.race([looking, Bun.sleep(2 * LOOK_MS)]);
      for (const file of Object.values(offer.files)) await fleet.files.delete(objectOf.data(run, file)).catch(() => {});
      for (const file of offer.adapter ?? []) await fleet.files.delete(objectOf.data(run, file)).catch(() => {});
      await fleet.close();
    },
  };
}

/** Asks a node to take part. Returns why it does not; null: it does. */
async function request(nats: NatsConnection, node: string, offer: Offer): Promise<string | null> {
  try {
    return (await nats.request(SUBJECTS.parallel(node), JSON.stringify(offer), { timeout: ANSWER_MS })).json<Answer>().refused;
  } catch (error) {
    return `it does not answer (${messageOf(error)})`;
  }
}

/** The nodes that may take part: of this version, with the processor features that decide. */
async function members({ buckets }: Fleet): Promise<Member[]> {
  const here = numericsHere();
  const found: Member[] = [];
  for (const key of await keysOf(buckets.nodes)) {
    const member = (await readEntry<Member>(buckets.nodes, key))?.value;
    if (member?.kind !== "node" || member.isLeaving || member.jobs.length >= member.slots) continue;
    const { version, processor } = member.numerics;
    if (version === here.version && processor === here.processor) found.push(member);
  }
  return found;
}

/** Puts what a run needs into the object store. @throws {UserError} */
async function store(
  fleet: Fleet,
  run: string,
  { prepare, folder }: RecruitOptions,
  signal: AbortSignal,
): Promise<Omit<Offer, "up" | "down" | "silence">> {
  const { config, given, fingerprint, numerics } = prepare;
  // Paths and processes of this machine are none of a node's.
  const settings: TrainConfig = { ...config, model: "", data: "", output: "", nodes: 1 };
  for (const key of ["adapter", "chatTemplate"] as const) delete (settings as Partial<TrainConfig>)[key];
  if (config.valid !== undefined && !isShare(config.valid)) delete (settings as Partial<TrainConfig>).valid;
  checkSettings(settings);
  const files: Partial<Record<FileKey, StoredFile>> = {};
  for (const key of FILE_KEYS) {
    const path = config[key];
    if (path === undefined || (key === "valid" && isShare(path))) continue;
    const file = storedFile(path, key);
    await putFile(fleet.files, objectOf.data(run, file), path, { signal });
    files[key] = file;
  }
  let adapter: StoredFile[] | null = null;
  if (config.adapter !== undefined) {
    adapter = [];
    for (const name of readdirSync(config.adapter).filter((each) => /^adapter_(?:config\.json|model\.safetensors)$/.test(each))) {
      const file = { ...storedFile(join(config.adapter, name), "adapter"), path: name };
      await putFile(fleet.files, objectOf.data(run, file), join(config.adapter, name), { signal });
      adapter.push(file);
    }
  }
  const bases = modelFiles(folder);
  const base = { name: config.model, id: modelId(bases), files: bases };
  return { run, base, member: memberOf(run), files, adapter, config: settings, given, fingerprint, numerics };
}

/** @throws {UserError} no file */
function storedFile(path: string, key: string): StoredFile {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat?.isFile() !== true) throw new UserError(`--fleet sends ${key} to nodes as one file; got ${path}, which is none`);
  return { path, sha256: hashFile(path), bytes: stat.size };
}
