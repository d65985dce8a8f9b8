import type { Sample } from "./sample.ts";
import type { FileSamples } from "./sample-store.ts";
import { createIntList } from "./sample-store.ts";

/**
 * The samples of each example as one, so that they stay together wherever samples are drawn, held out, packed and batched.
 * @param most samples of an example: a record with more is several examples
 */
export function groupSamples(set: FileSamples, most = Infinity): FileSamples {
  const firsts = createIntList();
  const numbers = createIntList();
  let first = 0;
  set.numbers.forEach((number, i) => {
    if (i > 0 && number === set.numbers[i - 1] && i - first < most) return;
    first = i;
    firsts.push(i);
    numbers.push(number);
  });
  firsts.push(set.count);
  const bounds = firsts.finish();
  const count = bounds.length - 1;
  const lengths = new Int32Array(count);
  for (let group = 0; group < count; group++)
    for (let i = bounds[group]!; i < bounds[group + 1]!; i++) lengths[group]! += set.lengths[i]!;
  return {
    ...set,
    count,
    lengths,
    numbers: numbers.finish(),
    sample(group) {
      const members: Sample[] = [];
      for (let i = bounds[group]!; i < bounds[group + 1]!; i++) members.push(set.sample(i));
      return joinSamples(members);
    },
  };
}

/** Several samples as one of several texts. */
export function joinSamples(members: readonly Sample[]): Sample {
  const length = members.reduce((sum, { ids }) => sum + ids.length, 0);
  const [ids, labels] = [new Int32Array(length), new Int32Array(length)];
  const weights = members.some((member) => member.weights) ? new Float32Array(length).fill(1) : null;
  let at = 0;
  for (const member of members) {
    ids.set(member.ids, at);
    labels.set(member.labels, at);
    if (member.weights) weights!.set(member.weights, at);
    at += member.ids.length;
  }
  const target = members.flatMap((member) => (member.target ? [...member.target] : []));
  const seconds = members.flatMap((member) => member.seconds ?? []);
  return {
    ids,
    labels,
    weights,
    parts: members.map((member) => member.ids.length),
    ...(target.length > 0 && { target: Float32Array.from(target) }),
    ...(seconds.length > 0 && { seconds }),
    where: members[0]!.where,
  };
}
