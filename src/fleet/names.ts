/**
 * Everything of a fleet that lies in NATS, by name: one place, so that two parts never take the same name for two things.
 */

/** Key-value buckets. */
export const BUCKETS = {
  /** The boxes that are there, by their names; whoever leads removes one that gives no sign of life. */
  nodes: "remat_nodes",
  /** Jobs, as `FRONT.JOB`; each write is a compare-and-set. */
  jobs: "remat_jobs",
  /** The lease of the process that places jobs at present. */
  leader: "remat_leader",
  /** Federations and the numbers of their rounds, for those who watch. */
  federations: "remat_federations",
} as const;

/** Object stores. */
export const STORES = {
  /** Training data, by the SHA-256 of its bytes. */
  files: "remat_files",
  /** Checkpoints and results of jobs. */
  runs: "remat_runs",
} as const;

/** Streams of messages that are kept. */
export const STREAMS = {
  /** Events of jobs, as nodes tell them. */
  events: { name: "remat_events", subjects: ["remat.events.>"] },
} as const;

export const SUBJECTS = {
  /** Events of a job. */
  events: (front: string, job: string) => `remat.events.${front}.${job}`,
  /** Events of all jobs of a front. */
  eventsOf: (front: string) => `remat.events.${front}.>`,
  /** Offers of jobs to a node, which answers each. */
  offers: (node: string) => `remat.node.${node}.offers`,
  /** Requests of nodes to the coordinator of a federation. */
  federated: (federation: string) => `remat.federated.${federation}`,
  /** Requests for pieces of base models to a member that has them. */
  bases: (member: string) => `remat.bases.${member}`,
  /** Requests of a run on several nodes to one of them. */
  parallel: (node: string) => `remat.parallel.${node}`,
} as const;

/** Tells whether a text can be a part of a subject and of a key. */
export const isName = (text: string): boolean => /^[A-Za-z0-9_-]{1,64}$/.test(text);

/** The first argument of the process that reaches a fleet for a run whose micro-batches are learned by several nodes. */
export const RELAY = "gradient-relay";
