/**
 * Offline placement of a program's values. Which value lives when is known, so every value gets a fixed place before
 * anything runs, and the peak of the workspace is exact.
 *
 * Values that share memory form a *buffer*: a view and its source, the result of an in-place operator and the input
 * that dies there. A buffer is either bound (the memory of a graph input or output, placed by the caller) or lies in
 * the workspace, where buffers whose lives do not overlap may overlap in space.
 */
import type { GraphOutput } from "../graph/types.ts";
import { type Interval, packIntervals } from "../base/intervals.ts";
import { align } from "../runtime/executor.ts";

/** One node as the planner sees it. */
export interface Step {
  /** Value names by operand; `""` is absent. */
  readonly reads: readonly string[];
  /** Value names by output; `""` is not produced. */
  readonly writes: readonly string[];
  /** Pairs [output, input] that may share memory. */
  readonly inPlace: readonly (readonly [output: number, input: number])[];
  /** Output 0 is input 0 under another shape. */
  readonly view: boolean;
  /** Sizes of buffers that live during this step only. */
  readonly scratch: readonly number[];
}

/** A byte offset in the workspace (slot 0) or in bound memory (the others). */
export interface Place {
  readonly slot: number;
  readonly offset: number;
}

export interface Plan {
  readonly place: ReadonlyMap<string, Place>;
  /** Per step, as `Step.scratch`; all in the workspace. */
  readonly scratch: readonly (readonly Place[])[];
  /** Bytes of workspace: the exact peak. */
  readonly workspace: number;
  /** Graph outputs that could not be computed where they are wanted: copied after the last step, in this order. */
  readonly copies: readonly { readonly value: string; readonly to: Place }[];
  /** Names of the bound values; `slots[i]` is slot `i + 1`. */
  readonly slots: readonly string[];
}

interface Buffer {
  first: number;
  last: number;
  /** Bytes that are taken, aligned. */
  bytes: number;
  /** Bytes of the value. */
  size: number;
  slot: number;
}

export interface PlanRequest {
  readonly inputs: readonly string[];
  readonly outputs: readonly Pick<GraphOutput, "name" | "updates">[];
  readonly steps: readonly Step[];
  bytes(value: string): number;
}

