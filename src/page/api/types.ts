/** Describes what the server answers, as far as the page reads it: the server's own types for what only Remat has. */
import type { Timeline } from "../../schedule/timeline.ts";

export interface Page<T> {
  readonly data: readonly T[];
  readonly has_more: boolean;
  readonly last_id: string | null;
}

export interface Job {
  readonly id: string;
  readonly created_at: number;
  readonly finished_at: number | null;
  readonly estimated_finish: number | null;
  readonly status: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly model: string;
  readonly fine_tuned_model: string | null;
  readonly result_files: readonly string[];
  readonly trained_tokens: number | null;
  readonly training_file: string;
  readonly hyperparameters: Readonly<Record<string, number | string>>;
  readonly seed: number;
  readonly remat: {
    readonly name: string;
    readonly paused: boolean;
    readonly attempt: number;
    readonly step: number;
    readonly steps: number;
    readonly loss: number | null;
    readonly tokens_per_second: number | null;
    readonly memory: {
      readonly planned: number | null;
      readonly limit: number | null;
      readonly least: number;
      readonly most: number;
    };
    readonly settings: Readonly<Record<string, unknown>>;
    readonly run_folder: "whole" | "model" | "nothing";
  };
}

export interface JobEvent {
  readonly id: string;
  readonly created_at: number;
  readonly level: "info" | "warn" | "error";
  readonly type: "message" | "metrics";
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>> | null;
  readonly fine_tuning_job_id: string;
}

export interface Checkpoint {
  readonly id: string;
  readonly created_at: number;
  readonly step_number: number;
  readonly fine_tuned_model_checkpoint: string;
  readonly metrics: Readonly<Record<string, number | null>>;
}

export interface Model {
  readonly id: string;
  readonly created: number;
  /** The job that made it, or its own name. */
  readonly root: string;
  /** The base model of an adapter. */
  readonly parent: string | null;
}

export interface StoredFile {
  readonly id: string;
  readonly bytes: number;
  readonly created_at: number;
  readonly filename: string;
  readonly purpose: string;
}

/** A piece of an example that is trained on, or is not. */
export interface TextPart {
  readonly text: string;
  readonly trained: boolean;
}

/** Describes what a job's run is, takes and says, as its run folder has it since the last checkpoint. */
export interface RunReport {
  readonly object: "fine_tuning.job.report";
  readonly family: string;
  readonly layers: number;
  readonly parameters: { readonly all: number; readonly trainable: number };
  readonly device: string;
  readonly strategy: string;
  /** The schedule, in a sentence. */
  readonly schedule: string;
  /** The planned memory of a step in bytes: what stays, by part, and what lives over the step's time. */
  readonly memory: {
    readonly resident: Readonly<Record<string, number>>;
    readonly stash: number;
    readonly workspace: number;
    readonly temporary: number;
    readonly peak: number;
    readonly without_checkpointing: number;
    /** The measured peak of what is planned, and that of the whole process. */
    readonly measured: number;
    readonly process: number;
    readonly timeline: Timeline;
  };
  /** The first training example, cut where the masking changes. */
  readonly first_example: readonly TextPart[];
  /** Answers to a held-out prompt. */
  readonly sample: { readonly prompt: string; readonly before: string | null; readonly after: string | null } | null;
  readonly notes: readonly string[];
  readonly warnings: readonly string[];
}

/** Describes who holds how much of the box's memory, in bytes. */
export interface BoxMemory {
  readonly object: "memory";
  /** The limit of answering and jobs together, and what of it nobody holds. */
  readonly limit: number;
  readonly free: number;
  readonly serving: {
    /** Held for answers: by models that are loaded or being loaded, with their caches. */
    readonly held: number;
    /** The memory of the server's process at the moment. */
    readonly now: number;
    readonly models: readonly {
      readonly id: string;
      readonly loaded: boolean;
      readonly bytes: number;
      readonly adapters: number;
    }[];
  };
  readonly jobs: readonly {
    readonly id: string;
    /** The budget of the job at the moment. */
    readonly held: number;
    /** The memory of the job's process at the moment; null: the system does not say. */
    readonly now: number | null;
  }[];
}

/** Examples of a file as the model sees them. */
export interface DataPreview {
  readonly object: "fine_tuning.preview";
  readonly sequence_length: number;
  /** The file's own columns, each with the beginning of a value, and the names that a column may have. */
  readonly columns: readonly { readonly name: string; readonly value: string }[];
  readonly names: readonly string[];
  readonly rows: readonly {
    /** The line, item or row, and the same with the file's name. */
    readonly number: number;
    readonly where: string;
    readonly samples: readonly {
      readonly tokens: number;
      readonly trained: number;
      readonly parts: readonly TextPart[];
      readonly cut: boolean;
    }[];
    readonly error: string | null;
  }[];
  /** Everything that training on the whole file would stumble over; null: it was not asked for. */
  readonly report: {
    readonly examples: number;
    readonly tokens: {
      readonly samples: number;
      readonly total: number;
      readonly trained: number;
      readonly longest: number;
      readonly median: number;
    } | null;
    /** Examples by columns that are not used. */
    readonly unused: Readonly<Record<string, number>>;
    readonly notices: readonly string[];
    readonly errors: DataProblems;
    readonly duplicates: DataProblems;
    readonly over_long: DataProblems;
  } | null;
}

