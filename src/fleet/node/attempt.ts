import type { KV } from "@nats-io/kv";
import { amend, type Held, type JobRecord, persistently } from "../records.ts";

/** Another attempt has begun, or the job was taken away: nothing more may be written about it. */
export class Fenced extends Error {
  override name = "Fenced";
}

/** The right of one attempt to write about its job. */
export interface Attempt {
  readonly number: number;
  /** The job as this attempt last wrote or saw it. */
  readonly job: JobRecord;
  /** Writes by compare-and-set, as soon as NATS answers. @throws {Fenced} */
  write(change: Partial<JobRecord>): Promise<JobRecord>;
}

/**
 * Takes a job that waits and that this node does not run; null: somebody else was faster, or it waits no more.
 * @param signal ends waiting for NATS
 */
export async function take(
  jobs: KV,
  key: string,
  who: { readonly node: string; readonly session: string },
  signal: AbortSignal,
): Promise<Attempt | null> {
  const isOurs = (job: JobRecord) => job.state === "running" && job.node === who.node && job.session === who.session;
  // An answer that was lost leaves the job taken, and is asked for again.
  const claim = (job: JobRecord): JobRecord | null => {
    if (isOurs(job)) return job;
    return job.state === "queued" && !job.isUnwanted ? { ...job, ...who, state: "running", attempt: job.attempt + 1 } : null;
  };
  let held: Held<JobRecord> | null = await persistently(() => amend<JobRecord>(jobs, key, claim), signal);
  if (held === null) return null;
  const number = held.value.attempt;
  return {
    number,
    get job() {
      return held!.value;
    },
    async write(change) {
      held = await persistently(
        () => amend<JobRecord>(jobs, key, (job) => (isOurs(job) && job.attempt === number ? { ...job, ...change } : null)),
        signal,
      );
      if (held === null)
        throw new Fenced(`attempt ${number} at ${key} is over: its node was taken for dead, or the job was taken away`);
      return held.value;
    },
  };
}