/** Places all values. Steps must be in execution order, without steps whose results nobody uses. */
export function plan(request: PlanRequest): Plan {
  const { inputs, outputs, steps } = request;
  const last = lastUses(request);
  const slots = [...new Set([...inputs, ...outputs.map((output) => output.name)])];
  const slotOf = new Map(slots.map((name, i) => [name, i + 1]));
  const updates = new Map(outputs.map((output) => [output.name, output.updates]));
  const buffers = new Map<string, Buffer>();
  for (const name of inputs)
    buffers.set(name, { first: -1, last: last.get(name) ?? -1, bytes: 0, size: 0, slot: slotOf.get(name)! });

  /** Tells whether the memory of output `name` may hold a buffer that step `at` completes and that is first written at `first`. */
  const fitsOutput = (name: string, first: number, at: number, reusesUpdated: boolean): boolean => {
    const updated = updates.get(name);
    if (updated === undefined) return true;
    // The output's memory is the updated input's: nothing may be written there while the input is still read.
    const read = buffers.get(updated)!.last;
    return read < first || (read === at && first === at && reusesUpdated);
  };

  steps.forEach((step, at) => {
    if (step.view) {
      const [source, result] = [step.reads[0]!, step.writes[0]!];
      const buffer = buffers.get(source)!;
      buffers.set(result, buffer);
      if (updates.has(result) && buffer.slot === 0 && fitsOutput(result, buffer.first, at, false))
        buffer.slot = slotOf.get(result)!;
      return;
    }
    const taken = new Set<Buffer>();
    step.writes.forEach((result, index) => {
      if (result === "") return;
      const isOutput = updates.has(result);
      // Inputs that die here and whose place the result may take.
      const candidates = step.inPlace
        .filter(([output, input]) => output === index && (step.reads[input] ?? "") !== "")
        .map(([, input]) => buffers.get(step.reads[input]!)!)
        .filter(
          (buffer) =>
            buffer.last === at &&
            step.reads.every((name, i) => name === "" || buffers.get(name) !== buffer || pairs(step, index, i)),
        );
      const reusesUpdated = isOutput && candidates.some((buffer) => buffer === buffers.get(updates.get(result) ?? ""));
      const bytes = request.bytes(result);
      const reuse = candidates.find(
        (buffer) =>
          buffer.slot === 0 &&
          // A smaller one, such as a row that is added to all rows, is read again for each.
          buffer.size === bytes &&
          !taken.has(buffer) &&
          (!isOutput || fitsOutput(result, buffer.first, at, false)),
      );
      let buffer: Buffer;
      if (reuse && !reusesUpdated) {
        buffer = reuse;
        buffer.last = Math.max(buffer.last, last.get(result) ?? at);
        taken.add(buffer);
      } else {
        buffer = { first: at, last: last.get(result) ?? at, bytes: align(bytes), size: bytes, slot: 0 };
      }
      if (isOutput && fitsOutput(result, buffer.first, at, reusesUpdated)) buffer.slot = slotOf.get(result)!;
      buffers.set(result, buffer);
    });
  });

  const placed = new Map<Buffer, number>();
  const scratchAt: number[] = [];
  const blocks: Interval[] = [];
  for (const buffer of new Set(buffers.values())) {
    if (buffer.slot !== 0) continue;
    placed.set(buffer, blocks.length);
    blocks.push(buffer);
  }
  steps.forEach((step, at) => {
    scratchAt.push(blocks.length);
    for (const bytes of step.scratch) blocks.push({ bytes: align(bytes), first: at, last: at });
  });
  const { offsets, extent } = packIntervals(blocks);

  const place = new Map<string, Place>();
  for (const [name, buffer] of buffers) {
    place.set(name, buffer.slot !== 0 ? { slot: buffer.slot, offset: 0 } : { slot: 0, offset: offsets[placed.get(buffer)!]! });
  }
  return {
    place,
    scratch: steps.map((step, at) => step.scratch.map((_, i) => ({ slot: 0, offset: offsets[scratchAt[at]! + i]! }))),
    workspace: extent,
    copies: copiesOf(outputs, place, slotOf),
    slots,
  };
}

const pairs = (step: Step, output: number, input: number): boolean => step.inPlace.some(([o, i]) => o === output && i === input);

/** The last step that reads each value, directly or through a view; graph outputs live to the end. */
function lastUses({ steps, outputs }: PlanRequest): Map<string, number> {
  const last = new Map<string, number>(outputs.map((output) => [output.name, steps.length]));
  for (let at = steps.length - 1; at >= 0; at--) {
    const step = steps[at]!;
    const end = step.view ? Math.max(at, last.get(step.writes[0]!) ?? at) : at;
    for (const name of step.reads) {
      if (name !== "") last.set(name, Math.max(end, last.get(name) ?? end));
    }
  }
  return last;
}

/**
 * Copies that read bound memory go first, and among them those that update an input go last: a copy must not overwrite
 * an input that a later one reads.
 */
function copiesOf(
  outputs: PlanRequest["outputs"],
  place: ReadonlyMap<string, Place>,
  slotOf: ReadonlyMap<string, number>,
): Plan["copies"] {
  const copied = outputs.filter(({ name }) => place.get(name)!.slot !== slotOf.get(name));
  const rank = ({ name, updates }: PlanRequest["outputs"][number]): number =>
    place.get(name)!.slot === 0 ? 2 : updates === undefined ? 0 : 1;
  const updating = copied.filter((output) => rank(output) === 1);
  for (const { name } of updating) {
    const other = updating.find((output) => output.name !== name && slotOf.get(output.updates!) === place.get(name)!.slot);
    if (other) throw new Error(`output ${name} passes on the input that output ${other.name} overwrites; copy it in the graph`);
  }
  return copied
    .sort((a, b) => rank(a) - rank(b))
    .map(({ name }) => ({ value: name, to: { slot: slotOf.get(name)!, offset: 0 } }));
}
