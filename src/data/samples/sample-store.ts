import type { NoticeCount } from "../chat/notices.ts";
import { IGNORED, type Sample, type TeacherTokens } from "./sample.ts";
import { addWeightRuns, createWeightReader } from "./weight-runs.ts";

/** Tokenized examples in the order of the data. */
export interface SampleSet {
  readonly count: number;
  /** Tokens of each sample, or that each has room for. */
  readonly lengths: Int32Array;
  readonly tokens: number;
  /** Tokens that a model learns to predict: labelled ones that are not first in their sample. */
  readonly labelled: number;
  /** Some labels count more than others. */
  readonly weighted: boolean;
  sample(index: number): Sample;
  /** The text beside each sample that nothing is learned from (see `withMismatched`); absent: there are none. */
  mismatched?(index: number): Sample;
  /** The samples that an epoch goes through, some perhaps repeatedly; without it, each once. */
  draw?(epoch: number, seed: number): Int32Array;
}

/** The samples of one file. */
export interface FileSamples extends SampleSet {
  /** Line (or item) of the file that each comes from; those of one example follow each other. */
  readonly numbers: Int32Array;
  /** Examples of the file by columns that are not used. */
  readonly unused: UnusedColumns;
  /** Things that messages of the file have and that are no error; places are within the file. */
  readonly notices: readonly NoticeCount[];
}

/** Numbers of examples by the name of a column. */
export type UnusedColumns = Readonly<Record<string, number>>;

/** Takes samples, one after the other, and makes a set of them. */
export interface SampleSink {
  /** @param number line or item of the file that the sample comes from */
  add(sample: StoredSample, number: number): void;
  finish(unused?: UnusedColumns, notices?: readonly NoticeCount[]): FileSamples;
  /** Instead of `finish`: nothing is left. */
  discard(): void;
}

/** Everything of a sample set but its tokens: eight bytes a sample, and its weights. */
export interface SampleIndex {
  readonly lengths: Int32Array;
  /** Line (or item) of the file that each sample comes from. */
  readonly numbers: Int32Array;
  /** See weight-runs.ts. */
  readonly weightRuns: Int32Array;
  /** The targets of all samples one behind the other, as many numbers for each, as the bits of f32; empty where they have none. */
  readonly targets: Int32Array;
  /** See `Sample.seconds`, of samples of one text; empty where nothing is told. */
  readonly seconds: Int32Array;
  /** See `addTaught`; empty where there is no teacher. */
  readonly taught: Int32Array;
  readonly labelled: number;
}

/** An index, and what is to be said of the file. */
export type FileIndex = SampleIndex & Pick<FileSamples, "unused" | "notices">;

/**
 * Tokens are stored as one i32 each: the id where it is to be learned, -1 - id where it is masked.
 * `read` gives `length` stored tokens from the `at`-th on, as memory that the caller may change.
 */
export type TokenReader = (at: number, length: number) => Int32Array;

const STRIDE = 64;

/** @param placeOf names the place in the data of a line or item */
export function createSampleSet(index: FileIndex, read: TokenReader, placeOf: (number: number) => string): FileSamples {
  const { lengths, numbers, weightRuns, targets, seconds, taught, labelled, unused, notices } = index;
  const values = new Float32Array(targets.buffer, targets.byteOffset, targets.length);
  const width = lengths.length === 0 ? 0 : targets.length / lengths.length;
  const weightsOf = createWeightReader(weightRuns);
  const taughtOf = createTaughtReader(taught);
  // First tokens of every 64th sample: the lengths tell the others.
  const starts = new Float64Array(Math.ceil(lengths.length / STRIDE));
  let tokens = 0;
  lengths.forEach((length, i) => {
    if (i % STRIDE === 0) starts[i / STRIDE] = tokens;
    tokens += length;
  });
  const startOf = (index: number): number => {
    const first = index - (index % STRIDE);
    let start = starts[first / STRIDE]!;
    for (let i = first; i < index; i++) start += lengths[i]!;
    return start;
  };
  return {
    count: lengths.length,
    lengths,
    numbers,
    unused,
    notices,
    tokens,
    labelled,
    weighted: weightRuns.length > 0,
    sample(i) {
      const ids = read(startOf(i), lengths[i]!);
      const labels = ids.map((stored) => (stored < 0 ? IGNORED : stored));
      for (let t = 0; t < ids.length; t++) if (ids[t]! < 0) ids[t] = -1 - ids[t]!;
      return {
        ids,
        labels,
        weights: weightsOf(i, ids.length),
        where: placeOf(numbers[i]!),
        ...(width > 0 && { target: values.slice(i * width, (i + 1) * width) }),
        ...(seconds.length > 0 && { seconds: [seconds[i]!] }),
        ...(taught.length > 0 && { teacher: taughtOf(i) }),
      };
    },
  };
}

/** Describes what is stored of a sample. */
export type StoredSample = Pick<Sample, "ids" | "labels" | "weights" | "target" | "seconds" | "teacher">;

/** Words in front of what a teacher says of a sample: how many places, and how many tokens of each. */
const TAUGHT_HEAD = 2;

