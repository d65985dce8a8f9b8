import { UserError } from "../../base/errors.ts";
import { createRandom, indices, shuffle } from "../../base/random.ts";
import { countLabelled, createIntList, type FileSamples, type SampleSet } from "./sample-store.ts";

/** How many of the training examples are held out: a share of them, or a number. */
export type HeldOutAmount = { readonly share: number } | { readonly count: number };

/**
 * Reads `5%`, `0.05` (below 1: a share) or `200`; null for anything else, which is a path.
 * @throws {UserError} a number that is neither a share nor a count
 */
export function parseHeldOut(text: string): HeldOutAmount | null {
  const [, digits, percent] = /^(\d+|\d*\.\d+)(%?)$/.exec(text.trim()) ?? [];
  if (digits === undefined) return null;
  const number = Number(digits);
  const isShare = percent === "%" || (number > 0 && number < 1);
  const share = percent === "%" ? number / 100 : number;
  if (isShare ? share >= 1 : !Number.isInteger(number)) {
    throw new UserError(`--valid ${text}: expected a share below 100% (5%, 0.05), a whole number of examples (200), or a file`);
  }
  return isShare ? { share } : { count: number };
}

/** Describes what stays of each file, and what was taken away of it: maybe nothing. */
export interface HeldOutSplit {
  readonly train: readonly SampleSet[];
  /** Null when nothing is held out. */
  readonly valid: readonly SampleSet[] | null;
  /** The first example that is held out: file, from 0, and line or item. */
  readonly first: { readonly file: number; readonly number: number } | null;
}

/**
 * Takes examples away from the training data, drawn from all files by the seed alone: the same data, amount and seed give the same
 * split. An example goes as a whole, with all the samples that a chat template makes of it.
 * @throws {UserError} nothing would be left
 */
export function splitHeldOut(files: readonly FileSamples[], amount: HeldOutAmount, seed: number): HeldOutSplit {
  const total = files.reduce((sum, { numbers }) => sum + countExamples(numbers), 0);
  // At least one, or there would be nothing to evaluate on.
  const wanted = "count" in amount ? amount.count : amount.share === 0 ? 0 : Math.max(1, Math.round(amount.share * total));
  if (wanted >= total) {
    throw new UserError(`--valid: ${wanted} of the ${total} training examples would be held out, and none be left to train on`);
  }
  if (wanted === 0) return { train: files, valid: null, first: null };
  const isHeldOut = new Uint8Array(total);
  for (const example of shuffle(indices(total), createRandom(seed, "held out")).subarray(0, wanted)) isHeldOut[example] = 1;

  const train: SampleSet[] = [];
  const valid: SampleSet[] = [];
  let first: HeldOutSplit["first"] = null;
  let example = -1;
  files.forEach((set, file) => {
    const { numbers } = set;
    const [kept, taken] = [createIntList(), createIntList()];
    for (let i = 0; i < set.count; i++) {
      if (i === 0 || numbers[i] !== numbers[i - 1]) example++;
      if (isHeldOut[example]) first ??= { file, number: numbers[i]! };
      (isHeldOut[example] ? taken : kept).push(i);
    }
    const [staying, away] = [subset(set, kept.finish()), subset(set, taken.finish())];
    const labelled = labelledOf(away);
    train.push({ ...staying, labelled: set.labelled - labelled });
    valid.push({ ...away, labelled });
  });
  return { train, valid, first };
}

/** The samples of an example follow each other. */
function countExamples(numbers: Int32Array): number {
  let count = 0;
  for (let i = 0; i < numbers.length; i++) if (i === 0 || numbers[i] !== numbers[i - 1]) count++;
  return count;
}

/** Some samples of a set. */
function subset(set: SampleSet, samples: Int32Array): Omit<SampleSet, "labelled"> {
  const lengths = samples.map((i) => set.lengths[i]!);
  return {
    count: samples.length,
    lengths,
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    weighted: set.weighted,
    sample: (i) => set.sample(samples[i]!),
  };
}

function labelledOf({ count, sample }: Pick<SampleSet, "count" | "sample">): number {
  let labelled = 0;
  for (let i = 0; i < count; i++) labelled += countLabelled(sample(i));
  return labelled;
}
