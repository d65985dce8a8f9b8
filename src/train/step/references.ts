import type { Batches, MicroBatch } from "../../data/samples/batch.ts";
import { logProbability } from "../../objectives/preferences/preference.ts";

/** Gives the loss of each token of a micro-batch, 0 without a label. */
export type TokenLosses = (batch: MicroBatch) => { readonly labels: Int32Array; readonly losses: Float32Array };

/**
 * The log-probabilities of the texts of a set for the reference model, `texts` of each example, a mismatched one last: f64, NaN where none is known. Objectives that hold a
 * model against what it was (DPO) have them computed once, before anything is trained.
 */
export interface References {
  readonly texts: number;
  readonly values: Float64Array;
}

export function createReferences(examples: number, texts: number): References {
  return { texts, values: new Float64Array(examples * texts).fill(NaN) };
}

/** Computes those of a micro-batch that are not known, with the model as it is. Returns of how many examples. */
export function addReferences(references: References, batch: MicroBatch, score: TokenLosses): number {
  const { texts, values } = references;
  const unknown = [...batch.members.entries()].filter(([, member]) => Number.isNaN(values[member * texts]!));
  if (unknown.length === 0) return 0;
  let first = 0;
  for (const part of batch.mismatched ? [batch, batch.mismatched] : [batch]) {
    const { labels, losses } = score(part);
    for (const [i, member] of unknown)
      for (const [text, span] of part.spans[i]!.entries())
        values[member * texts + first + text] = logProbability(span, labels, losses).value;
    first += part.spans[0]!.length;
  }
  return unknown.length;
}

/** A micro-batch with what the reference says of it. */
export function withReference(batch: MicroBatch, { texts, values }: References): MicroBatch {
  const { members, mismatched } = batch;
  const between = (from: number, to: number) =>
    Float64Array.from(members.flatMap((member) => [...values.subarray(member * texts + from, member * texts + to)]));
  if (!mismatched) return { ...batch, references: between(0, texts) };
  const own = texts - 1;
  return { ...batch, references: between(0, own), mismatched: { ...mismatched, references: between(own, texts) } };
}

/** Batches whose micro-batches have what the reference says of them. */
export function withReferences(batches: Batches, references: References): Batches {
  return { ...batches, batch: (epoch, index) => withReference(batches.batch(epoch, index), references) };
}
