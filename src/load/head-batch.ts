import type { MicroBatch, TokenBatch } from "../data/samples/batch.ts";
import type { Head } from "../objectives/objective.ts";

/** A micro-batch with the labels that a head is to see; weights of its own it has none. */
export function headBatch(head: Head, batch: MicroBatch): TokenBatch {
  return head.kind === "loss" ? batch : { ...batch, labels: head.labels(batch), weights: null };
}
