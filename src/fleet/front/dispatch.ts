import type { Fleet } from "../fleet.ts";
import { follow } from "../follow.ts";
import { SUBJECTS } from "../names.ts";
import type { JobRecord } from "../records.ts";

/** Told what is new of a job: its record (null: it is gone; undefined: none has been seen yet) with its revision, or that its node has told something. */
export type OnNews = (record: JobRecord | null | undefined, revision: number) => void;

/** Hears of all jobs of a front by one consumer and one subscription, however many there are. */
export interface Dispatch {
  /** Tells what is known of a job, and whatever comes; returns what ends that. */
  watch(job: string, onNews: OnNews): () => void;
  end(): void;
}

export function createDispatch({ nats, buckets }: Fleet, front: string): Dispatch {
  const watchers = new Map<string, OnNews>();
  const records = new Map<string, { readonly record: JobRecord | null; readonly revision: number }>();
  const nameOf = (text: string) => text.slice(text.lastIndexOf(".") + 1);
  const tell = (job: string) => {
    const known = records.get(job);
    watchers.get(job)?.(known?.record, known?.revision ?? 0);
  };
  const following = follow<JobRecord>(nats, buckets.jobs, `${front}.*`, (key, record, revision) => {
    const job = nameOf(key);
    // Nobody asks for one that is gone again, but for who watches it.
    if (record === null && !watchers.has(job)) records.delete(job);
    else records.set(job, { record, revision });
    tell(job);
  });
  const hearing = nats.subscribe(SUBJECTS.eventsOf(front), {
    callback(error, { subject }) {
      if (error === null) tell(nameOf(subject));
    },
  });
  return {
    watch(job, onNews) {
      watchers.set(job, onNews);
      tell(job);
      return () => {
        watchers.delete(job);
        if (records.get(job)?.record === null) records.delete(job);
      };
    },
    end() {
      following.end();
      hearing.unsubscribe();
    },
  };
}
