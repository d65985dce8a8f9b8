import { STREAMS, SUBJECTS } from "../names.ts";
import type { Fleet } from "../fleet.ts";
import { objectOf } from "../objects.ts";
import { type JobRecord, keysOf, readEntry } from "../records.ts";

/**
 * Removes what the fleet has of a front's jobs that have ended: their records, events, checkpoints and results, and training data that no other job needs. Base
 * models stay.
 */
export async function tidy(
  fleet: Fleet,
  front: string,
  {
    isOver,
    isNeeded,
  }: {
    /** Nothing of a job is needed any more. */
    isOver(job: string): boolean;
    /** An object is what a job is trained on that this front follows. */
    isNeeded(name: string): boolean;
  },
): Promise<void> {
  const { jobs } = fleet.buckets;
  const all = new Map<string, { readonly job: JobRecord; readonly revision: number }>();
  for (const key of await keysOf(jobs)) {
    const held = await readEntry<JobRecord>(jobs, key);
    if (held !== null) all.set(key, { job: held.value, revision: held.revision });
  }
  const ended = [...all].filter(([, { job }]) => job.front === front && isOver(job.job) && job.state !== "running");
  if (ended.length === 0) return;
  for (const [key, { job, revision }] of ended) {
    await jobs.purge(key, { previousSeq: revision });
    await fleet.manager.streams.purge(STREAMS.events.name, { filter: SUBJECTS.events(front, job.job) });
    all.delete(key);
  }
  const needed = new Set([...all.values()].flatMap(({ job }) => dataOf(job)));
  const unneeded = new Set(ended.flatMap(([, { job }]) => dataOf(job)).filter((name) => !needed.has(name)));
  for (const name of unneeded) if (!isNeeded(name)) await fleet.files.delete(name).catch(() => {});
  for (const { name } of await fleet.runs.list())
    if (ended.some(([key]) => name.startsWith(`${key}/`))) await fleet.runs.delete(name).catch(() => {});
}

/** The names of the objects that a job is trained on. */
export const dataOf = ({ front, files, adapter }: JobRecord): string[] =>
  [...Object.values(files), ...(adapter ?? [])].map((file) => objectOf.data(front, file));
