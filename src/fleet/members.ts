import type { KV } from "@nats-io/kv";
import { UserError } from "../base/errors.ts";
import type { Traffic } from "../page/api/types.ts";
import { type Numerics, numericsHere } from "./numerics.ts";
import type { FleetOptions } from "./options.ts";
import { isAway, keysOf, persistently, readEntry, swap } from "./records.ts";

/** Says what a member of a fleet tells of itself at each sign of life. */
export interface Member {
  readonly name: string;
  /** `front` has jobs and runs none. */
  readonly kind: "node" | "front";
  /** This start of the member: a later one of the same name is greater. */
  readonly session: string;
  readonly numerics: Numerics;
  /** Milliseconds without a sign of life after which others go on with what it did. */
  readonly lease: number;
  /** It takes no job any more. */
  readonly isLeaving: boolean;
  /** Jobs that it runs at a time, and bytes that each may take. */
  readonly slots: number;
  readonly memory: number;
  /** Base models by their content. */
  readonly bases: readonly string[];
  /** Keys of the jobs that it runs. */
  readonly jobs: readonly string[];
  /** What it has sent and received since its start, and for each of these jobs. */
  readonly traffic: Traffic;
  readonly work: Readonly<Record<string, Traffic>>;
}

/** Milliseconds of a lease where nothing is said of it. */
const LEASE_MS = 15_000;

export const leaseOf = ({ fleetLease }: FleetOptions): number => (fleetLease === undefined ? LEASE_MS : 1000 * fleetLease);

/** A name for a start, which sorts behind those of earlier ones. */
export const newSession = (): string =>
  `${Date.now().toString().padStart(14, "0")}-${crypto.getRandomValues(new Uint32Array(1))[0]!.toString(36)}`;

/** Signs of life in a lease. */
const BEATS = 5;

/** A member's signs of life. */
export interface Presence {
  /** Tells at once what has changed. */
  tell(): void;
  /** Takes leave. */
  leave(): Promise<void>;
}

/**
 * Joins a fleet.
 * @param describe the member as it is now
 * @param onLost is told why this member may not go on: another one has taken its name
 * @throws {UserError} members of another version
 */
export async function join(nodes: KV, describe: () => Member, onLost: (error: UserError) => void): Promise<Presence> {
  const { name, session, lease } = describe();
  const unending = new AbortController().signal;
  // The server may have died since this process reached it.
  await persistently(() => expectSameVersion(nodes, name), unending);
  let revision = (await persistently(() => nodes.get(name), unending))?.revision ?? 0;
  let isOver = false;
  let last = Promise.resolve();
  const beat = async (): Promise<void> => {
    if (isOver) return;
    try {
      const written = await swap(nodes, name, describe(), revision);
      if (written !== null) {
        revision = written.revision;
        return;
      }
      // An answer that was lost, a leader that took this member for dead, or another member of the name.
      const entry = await nodes.get(name);
      const other = entry?.operation === "PUT" ? entry.json<Member>() : null;
      if (other !== null && other.session > session) {
        isOver = true;
        onLost(new UserError(`another node has joined the fleet as ${name}; give one of them another --name`));
        return;
      }
      revision = entry?.revision ?? 0;
      await beat();
    } catch (error) {
      if (!isAway(error) && !isOver) throw error;
    }
  };
  await beat();
  const tell = () => void (last = last.then(beat, beat));
  const timer = setInterval(tell, lease / BEATS);
  return {
    tell,
    async leave() {
      clearInterval(timer);
      await last;
      isOver = true;
      await nodes.purge(name, { previousSeq: revision }).catch(() => {});
    },
  };
}

/** Milliseconds between two looks at whether a member of another version lives. */
const LOOK_MS = 100;

/** @throws {UserError} a living member of another version; one that gives no sign of life is no longer a member */
async function expectSameVersion(nodes: KV, name: string): Promise<void> {
  const { version } = numericsHere();
  const others: { readonly key: string; readonly member: Member; readonly revision: number }[] = [];
  for (const key of await keysOf(nodes)) {
    const held = await readEntry<Member>(nodes, key);
    if (held !== null && key !== name && held.value.numerics.version !== version)
      others.push({ key, member: held.value, revision: held.revision });
  }
  await Promise.all(
    others.map(async ({ key, member, revision }) => {
      const until = performance.now() + member.lease;
      while (performance.now() < until) {
        const now = await readEntry<Member>(nodes, key);
        if (now === null) return;
        if (now.revision !== revision)
          throw new UserError(
            `this is Remat ${version}, and ${member.kind} ${member.name} of the fleet is ${member.numerics.version}: a fleet has one version, so that a job has the same bits wherever it goes on; install the same on both`,
          );
        await Bun.sleep(LOOK_MS);
      }
      await nodes.purge(key, { previousSeq: revision }).catch(() => {});
    }),
  );
}