/** Adds what a teacher says of a sample to a list: its head, ids, log-probabilities as the bits of f32. */
function addTaught(words: { push(value: number): void }, { top, ids, logProbabilities }: TeacherTokens): void {
  words.push(ids.length / top);
  words.push(top);
  for (const id of ids) words.push(id);
  for (const bits of new Int32Array(logProbabilities.slice().buffer)) words.push(bits);
}

/** Gives what such a list says of a sample. */
function createTaughtReader(words: Int32Array): (sample: number) => TeacherTokens {
  const starts: number[] = [];
  for (let at = 0; at < words.length; at += TAUGHT_HEAD + 2 * words[at]! * words[at + 1]!) starts.push(at);
  return (sample) => {
    const [at, top] = [starts[sample]! + TAUGHT_HEAD, words[starts[sample]! + 1]!];
    const size = words[starts[sample]!]! * top;
    const bits = words.slice(at + size, at + 2 * size);
    return { top, ids: words.slice(at, at + size), logProbabilities: new Float32Array(bits.buffer) };
  };
}

/** How many tokens of a sample are learned: labelled ones that are not first in their text. */
export function countLabelled({ labels, parts = [labels.length] }: Pick<Sample, "labels" | "parts">): number {
  let labelled = 0;
  let from = 0;
  for (const length of parts) {
    for (let t = from + 1; t < from + length; t++) if (labels[t] !== IGNORED) labelled++;
    from += length;
  }
  return labelled;
}

/** A sample's tokens as they are stored, and how many of them count as labelled. */
export function packSample({ ids, labels }: Pick<Sample, "ids" | "labels">): {
  readonly stored: Int32Array;
  readonly labelled: number;
} {
  let labelled = 0;
  const stored = ids.map((id, t) => {
    if (labels[t] === IGNORED) return -1 - id;
    if (t > 0) labelled++;
    return id;
  });
  return { stored, labelled };
}

/** Collects the index of a set sample by sample. */
export function createIndexBuilder(): {
  add(sample: Omit<StoredSample, "labels">, number: number, labelled: number): void;
  finish(): SampleIndex;
} {
  const lengths = createIntList();
  const numbers = createIntList();
  const runs = createIntList();
  const targets = createIntList();
  const secondPlaces = createIntList();
  const taught = createIntList();
  let count = 0;
  let total = 0;
  return {
    add({ ids, weights, target, seconds, teacher }, number, labelled) {
      lengths.push(ids.length);
      numbers.push(number);
      if (weights) addWeightRuns(runs, count, weights);
      if (target) for (const bits of new Int32Array(target.buffer, target.byteOffset, target.length)) targets.push(bits);
      if (seconds) secondPlaces.push(seconds[0]!);
      if (teacher) addTaught(taught, teacher);
      count++;
      total += labelled;
    },
    finish: () => ({
      lengths: lengths.finish(),
      numbers: numbers.finish(),
      weightRuns: runs.finish(),
      targets: targets.finish(),
      seconds: secondPlaces.finish(),
      taught: taught.finish(),
      labelled: total,
    }),
  };
}

/** A list of i32 that grows by blocks: an array that doubles would hold three times its content while it does. */
export function createIntList(): {
  push(value: number): void;
  /** All numbers; the list is empty then. */
  finish(): Int32Array;
} {
  const blocks: Int32Array[] = [];
  let count = 0;
  return {
    push(value) {
      if (count % BLOCK === 0) blocks.push(new Int32Array(BLOCK));
      blocks.at(-1)![count++ % BLOCK] = value;
    },
    finish() {
      const values = new Int32Array(count);
      blocks.forEach((block, i) => values.set(block.subarray(0, count - i * BLOCK), i * BLOCK));
      blocks.length = count = 0;
      return values;
    },
  };
}

/** Numbers in a block of memory; blocks keep growth from copying. */
const BLOCK = 1 << 16;

/** Collects samples in memory. @param placeOf names the place in the data of a line or item */
export function createSampleStore(placeOf: (number: number) => string): SampleSink {
  const blocks: Int32Array[] = [];
  const index = createIndexBuilder();
  let end = 0;
  /** Visits the pieces of blocks that hold tokens `at` to `at + length`. */
  const pieces = (at: number, length: number, visit: (piece: Int32Array, done: number) => void): void => {
    for (let done = 0; done < length;) {
      const block = blocks[Math.floor((at + done) / BLOCK)]!;
      const from = (at + done) % BLOCK;
      const count = Math.min(length - done, BLOCK - from);
      visit(block.subarray(from, from + count), done);
      done += count;
    }
  };
  return {
    add(sample, number) {
      const { stored, labelled } = packSample(sample);
      while (blocks.length * BLOCK < end + stored.length) blocks.push(new Int32Array(BLOCK));
      pieces(end, stored.length, (piece, done) => piece.set(stored.subarray(done, done + piece.length)));
      index.add(sample, number, labelled);
      end += stored.length;
    },
    finish(unused = {}, notices = []) {
      const read: TokenReader = (at, length) => {
        const stored = new Int32Array(length);
        pieces(at, length, (piece, done) => stored.set(piece, done));
        return stored;
      };
      return createSampleSet({ ...index.finish(), unused, notices }, read, placeOf);
    },
    discard: () => void blocks.splice(0),
  };
}
