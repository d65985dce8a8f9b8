import type { Encoding } from "../../base/codes.ts";
import type { Sums } from "../../objectives/objective.ts";
import type { TrainConfig } from "../config.ts";

/**
 * Messages between the coordinator of a run, the process that it belongs to, and its workers. Workers know nothing between two steps but the frozen
 * weights and the data: they are told the trained parameters of each step, so that one may join or leave at any time, and none has an
 * optimizer. Parameters travel as f32, one tensor behind the other in the order of their names; gradients likewise, or in codes, of
 * which each process keeps what they leave out (rests.ts).
 */
export type ToWorker =
  /** The first message: what is trained, and what decides its numbers. */
  | {
      readonly type: "prepare";
      readonly config: TrainConfig;
      readonly given: readonly string[];
      /** The run's fingerprint, and the coordinator's numerics (numerics.ts): a worker with others refuses. */
      readonly fingerprint: string;
      readonly numerics: string;
    }
  /** The trained parameters of a step: of the one under way, or of one before it that an order names. */
  | { readonly type: "parameters"; readonly step: number; readonly values: Uint8Array<ArrayBuffer> }
  | ({ readonly type: "learn" } & Order)
  /** Orders of a step that are not begun yet are void, or one of them; each is answered with `dropped` or, where it was too late, with `learned`. */
  | { readonly type: "drop"; readonly step: number; readonly index: number | null };

/** One micro-batch to compute the gradients of. */
export interface Order {
  readonly step: number;
  /** The place of the micro-batch in the step, from 0. */
  readonly index: number;
  /** The place of the micro-batch in the run, which says what is in it and keys dropout. */
  readonly draw: number;
  /** The sum of the shares of all micro-batches of the step. */
  readonly total: number;
  /** The factor of the gradients, 1 but in f16. */
  readonly factor: number;
  /** The same index in earlier steps of the period, to be computed again for what their codes left out; empty: the worker has that. */
  readonly earlier: readonly EarlierOrder[];
}

/** A micro-batch of a step, whichever that is. */
export type EarlierOrder = Omit<Order, "earlier">;

/** A micro-batch's part of a step's loss, and what the step's metrics are made of. */
export interface Part {
  readonly loss: number;
  readonly sums: Sums | null;
}

export type FromWorker =
  /** The model is loaded. */
  | { readonly type: "ready" }
  | {
      readonly type: "learned";
      readonly step: number;
      readonly index: number;
      readonly part: Part;
      /** The time that it took. */
      readonly seconds: number;
      /** Gradients. */
      readonly encoding: Encoding;
      readonly values: Uint8Array<ArrayBuffer>;
    }
  | { readonly type: "dropped"; readonly step: number; readonly index: number }
  /** The last message of a worker that cannot go on. */
  | { readonly type: "failed"; readonly message: string };

/** One end of a way between two processes, on which messages arrive whole and in order, or the way is closed. */
export interface Link<Out, In> {
  /** Never throws: what is sent on a closed way is lost, as what was under way is. */
  send(message: Out): void;
  /** To be called once, before anything can arrive. `closed` is called at most once, with what happened. */
  listen(handlers: { message(message: In): void; closed(why: string): void }): void;
  close(): void;
}

export type WorkerLink = Link<ToWorker, FromWorker>;
export type CoordinatorLink = Link<FromWorker, ToWorker>;

/** Brings a run as many workers as it can, up to `count`, now or later. */
export type WorkerSource = (options: {
  readonly count: number;
  readonly prepare: Extract<ToWorker, { type: "prepare" }>;
  /** The base model's folder on this machine. */
  readonly folder: string;
  add(name: string, link: WorkerLink): void;
  note(text: string): void;
}) => { close(): Promise<void> };
