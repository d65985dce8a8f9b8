import type { TrainConfig } from "../../train/config.ts";
import type { BaseModel, FileKey, StoredFile } from "../records.ts";

/** A request to a node to have a worker compute gradients for a run. */
export interface Offer {
  /** The run, by a name of its own; its files are in the object store under it. */
  readonly run: string;
  readonly base: BaseModel;
  /** The run's own name among those who have the base model. */
  readonly member: string;
  readonly files: Readonly<Partial<Record<FileKey, StoredFile>>>;
  readonly adapter: readonly StoredFile[] | null;
  /** All other keys of the configuration; they name nothing of a machine. */
  readonly config: TrainConfig;
  readonly given: readonly string[];
  readonly fingerprint: string;
  readonly numerics: string;
  /** Subjects of the way: from the worker, and to it. */
  readonly up: string;
  readonly down: string;
  /** Milliseconds without a word after which the other end counts as dead. */
  readonly silence: number;
}

export interface Answer {
  /** Null: the node takes part; else why it does not. */
  readonly refused: string | null;
}