export interface DataProblems {
  readonly count: number;
  readonly first: readonly { readonly where: string; readonly message: string }[];
}

/** Says what a job would take. */
export interface DryRun {
  readonly examples: number;
  readonly tokens: number;
  readonly trained_tokens: number;
  readonly held_out: number;
  readonly steps: number;
  readonly seconds_per_step: number;
  readonly minutes: number;
  readonly timed: boolean;
  readonly memory: {
    readonly least: number;
    readonly most: number;
    readonly curve: readonly { readonly memory: number; readonly overhead: number }[];
  };
  readonly notes: readonly string[];
}

/** A model that was written to be taken away. */
export interface Export {
  readonly id: string;
  readonly object: "export";
  readonly model: string;
  readonly format: "peft" | "merged" | "gguf";
  readonly filename: string;
  readonly bytes: number;
  /** The address of the bytes, from the page's own on; it needs no key. */
  readonly url: string;
  readonly expires_at: number;
}

/** Kinds of what goes over the network for jobs and runs. */
export const TRAFFIC_KINDS = ["bases", "data", "checkpoints", "results", "gradients"] as const;

export type TrafficKind = (typeof TRAFFIC_KINDS)[number];

/** Bytes that nodes have sent and received; a kind of which there are none is left out. */
export type Traffic = Readonly<Partial<Record<TrafficKind, { readonly sent: number; readonly received: number }>>>;

/** Bytes that nodes have sent and received for a job, with all attempts; `fleet`: false where the server trains by itself. */
export interface JobTraffic {
  readonly object: "fine_tuning.traffic";
  readonly fleet: boolean;
  readonly traffic: Traffic;
}

/** A machine of a fleet. */
export interface FleetNode {
  readonly id: string;
  readonly object: "node";
  readonly version: string;
  readonly processor: string;
  /** Jobs at a time, and bytes that each may take. */
  readonly slots: number;
  readonly memory: number;
  readonly leaving: boolean;
  /** Base models of this server that it has, by name. */
  readonly models: readonly string[];
  /** Ids of jobs of this server that it runs, and the number of all that it runs. */
  readonly jobs: readonly string[];
  readonly running: number;
  /** Since its start. */
  readonly traffic: Traffic;
  /** For what it works on now. */
  readonly work: readonly {
    /** A job of this server, or null: one of another server, or a run that is divided among nodes. */
    readonly job: string | null;
    readonly name: string;
    readonly traffic: Traffic;
  }[];
}

/** The machines that jobs train on; `fleet`: false where the server trains by itself. */
export interface Nodes extends Page<FleetNode> {
  readonly fleet: boolean;
}

/** One adapter that machines train with data of their own. */
export interface Federation {
  readonly id: string;
  readonly object: "federation";
  readonly name: string;
  readonly model: string;
  /** `away`: nobody leads it at present. */
  readonly status: "running" | "away" | "succeeded";
  readonly created_at: number;
  readonly rounds: number;
  /** Rounds that are over. */
  readonly closed: number;
  readonly local_steps: number;
  /** Values that are learned. */
  readonly parameters: number;
  /** Updates that close a round. */
  readonly wanted: number;
  /** Nodes that have ever joined, and those whose update of the open round is in. */
  readonly nodes: readonly string[];
  readonly updates: readonly string[];
  /** On the nodes' held-out examples: of the last model, or of the one that the last round began with. */
  readonly valid_loss: number | null;
}

/** A round that is over. */
export interface FederationRound {
  readonly round: number;
  /** The model that the round began with, over the held-out examples of all nodes. */
  readonly valid_loss: number | null;
  /** Share of the mean product that did not fit into the rank. */
  readonly lost: number | null;
  readonly seconds: number;
  /** Bytes of the updates, and of the common model's changes for all of their nodes. */
  readonly bytes_received: number;
  readonly bytes_sent: number;
  readonly nodes: readonly FederationRoundNode[];
}

/** A node in a round. */
export interface FederationRoundNode {
  readonly id: string;
  readonly examples: number;
  /** How much its update counted, of 1. */
  readonly share: number;
  readonly tokens: number | null;
  readonly train_loss: number | null;
  readonly valid_loss: number | null;
  readonly epsilon: number | null;
  /** Bytes of its update. */
  readonly bytes: number;
  readonly seconds: number;
}

/** A federation with rounds that are over. */
export interface FederationDetail extends Federation {
  readonly data: readonly FederationRound[];
}
