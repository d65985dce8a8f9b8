import { UserError } from "../../base/errors.ts";
import { joinSamples } from "./groups.ts";
import { IGNORED, type Sample } from "./sample.ts";
import type { SampleSet } from "./sample-store.ts";

/**
 * Each example with a text that nobody wrote: its prompt with the answer of another one. As in TRL, answers go round by one within
 * each `group` of consecutive examples: the first gets the last one's. Of a last group of one the answer is that of the example
 * before it, since an example's own would not be mismatched. Both texts stay together wherever samples are drawn, packed and batched; the
 * second is cut at `maxLength` tokens, which leaves some of the answer, since the first has some.
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
  const all = lengths.map((length, i) => length + mismatchedLength(i));
  return {
    ...set,
    lengths: all,
    tokens: all.reduce((sum, length) => sum + length, 0),
    sample(i) {
      const [sample, other] = [set.sample(i), set.sample(otherOf(i))];
      const part = (values: Int32Array, others: Int32Array): Int32Array =>
        Int32Array.from([...values.subarray(0, prompts[i]), ...others.subarray(prompts[otherOf(i)])].slice(0, maxLength));
      const mismatched: Sample = {
        ids: part(sample.ids, other.ids),
        labels: part(sample.labels, other.labels),
        weights: null,
        where: sample.where,
      };
      return { ...joinSamples([{ ...sample, weights: null }, mismatched]), target: sample.target };
    },
  };
}

/** Tokens in front of the first one that is learned. */
const promptLength = ({ labels }: Sample): number => labels.findIndex((label) => label !== IGNORED);
