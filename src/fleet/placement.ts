import { formatBytes } from "../base/bytes.ts";
import type { Member } from "./members.ts";
import { keyOf, type JobRecord } from "./records.ts";

/** A job, and the node that is to take it. */
export interface Placed {
  readonly job: JobRecord;
  readonly node: Member;
}

/**
 * Places jobs that wait, first come, first served: each on a node that has its base model, then on the one with the fewest jobs, by name. One that no node can
 * take now keeps no other one waiting.
 * @param load jobs that each node runs or is being offered; what is placed is added
 * @param held base models that somebody in the fleet has
 */
export function assign(
  jobs: Iterable<JobRecord>,
  members: Iterable<Member>,
  load: Map<string, number>,
  held: ReadonlySet<string>,
): Placed[] {
  const loadOf = ({ name }: Member) => load.get(name) ?? 0;
  const free = new Set([...members].filter((node) => node.kind === "node" && loadOf(node) < node.slots));
  const placed: Placed[] = [];
  for (const job of jobs) {
    // Thousands of jobs may wait for a few nodes.
    if (free.size === 0) break;
    let node: Member | null = null;
    for (const each of free)
      if (obstacle(job, each, held) === null && (node === null || isBetter(each, node, job, loadOf))) node = each;
    if (node === null) continue;
    placed.push({ job, node });
    load.set(node.name, loadOf(node) + 1);
    if (loadOf(node) >= node.slots) free.delete(node);
  }
  return placed;
}

/** Tells whether a job is better placed on the first of two nodes. */
function isBetter(a: Member, b: Member, { base }: JobRecord, loadOf: (node: Member) => number): boolean {
  const fetches = ({ bases }: Member) => Number(!bases.includes(base.id));
  return (fetches(a) - fetches(b) || loadOf(a) - loadOf(b) || (a.name < b.name ? -1 : 1)) < 0;
}

/** The base models that members have: a node without one fetches it from who has it. */
export const heldBases = (members: Iterable<Member>): Set<string> => new Set([...members].flatMap(({ bases }) => bases));

/** Says why a node can never take a job; null: it can when it has a slot. */
export function obstacle(job: JobRecord, node: Member, held: ReadonlySet<string>): string | null {
  if (node.kind !== "node") return "it is a front";
  if (node.isLeaving) return "it is leaving";
  if (node.memory < job.least)
    return `it has ${formatBytes(node.memory)} of memory for a job, and this one needs ${formatBytes(job.least)}`;
  if (job.processor !== null && node.numerics.processor !== job.processor)
    return `its processor is ${node.numerics.processor}, and the job was begun on ${job.processor}, whose bits are others`;
  if (!held.has(job.base.id)) return `neither it nor anybody else in the fleet has ${job.base.name}`;
  return null;
}

/** Says why no node takes a job, node by node; null: one does as soon as it has a slot. */
export function whyNowhere(job: JobRecord, members: readonly Member[]): string | null {
  const nodes = members.filter(({ kind }) => kind === "node");
  if (nodes.length === 0) return "there is no node in the fleet; start one with: remat node --fleet ...";
  const held = heldBases(members);
  if (nodes.some((node) => obstacle(job, node, held) === null)) return null;
  return `no node can take the job: ${nodes.map((node) => `${node.name}: ${obstacle(job, node, held)}`).join("; ")}`;
}

/** Tells whether a running job's node is gone, or has started anew and forgotten it. */
export function isOrphan(job: JobRecord, members: ReadonlyMap<string, Member>): boolean {
  if (job.state !== "running") return false;
  const node = members.get(job.node ?? "");
  return node === undefined || (job.session ?? "") < node.session;
}

/** The number of jobs that each node runs, by what is written about them. */
export function loads(jobs: Iterable<JobRecord>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { state, node } of jobs) if (state === "running" && node !== null) counts.set(node, (counts.get(node) ?? 0) + 1);
  return counts;
}

/** The jobs that wait for a node, first come, first served. */
export function waiting(jobs: Iterable<JobRecord>): JobRecord[] {
  return [...jobs]
    .filter(({ state, isUnwanted }) => state === "queued" && !isUnwanted)
    .sort((a, b) => a.created - b.created || (keyOf(a) < keyOf(b) ? -1 : 1));
}
