import type { KV } from "@nats-io/kv";
import type { NatsConnection } from "@nats-io/transport-node";
import { follow, type Following } from "./follow.ts";
import type { Member } from "./members.ts";
import { SUBJECTS } from "./names.ts";
import { assign, heldBases, isOrphan, loads, waiting } from "./placement.ts";
import { amend, isAway, type JobRecord, keyOf, readEntry, swap } from "./records.ts";

export interface LeaderOptions {
  readonly nats: NatsConnection;
  readonly buckets: { readonly nodes: KV; readonly jobs: KV; readonly leader: KV };
  /** This process among the members, and this start of it. */
  readonly name: string;
  readonly session: string;
  /** Milliseconds. */
  readonly lease: number;
}

/** The key of the one entry of the leader's bucket. */
const KEY = "leader";
/** Looks at the fleet in a lease. */
const LOOKS = 10;
/** Milliseconds that a node may take to say whether it takes a job. */
const OFFER_MS = 2000;
/** Milliseconds that changes wait for others before jobs are placed. */
const GATHER_MS = 20;
/** Milliseconds for which a node that has refused a job is offered no other. */
const REFUSED_MS = 1000;

interface Lease {
  readonly name: string;
  readonly session: string;
  /** Milliseconds without a renewal after which another process may take it. */
  readonly lease: number;
}

/**
 * Places jobs, while no other process of the fleet does: every node and every front runs this, and one of them leads. What a leader knows it reads from the
 * buckets, and what it decides is a compare-and-set, by itself or by the node that takes a job; so two that lead for a moment do no harm.
 */
export function startLeader(options: LeaderOptions): { stop(): Promise<void> } {
  const { buckets, name, session, lease } = options;
  let isOver = false;
  let term: Term | null = null;
  let held = 0;
  /** The newest revision of the lease that was seen, and when. */
  let seen = { revision: 0, at: 0, lease };

  const renew = async (): Promise<boolean> => {
    const mine: Lease = { name, session, lease };
    if (held > 0) {
      held = (await swap(buckets.leader, KEY, mine, held))?.revision ?? 0;
      return held > 0;
    }
    const entry = await readEntry<Lease>(buckets.leader, KEY);
    const revision = entry?.revision ?? (await buckets.leader.get(KEY))?.revision ?? 0;
    const now = performance.now();
    if (revision !== seen.revision) seen = { revision, at: now, lease: entry?.value.lease ?? 0 };
    const isFree = entry === null || entry.value.session === session || now - seen.at > seen.lease;
    if (isFree) held = (await swap(buckets.leader, KEY, mine, revision))?.revision ?? 0;
    return held > 0;
  };

  const loop = async (): Promise<void> => {
    while (!isOver) {
      try {
        if (await renew()) term ??= startTerm(options);
        else {
          term?.end();
          term = null;
        }
        await term?.look();
      } catch (error) {
        if (!isAway(error) && !isOver) throw error;
        // Nobody is taken for dead by a leader that could not hear of anybody.
        term?.end();
        term = null;
        held = 0;
      }
      if (!isOver) await Bun.sleep(lease / LOOKS);
    }
    term?.end();
  };
  const done = loop();
  return {
    async stop() {
      isOver = true;
      await done;
      if (held > 0) await buckets.leader.purge(KEY, { previousSeq: held }).catch(() => {});
    },
  };
}

interface Term {
  look(): Promise<void>;
  end(): void;
}

/** Leads from now on: what was seen of members before counts for nothing. */
function startTerm({ nats, buckets, lease }: LeaderOptions): Term {
  const members = new Map<string, Member>();
  const signs = new Map<string, { revision: number; at: number }>();
  const jobs = new Map<string, JobRecord>();
  const offered = new Map<string, string>();
  const refused = new Map<string, number>();
  let isOver = false;
  let isBegun = false;
  let looked = performance.now();
  let timer: ReturnType<typeof setTimeout> | null = null;
  const followings: Following[] = [
    follow<Member>(nats, buckets.nodes, ">", (key, value, revision) => {
      if (value === null) {
        members.delete(key);
        signs.delete(key);
      } else {
        members.set(key, value);
        if (signs.get(key)?.revision !== revision) signs.set(key, { revision, at: performance.now() });
      }
      placeSoon();
    }),
    follow<JobRecord>(nats, buckets.jobs, ">", (key, value) => {
      if (value === null || value.state === "ended") jobs.delete(key);
      else jobs.set(key, value);
      placeSoon();
    }),
  ];
  void Promise.all(followings.map(({ begun }) => begun)).then(() => {
    isBegun = true;
    placeSoon();
  });

  const place = (): void => {
    timer = null;
    if (isOver) return;
    const counts = loads(jobs.values());
    for (const node of offered.values()) counts.set(node, (counts.get(node) ?? 0) + 1);
    const now = performance.now();
    const ready = [...members.values()].filter((node) => (refused.get(node.name) ?? 0) < now);
    const idle = waiting(jobs.values()).filter((job) => !offered.has(keyOf(job)));
    for (const { job, node } of assign(idle, ready, counts, heldBases(members.values()))) {
      const key = keyOf(job);
      offered.set(key, node.name);
      void offer(key, node.name).then(() => offered.delete(key));
    }
  };
  // Signs of life come by hundreds in a second.
  const placeSoon = () => {
    if (isBegun && !isOver) timer ??= setTimeout(place, GATHER_MS);
  };

  const offer = async (key: string, node: string): Promise<void> => {
    try {
      const answer = await nats.request(SUBJECTS.offers(node), key, { timeout: OFFER_MS });
      const { taken } = answer.json<{ readonly taken: JobRecord | null }>();
      if (taken !== null && jobs.get(key)?.state === "queued") jobs.set(key, taken);
      if (taken === null) refused.set(node, performance.now() + REFUSED_MS);
    } catch {
      refused.set(node, performance.now() + REFUSED_MS);
    }
  };

  return {
    async look() {
      if (!isBegun) return;
      const now = performance.now();
      // Signs of life wait to be read where this process itself was held up.
      if (now - looked > lease / 2) for (const sign of signs.values()) sign.at = now;
      looked = now;
      for (const [key, { revision, at }] of signs) {
        const member = members.get(key);
        if (member === undefined || now - at <= member.lease) continue;
        await buckets.nodes.purge(key, { previousSeq: revision }).catch(() => {});
        members.delete(key);
        signs.delete(key);
      }
      for (const [key, job] of jobs) {
        if (!isOrphan(job, members)) continue;
        const { attempt, session } = job;
        const freed = await amend<JobRecord>(buckets.jobs, key, (value) =>
          value.state === "running" && value.attempt === attempt && value.session === session
            ? { ...value, state: value.isUnwanted ? "stopped" : "queued" }
            : null,
        );
        if (freed !== null) jobs.set(key, freed.value);
      }
      placeSoon();
    },
    end() {
      isOver = true;
      if (timer !== null) clearTimeout(timer);
      for (const each of followings) each.end();
    },
  };
}
