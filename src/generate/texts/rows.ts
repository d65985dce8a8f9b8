import { createBatches, type MicroBatch } from "../../data/samples/batch.ts";
import type { Sample } from "../../data/samples/sample.ts";
import { createSampleStore } from "../../data/samples/sample-store.ts";

/** Tokens of a row that short texts lie behind each other in, and of shorter rows, where all texts fit into one. */
const ROWS = [32, 128, 512];

/** The length of rows for longer texts, of which each has one, is a power of this times the longest of `ROWS`. */
const GROWTH = 4;

/** Describes rows that texts are put into, whose lengths are few: a program is prepared for each. */
export interface RowSizes {
  /** Tokens of a row, ascending; the last are those of the longest text. */
  readonly sizes: readonly number[];
  /** The longest row that several texts lie in. */
  readonly shared: number;
  /** Texts of a row, at most. */
  readonly most: number;
}

/** @param most texts of a row, at most; without it as many as there are tokens */
export function rowSizes(maxLength: number, most = Infinity): RowSizes {
  const sizes = ROWS.filter((size) => size < maxLength);
  for (let size = ROWS.at(-1)! * GROWTH; size < maxLength; size *= GROWTH) sizes.push(size);
  const shared = Math.min(maxLength, ROWS.at(-1)!);
  return { sizes: [...sizes, maxLength], shared, most: Math.min(most, shared) };
}

/** A row as a micro-batch, and the numbers of its texts among all. */
export interface Row {
  readonly batch: MicroBatch;
  readonly members: readonly number[];
}

/** Rows of texts: short ones share rows, of the least length that all fit into or the longest; each other has one. */
export function* rowsOf(samples: readonly Sample[], rows: RowSizes): Generator<Row> {
  const { shared, most } = rows;
  const [short, long]: number[][] = [[], []];
  for (const [i, { ids }] of samples.entries()) (ids.length > shared ? long! : short!).push(i);
  for (let from = 0; from < short!.length; from += most) {
    const window = most < shared ? short!.slice(from, from + most) : short!;
    const total = window.reduce((sum, i) => sum + samples[i]!.ids.length, 0);
    yield* batchesOf(samples, window, sizeFor(rows, Math.min(total, shared)));
    if (window === short) break;
  }
  for (const i of long!) yield* batchesOf(samples, [i], sizeFor(rows, samples[i]!.ids.length));
}

const sizeFor = ({ sizes }: RowSizes, length: number): number => sizes.find((size) => size >= length)!;

function* batchesOf(samples: readonly Sample[], numbers: readonly number[], rowLength: number): Generator<Row> {
  const store = createSampleStore(() => "");
  for (const [i, number] of numbers.entries()) store.add(samples[number]!, i);
  const batches = createBatches(store.finish(), { rows: 1, rowLength, packing: true, seed: 0, padId: 0, shuffle: false });
  for (let index = 0; index < batches.count(0); index++) {
    const batch = batches.batch(0, index);
    yield { batch, members: batch.members.map((member) => numbers[member]!) };
  }
}
