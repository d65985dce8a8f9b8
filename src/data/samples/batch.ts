import { createRandom, indices, shuffle } from "../../base/random.ts";
import { IGNORED, type Sample, type TeacherTokens } from "./sample.ts";
import { createIntList, type SampleSet } from "./sample-store.ts";

/** A micro-batch laid flat: `tokens` = rows x row length, one vector entry per token. */
export interface MicroBatch {
  readonly tokens: number;
  readonly ids: Int32Array;
  /** Already shifted: the next token of the same example where it is to be learned, else -100. */
  readonly labels: Int32Array;
  /** First token of the example that the token belongs to: it attends to `starts[t]..t`. Padding attends to itself. */
  readonly starts: Int32Array;
  /** Position within the example, for rotary tables. */
  readonly positions: Int32Array;
  /** How much each label counts; null: all the same. */
  readonly weights: Float32Array | null;
  /** Number of labels that are not -100. */
  readonly labelled: number;
  /** The sum of their weights. */
  readonly weight: number;
  /** Tokens of examples; the others are padding. */
  readonly used: number;
  /** Number of examples. */
  readonly examples: number;
  /** Where the texts of each example lie: one, or several that stay together. */
  readonly spans: readonly (readonly Span[])[];
  /** The number of each example in its set, in the order of `spans`. */
  readonly members: readonly number[];
  /** Which of two texts of an example a token belongs to, 0 or 1, where an encoder is told; absent: nothing is told. */
  readonly types?: Int32Array;
  /** The targets of the examples, or of their texts, one behind the other; absent: they have none. */
  readonly targets?: Float32Array;
  /** The likeliest tokens of a teacher in the place of each token's label, -100 without one; absent: there is no teacher, or it is not yet asked. */
  readonly teacher?: TeacherTokens;
  /** The texts of the same examples that nothing is learned from, in the same rows; absent: there are none. */
  readonly mismatched?: MicroBatch;
  /** The log-probability of each text for a reference model, example by example; absent: nobody asks for them. */
  readonly references?: Float64Array;
}

/** The vectors of a micro-batch that a model reads. Absent weights: all labels count the same; absent types: all tokens are of the first text. */
export type TokenBatch = Pick<MicroBatch, "ids" | "labels" | "starts" | "positions"> &
  Partial<Pick<MicroBatch, "weights" | "types">> & {
    /** The token of each text that a head for texts reads; absent: there is no such head. */
    readonly rows?: Int32Array;
    /** The texts whose tokens' mean it reads instead. */
    readonly means?: readonly Span[];
  };

/** A text within a micro-batch: tokens `from` to `to - 1`. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

export interface BatchOptions {
  /** Rows of a micro-batch. */
  readonly rows: number;
  /** Tokens in a row, at most; no sample is longer. */
  readonly rowLength: number;
  /** Several examples in a row, or one example a row with padding behind it. */
  readonly packing: boolean;
  readonly seed: number;
  /** A new order every epoch, or (evaluation) the order of the data. */
  readonly shuffle: boolean;
  /** The id of padding tokens; nothing depends on its value. */
  readonly padId: number;
}

/**
 * The micro-batches of every epoch. All is a function of the samples' lengths, the options and the epoch, so that a run
 * can continue at any (epoch, index), and epochs need no memory of each other.
 */
export interface Batches {
  /** The sizes that `MicroBatch.tokens` takes, ascending: a program is prepared for each. */
  readonly sizes: readonly number[];
  /** Examples in a micro-batch, at most. */
  readonly most: number;
  count(epoch: number): number;
  batch(epoch: number, index: number): MicroBatch;
  /** Epoch and index of the `ordinal`-th micro-batch from the start of training. */
  locate(ordinal: number): { readonly epoch: number; readonly index: number };
}

/** One micro-batch as sample numbers: rows of samples, and the length of the rows. */
interface Plan {
  readonly rows: readonly (readonly number[])[];
  readonly rowLength: number;
}

/** The micro-batches of an epoch, kept as arrays of numbers: data sets of millions of samples are planned as a whole. */
interface EpochPlan {
  readonly count: number;
  plan(index: number): Plan;
}

