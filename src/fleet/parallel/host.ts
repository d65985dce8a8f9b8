import { existsSync } from "node:fs";
import { basename, extname, join } from "node:path";
import type { ObjectStore } from "@nats-io/obj";
import type { NatsConnection } from "@nats-io/transport-node";
import { messageOf, UserError } from "../../base/errors.ts";
import { type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { startLocalWorker } from "../../train/nodes/local-worker.ts";
import type { FromWorker, ToWorker, WorkerLink } from "../../train/nodes/messages.ts";
import type { Bases } from "../bases/bases.ts";
import { SUBJECTS } from "../names.ts";
import { getFile, modelId, objectOf } from "../objects.ts";
import { FILE_KEYS } from "../records.ts";
import { checkSettings } from "../settings.ts";
import type { Meter } from "../traffic.ts";
import { openNatsWay } from "./nats-way.ts";
import type { Answer, Offer } from "./offer.ts";
import { decode, encode } from "./wire.ts";

/** Describes what a node has for workers of runs elsewhere. */
export interface WorkerPlace {
  readonly nats: NatsConnection;
  readonly files: ObjectStore;
  readonly home: string;
  readonly node: string;
  /** Bytes that a worker may take. */
  readonly memory: number;
  /** The node leaves: workers end. */
  readonly leaving: AbortSignal;
  readonly bases: Bases;
  /** Takes a slot for as long as a promise is pending, and counts what is sent and received in it; null: there is none. */
  occupy(key: string, until: Promise<void>): Meter | null;
  onMessage(text: string): void;
}

/** Takes part in runs of other members of the fleet. Returns what ends that. */
export function hostWorkers(place: WorkerPlace): () => void {
  const { nats, node, occupy, onMessage } = place;
  const offers = nats.subscribe(SUBJECTS.parallel(node), {
    callback(error, message) {
      if (error !== null) return;
      const answer = (refused: string | null) => void message.respond(JSON.stringify({ refused } satisfies Answer));
      const done = Promise.withResolvers<void>();
      let offer: Offer;
      try {
        offer = message.json<Offer>();
        checkSettings(offer.config);
        if (!offer.up.startsWith(`${SUBJECTS.parallel(node)}.`) || !offer.down.startsWith(`${SUBJECTS.parallel(node)}.`))
          throw new UserError("subjects of another node");
      } catch (error) {
        return answer(messageOf(error));
      }
      const meter = occupy(`parallel.${offer.run}`, done.promise);
      if (meter === null) return answer("it has no free slot");
      onMessage(`a worker for the run ${offer.run} begins`);
      void work(place, offer, meter)
        .then((why) => onMessage(`the worker for the run ${offer.run} has ended: ${why}`))
        .finally(done.resolve);
      answer(null);
    },
  });
  return () => offers.unsubscribe();
}

/** Passes on what a worker, a process of its own, and its coordinator tell each other. Returns why that has ended. */
async function work(place: WorkerPlace, offer: Offer, meter: Meter): Promise<string> {
  const { nats, leaving } = place;
  const ended = Promise.withResolvers<string>();
  const stop = () => ended.resolve("the node leaves the fleet");
  const aborted = new AbortController();
  leaving.addEventListener("abort", stop, { once: true });
  if (leaving.aborted) stop();
  /** Messages that came before the worker was there. */
  const early: ToWorker[] = [];
  let worker: WorkerLink | null = null;
  const way = openNatsWay(nats, {
    to: offer.up,
    from: offer.down,
    silence: offer.silence,
    counted: (direction, bytes) => meter.count("gradients", direction, bytes),
    message(bytes) {
      let told: ToWorker;
      try {
        told = decode<ToWorker>(bytes);
      } catch (error) {
        return ended.resolve(messageOf(error));
      }
      // The first message is this node's own.
      if (told.type === "prepare") return;
      if (worker) worker.send(told);
      else early.push(told);
    },
    closed: ended.resolve,
  });
  const tell = (message: FromWorker) => way.send(encode(message));
  const begin = async () => {
    const config = await prepare(place, offer, meter, aborted.signal);
    if (aborted.signal.aborted) return;
    worker = startLocalWorker();
    worker.listen({
      message: tell,
      closed(why) {
        tell({ type: "failed", message: why });
        ended.resolve(why);
      },
    });
    const { given, fingerprint, numerics } = offer;
    worker.send({ type: "prepare", config, given, fingerprint, numerics });
    for (const message of early.splice(0)) worker.send(message);
  };
  begin().catch((error: unknown) => {
    if (aborted.signal.aborted) return;
    tell({ type: "failed", message: messageOf(error) });
    ended.resolve(messageOf(error));
  });
  const why = await ended.promise;
  aborted.abort();
  leaving.removeEventListener("abort", stop);
  (worker as WorkerLink | null)?.close();
  // What was told last is to arrive in front of the leave.
  await Bun.sleep(0);
  way.close();
  return why;
}

/** Fetches what a run needs. All paths of the configuration are of this machine. @throws {UserError} */
async function prepare(place: WorkerPlace, offer: Offer, meter: Meter, signal: AbortSignal): Promise<TrainConfig> {
  const { files, home, memory } = place;
  const model = await place.bases.folderOf(offer.base, meter.passage("bases", "received", signal), offer.member);
  const way = meter.passage("data", "received", signal);
  const paths: Partial<Record<(typeof FILE_KEYS)[number], string>> = {};
  for (const name of FILE_KEYS) {
    const file = offer.files[name];
    if (file === undefined) continue;
    const path = join(home, "files", `${file.sha256}${extname(file.path)}`);
    if (!existsSync(path)) await getFile(files, objectOf.data(offer.run, file), file, path, way);
    paths[name] = path;
  }
  let adapter: string | undefined;
  if (offer.adapter !== null) {
    adapter = join(home, "adapters", modelId(offer.adapter));
    for (const file of offer.adapter) {
      const path = join(adapter, basename(file.path));
      if (!existsSync(path)) await getFile(files, objectOf.data(offer.run, file), file, path, way);
    }
  }
  const { strategy, gradientCheckpointing, activationMemory } = offer.config;
  const isFree = strategy === undefined && gradientCheckpointing && activationMemory === undefined;
  return trainConfigSchema.parse({
    ...offer.config,
    ...paths,
    ...(adapter !== undefined && { adapter }),
    model,
    // Nothing is written there.
    output: join(home, "runs", `parallel.${offer.run}`),
    ...(isFree && { memory: `${Math.floor(memory / 2 ** 20)}MiB` }),
  });
}
