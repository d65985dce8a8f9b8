import { UserError } from "../../base/errors.ts";
import { IGNORED, type Sample } from "./sample.ts";
import type { SampleSet } from "./sample-store.ts";

/**
 * Each example with a text that nobody wrote beside it: its prompt with the answer of another one. As in TRL, answers go round by one within
 * each `group` of consecutive examples: the first gets the last one's. Of a last group of one the answer is that of the example
 * before it, since an example's own would not be mismatched. The other text is cut at `maxLength` tokens, which leaves some of the answer, since the own
 * one has some. Either has room where the longer one has: that is the example's length, wherever samples are drawn, packed and batched.
 * @throws {UserError} a single example
 */
export function withMismatched(
  set: SampleSet,
  { group, maxLength }: { readonly group: number; readonly maxLength: number },
): SampleSet {
  const { count, lengths } = set;
  if (count < 2)
    throw new UserError(`${set.sample(0).where}: the only example; answers are held against prompts of others, give two or more`);
  const prompts = Int32Array.from({ length: count }, (_, i) => promptLength(set.sample(i)));
  const otherOf = (i: number): number => {
    const first = i - (i % group);
    const last = Math.min(first + group, count) - 1;
    if (first === last) return i - 1;
    return i === first ? last : i - 1;
  };
  const mismatchedLength = (i: number): number => {
    const other = otherOf(i);
    return Math.min(maxLength, prompts[i]! + lengths[other]! - prompts[other]!);
  };
  const both = lengths.map((length, i) => Math.max(length, mismatchedLength(i)));
  return {
    ...set,
    lengths: both,
    sample: (i) => ({ ...set.sample(i), weights: null }),
    mismatched(i) {
      const [sample, other] = [set.sample(i), set.sample(otherOf(i))];
      const part = (values: Int32Array, others: Int32Array): Int32Array =>
        Int32Array.from([...values.subarray(0, prompts[i]), ...others.subarray(prompts[otherOf(i)])].slice(0, maxLength));
      return {
        ids: part(sample.ids, other.ids),
        labels: part(sample.labels, other.labels),
        weights: null,
        where: sample.where,
      };
    },
  };
}

/** Tokens in front of the first one that is learned. */
const promptLength = ({ labels }: Sample): number => labels.findIndex((label) => label !== IGNORED);