export function createBatches(samples: SampleSet, options: BatchOptions): Batches {
  const { rows, rowLength } = options;
  const buckets = options.packing ? [rowLength] : bucketLengths(samples.lengths, rowLength);
  let cached: { epoch: number; plan: EpochPlan } | null = null;
  const planOf = (epoch: number): EpochPlan => {
    if (cached?.epoch !== epoch) {
      // Two plans at a time would be twice the memory.
      cached = null;
      cached = { epoch, plan: planEpoch(samples, buckets, options, epoch) };
    }
    return cached.plan;
  };
  // Every call of `locate` counts from the first epoch, which must not be planned anew each time.
  const counts: number[] = [];
  const countOf = (epoch: number): number => (counts[epoch] ??= planOf(epoch).count);
  return {
    sizes: buckets.map((length) => length * rows),
    most: rows * (options.packing ? Math.floor(rowLength / leastOf(samples.lengths)) : 1),
    count: countOf,
    batch(epoch, index) {
      const epochPlan = planOf(epoch);
      if (!(index >= 0 && index < epochPlan.count)) throw new RangeError(`epoch ${epoch} has no micro-batch ${index}`);
      const plan = epochPlan.plan(index);
      const batch = fill(plan, rows, options.padId, samples);
      const { mismatched: sample } = samples;
      return sample ? { ...batch, mismatched: fill(plan, rows, options.padId, { ...samples, sample }) } : batch;
    },
    locate(ordinal) {
      let index = ordinal;
      let epoch = 0;
      for (; index >= countOf(epoch); epoch++) index -= countOf(epoch);
      return { epoch, index };
    },
  };
}

function leastOf(lengths: Int32Array): number {
  return Math.max(
    1,
    lengths.reduce((least, length) => Math.min(least, length), lengths[0] ?? 1),
  );
}

/** Samples among which rows are put together: enough to fill rows well, few enough to stay near the shuffled order. */
const WINDOW = 1024;

function planEpoch(samples: SampleSet, buckets: readonly number[], options: BatchOptions, epoch: number): EpochPlan {
  const { rows, rowLength, seed } = options;
  const { lengths } = samples;
  const order = samples.draw?.(epoch, seed) ?? indices(samples.count);
  const random = createRandom(seed, `epoch ${epoch}`);
  if (options.shuffle) shuffle(order, random);
  if (options.packing) {
    // Each window's samples take their places in `order` again, row after row.
    const starts = createIntList();
    let at = 0;
    for (const window of windows(order, WINDOW)) {
      for (const row of packRows(Array.from(window), lengths, rowLength)) {
        starts.push(at);
        order.set(row, at);
        at += row.length;
      }
    }
    starts.push(at);
    const rowStarts = starts.finish();
    const rowOrder = indices(rowStarts.length - 1);
    if (options.shuffle) shuffle(rowOrder, random);
    return {
      count: Math.ceil(rowOrder.length / rows),
      plan: (index) => ({
        rowLength,
        rows: Array.from(rowOrder.subarray(index * rows, (index + 1) * rows), (row) =>
          Array.from(order.subarray(rowStarts[row], rowStarts[row + 1])),
        ),
      }),
    };
  }
  // Samples of like length share a micro-batch, so that little of it is padding.
  for (const window of windows(order, WINDOW * rows)) window.sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const groups = indices(Math.ceil(order.length / rows));
  if (options.shuffle) shuffle(groups, random);
  return {
    count: groups.length,
    plan(index) {
      const group = order.subarray(groups[index]! * rows, (groups[index]! + 1) * rows);
      const longest = lengths[group[0]!]!;
      return {
        rows: Array.from(group, (sample) => [sample]),
        rowLength: buckets.find((length) => length >= longest)!,
      };
    },
  };
}

/** Parts of `size` numbers, the last one maybe shorter, that view the same memory. */
function* windows(items: Int32Array, size: number): Iterable<Int32Array> {
  for (let at = 0; at < items.length; at += size) yield items.subarray(at, at + size);
}

/**
 * First-fit decreasing (Johnson 1973): longest sample first, each into the first row with room; needs at most 11/9 of
 * the fewest rows possible, plus one. Equal lengths keep the order of `samples`.
 */
