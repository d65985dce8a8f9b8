import type { KV } from "@nats-io/kv";
import type { ObjectStore } from "@nats-io/obj";
import { connectFleet, type FleetConnection } from "./connection.ts";
import { BUCKETS, STORES, STREAMS } from "./names.ts";
import type { FleetOptions } from "./options.ts";

/** A fleet as a node or a front works with it. */
export interface Fleet extends FleetConnection {
  readonly buckets: { readonly nodes: KV; readonly jobs: KV; readonly leader: KV; readonly federations: KV };
  readonly files: ObjectStore;
  readonly runs: ObjectStore;
}

/** Milliseconds that events of jobs are kept: a front that was away for longer has what is in the run folders. */
const EVENTS_MS = 7 * 24 * 3600 * 1000;

/** Connects, and makes whatever of the fleet is missing. @throws {UserError} */
export async function openFleet(options: FleetOptions, name: string): Promise<Fleet> {
  const connection = await connectFleet(options, name);
  try {
    const nodes = await connection.bucket(BUCKETS.nodes);
    const jobs = await connection.bucket(BUCKETS.jobs);
    const leader = await connection.bucket(BUCKETS.leader);
    const federations = await connection.bucket(BUCKETS.federations);
    const files = await connection.objects(STORES.files);
    const runs = await connection.objects(STORES.runs);
    await connection.stream(STREAMS.events.name, STREAMS.events.subjects, EVENTS_MS);
    return { ...connection, buckets: { nodes, jobs, leader, federations }, files, runs };
  } catch (error) {
    await connection.close();
    throw error;
  }
}
