import type { StepMemory } from "./bind.ts";
import { type Address, align, type Executor } from "./executor.ts";

/** A word each: the segments' indices, the loss, its seed gradient, the count of correct labels. */
export interface StepWords extends Pick<StepMemory, "segmentIndex" | "lossGradient" | "loss" | "correct"> {
  /** Returns what the last forward pass found: the scaled loss, and how many labels were the likeliest token. */
  score(): { readonly loss: number; readonly correct: number };
}

export function stepWordBytes(segments: number): number {
  return (segments + 3) * align(4);
}

export function createStepWords(executor: Executor, segments: number): StepWords {
  const word = (value: Int32Array | Float32Array): Address => {
    const address = executor.reserve(4);
    executor.write(address, new Uint8Array(value.buffer));
    return address;
  };
  const segmentIndex = Array.from({ length: segments }, (_, index) => word(Int32Array.of(index)));
  const lossGradient = word(Float32Array.of(1));
  const [loss, correct] = [word(Float32Array.of(0)), word(Int32Array.of(0))];
  const view = (address: Address) => {
    const { buffer, byteOffset } = executor.read(address, 4);
    return new DataView(buffer, byteOffset, 4);
  };
  return {
    segmentIndex,
    lossGradient,
    loss,
    correct,
    score: () => ({ loss: view(loss).getFloat32(0, true), correct: view(correct).getInt32(0, true) }),
  };
}
