import type { Part } from "./messages.ts";

/** The micro-batches of one step, and the sum of their gradients. */
export interface StepWork {
  readonly step: number;
  /** True if the gradients of a micro-batch are there. */
  has(index: number): boolean;
  /** True if those of all are. */
  readonly isDone: boolean;
  /**
   * Takes a micro-batch's gradients, whoever computed them: whoever did has computed the same. They are added when those of all before it have been, so
   * that the sum is the same in whatever order they come.
   */
  take(index: number, part: Part, gradients: Float32Array): void;
  /** The parts, in the order of the micro-batches. @throws {Error} before all are there */
  parts(): readonly Part[];
}

/** @param sum set to 0, and then to the sum */
export function createStepWork(step: number, count: number, sum: Float32Array): StepWork {
  const parts: (Part | null)[] = Array.from({ length: count }, () => null);
  /** Gradients that came before those of a micro-batch in front of them. */
  const early = new Map<number, Float32Array>();
  let added = 0;
  sum.fill(0);
  return {
    step,
    has: (index) => parts[index] !== null,
    get isDone() {
      return added === count;
    },
    take(index, part, gradients) {
      if (parts[index] !== null) return;
      if (gradients.length !== sum.length)
        throw new Error(`gradients of ${gradients.length} numbers where ${sum.length} are trained`);
      parts[index] = part;
      early.set(index, gradients);
      for (let next = early.get(added); next !== undefined; next = early.get(added)) {
        add(sum, next);
        early.delete(added++);
      }
    },
    parts() {
      return parts.map((part, index) => {
        if (part === null) throw new Error(`micro-batch ${index} of step ${step} was not learned`);
        return part;
      });
    },
  };
}

/** Sums of two f32 in f64 are exact to more than twice their bits, so that rounding them to f32 gives what an addition in f32 does. */
function add(sum: Float32Array, values: Float32Array): void {
  for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + values[i]!;
}
