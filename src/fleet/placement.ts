import { formatBytes } from "../base/bytes.ts";
import type { Member } from "./members.ts";
import { keyOf, type JobRecord } from "./records.ts";

/**
 * The nodes that may take a job now, the best first: that have its base model, then with the fewest jobs, by name.
 * @param load jobs that a node runs or is being offered
 */
export function candidates(job: JobRecord, members: Iterable<Member>, load: (node: string) => number): Member[] {
  const isOn = (node: Member) => Number(!node.bases.includes(job.base.id));
  return [...members]
    .filter((node) => obstacle(job, node) === null && load(node.name) < node.slots)
    .sort((a, b) => isOn(a) - isOn(b) || load(a.name) - load(b.name) || (a.name < b.name ? -1 : 1));
}

/** Says why a node can never take a job; null: it can when it has a slot. */
export function obstacle(job: JobRecord, node: Member): string | null {
  if (node.kind !== "node") return "it is a front";
  if (node.isLeaving) return "it is leaving";
  if (node.memory < job.least)
    return `it has ${formatBytes(node.memory)} of memory for a job, and this one needs ${formatBytes(job.least)}`;
  if (job.processor !== null && node.numerics.processor !== job.processor)
    return `its processor is ${node.numerics.processor}, and the job was begun on ${job.processor}, whose bits are others`;
  if (!job.isBaseStored && !node.bases.includes(job.base.id)) return `it has not ${job.base.name}, nor has the fleet's store`;
  return null;
}

/** Says why no node takes a job, node by node; null: one does as soon as it has a slot. */
export function whyNowhere(job: JobRecord, members: readonly Member[]): string | null {
  const nodes = members.filter(({ kind }) => kind === "node");
  if (nodes.length === 0) return "there is no node in the fleet; start one with: remat node --fleet ...";
  const why = nodes.map((node) => ({ node, why: obstacle(job, node) }));
  if (why.some(({ why: each }) => each === null)) return null;
  return `no node can take the job: ${why.map(({ node, why: each }) => `${node.name}: ${each}`).join("; ")}`;
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
