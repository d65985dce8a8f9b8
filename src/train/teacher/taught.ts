import { type Batches, type MicroBatch, untold } from "../../data/samples/batch.ts";
import { IGNORED } from "../../data/samples/sample.ts";
import type { SampleSet } from "../../data/samples/sample-store.ts";
import type { TopTokens } from "../../generate/teacher.ts";

/** The likeliest tokens of a teacher in the place of each labelled token of all samples of a set: the same number for each. */
export interface Taught extends TopTokens {
  readonly top: number;
  /** By sample, how many labelled tokens are in front of its own. */
  readonly starts: Float64Array;
}

/** Makes room for it. */
export function createTaught(samples: SampleSet, top: number): Taught {
  const starts = new Float64Array(samples.count + 1);
  for (let i = 0; i < samples.count; i++) {
    const { labels } = samples.sample(i);
    let own = 0;
    for (let t = 1; t < labels.length; t++) if (labels[t] !== IGNORED) own++;
    starts[i + 1] = starts[i]! + own;
  }
  const room = starts[samples.count]! * top;
  return { top, starts, ids: new Int32Array(room), logProbabilities: new Float32Array(room) };
}

/** The places of the labelled tokens of each example of a micro-batch. */
function* labelledPlaces({ spans, labels }: MicroBatch): Generator<number[]> {
  for (const texts of spans) {
    const places: number[] = [];
    for (const { from, to } of texts) for (let t = from; t < to; t++) if (labels[t] !== IGNORED) places.push(t);
    yield places;
  }
}

/** Takes what a teacher says of a micro-batch, of whose labelled tokens it has spoken in order. */
export function addTaught({ top, starts, ids, logProbabilities }: Taught, batch: MicroBatch, found: TopTokens): void {
  const order = [...labelledPlaces(batch)].map((places, i) => ({ places, member: batch.members[i]! }));
  // Examples lie in a row in the order of their spans.
  let from = 0;
  for (const { places, member } of order.toSorted((a, b) => (a.places[0] ?? 0) - (b.places[0] ?? 0))) {
    const to = from + places.length * top;
    ids.set(found.ids.subarray(from, to), starts[member]! * top);
    logProbabilities.set(found.logProbabilities.subarray(from, to), starts[member]! * top);
    from = to;
  }
}

/** A micro-batch with what the teacher says of it. */
export function withTaught(batch: MicroBatch, { top, starts, ids, logProbabilities }: Taught): MicroBatch {
  const teacher = untold(batch.tokens, top);
  let example = 0;
  for (const places of labelledPlaces(batch)) {
    let at = starts[batch.members[example++]!]! * top;
    for (const t of places) {
      teacher.ids.set(ids.subarray(at, at + top), t * top);
      teacher.logProbabilities.set(logProbabilities.subarray(at, at + top), t * top);
      at += top;
    }
  }
  return { ...batch, teacher };
}

/** Batches whose micro-batches have what the teacher says of them. */
export function taughtBatches(batches: Batches, taught: Taught): Batches {
  return { ...batches, batch: (epoch, index) => withTaught(batches.batch(epoch, index), taught) };
}