export function packRows(samples: readonly number[], lengths: ArrayLike<number>, rowLength: number): number[][] {
  const rows: number[][] = [];
  const room: number[] = [];
  const byLength = samples.toSorted((a, b) => lengths[b]! - lengths[a]!);
  for (const sample of byLength) {
    const length = lengths[sample]!;
    if (length > rowLength) throw new RangeError(`sample ${sample} has ${length} tokens, a row ${rowLength}`);
    let row = room.findIndex((free) => free >= length);
    if (row < 0) {
      row = rows.length;
      rows.push([]);
      room.push(rowLength);
    }
    rows[row]!.push(sample);
    room[row]! -= length;
  }
  return rows;
}

/** Row lengths of padded micro-batches: few, so that few programs are prepared, and near the samples' own lengths. */
export function bucketLengths(lengths: Int32Array, rowLength: number): number[] {
  const sorted = lengths.toSorted();
  const quantile = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? rowLength;
  const rounded = [0.5, 0.8, 0.95, 1].map((share) => Math.min(rowLength, Math.ceil(quantile(share) / 8) * 8));
  return [...new Set(rounded)];
}

function fill(plan: Plan, rows: number, padId: number, samples: SampleSet): MicroBatch {
  const { rowLength } = plan;
  const tokens = rows * rowLength;
  const ids = new Int32Array(tokens).fill(padId);
  const labels = new Int32Array(tokens).fill(IGNORED);
  const starts = Int32Array.from({ length: tokens }, (_, t) => t);
  const positions = new Int32Array(tokens);
  const weights = samples.weighted ? new Float32Array(tokens).fill(1) : null;
  let labelled = 0;
  let weight = 0;
  let used = 0;
  const spans: Span[][] = [];
  const targets: number[] = [];
  let types: Int32Array | null = null;
  let teacher: TeacherTokens | null = null;
  for (const [row, members] of plan.rows.entries()) {
    let start = row * rowLength;
    for (const member of members) {
      const sample = samples.sample(member);
      const length = sample.ids.length;
      ids.set(sample.ids, start);
      const texts: Span[] = [];
      let from = 0;
      for (const part of sample.parts ?? [length]) {
        const [first, to] = [start + from, from + part];
        labels.set(sample.labels.subarray(from + 1, to), first);
        starts.fill(first, first, start + to);
        for (let i = from; i < to; i++) {
          positions[start + i] = i - from;
          if (i === from || sample.labels[i] === IGNORED) continue;
          labelled++;
          const own = sample.weights?.[i] ?? 1;
          if (weights) weights[start + i - 1] = own;
          weight += own;
        }
        const second = sample.seconds?.[texts.length];
        if (second !== undefined) (types ??= new Int32Array(tokens)).fill(1, first + second, start + to);
        texts.push({ from: first, to: start + to });
        from = to;
      }
      spans.push(texts);
      if (sample.teacher) tell((teacher ??= untold(tokens, sample.teacher.top)), sample, start);
      if (sample.target) targets.push(...sample.target);
      start += length;
      used += length;
    }
  }
  const members = plan.rows.flat();
  const batch = {
    tokens,
    ids,
    labels,
    starts,
    positions,
    weights,
    labelled,
    weight,
    used,
    examples: spans.length,
    spans,
    members,
  };
  return {
    ...batch,
    ...(targets.length > 0 && { targets: Float32Array.from(targets) }),
    ...(types && { types }),
    ...(teacher && { teacher }),
  };
}

/** Room for what a teacher says of a micro-batch. */
export function untold(tokens: number, top: number): TeacherTokens {
  return { top, ids: new Int32Array(tokens * top).fill(IGNORED), logProbabilities: new Float32Array(tokens * top) };
}

/** Puts what a teacher says of a sample's labelled tokens where these are to be predicted. */
function tell({ top, ids, logProbabilities }: TeacherTokens, { labels, teacher }: Sample, start: number): void {
  let from = 0;
  for (let t = 1; t < labels.length; t++) {
    if (labels[t] === IGNORED) continue;
    ids.set(teacher!.ids.subarray(from, from + top), (start + t - 1) * top);
    logProbabilities.set(teacher!.logProbabilities.subarray(from, from + top), (start + t - 1) * top);
    from += top;
  }
}
