import type { Segment } from "../graph/segment.ts";
import { bindProgram, type StepMemory } from "./bind.ts";
import { boundaryBytes, type Programs } from "./chain.ts";
import { type Address, align, type Executor } from "./executor.ts";
import { bindSequence } from "./streaming/sequence.ts";

/** Forward programs alone, without a tape: evaluation and generation. */
export interface ForwardRunner {
  run(): void;
  /** The place of the boundary that leaves the chain, where one does, up to the next run. */
  readonly output: Address;
}

/** Arena bytes of a forward pass: two boundaries in turn, and the largest workspace. */
export function forwardExtent(segments: readonly Segment[], programs: Programs): number {
  return 2 * largestBoundary(segments) + Math.max(...segments.map(({ model }) => align(programs.of(model.forward).workspace)));
}

function largestBoundary(segments: readonly Segment[]): number {
  return Math.max(...segments.map(boundaryBytes));
}

/**
 * Binds the forward programs of a chain to an arena of `forwardExtent` bytes.
 * @param logits takes the output of that role
 * @param entering the place of the boundary that enters the chain, where it is the rest of one
 */
export function createForward(
  executor: Executor,
  programs: Programs,
  segments: readonly Segment[],
  arena: Address,
  memory: StepMemory,
  logits?: Address,
  entering?: Address,
): ForwardRunner {
  const stride = largestBoundary(segments);
  const boundary = (index: number) => arena + (index % 2) * stride;
  const none = (): never => {
    throw new Error("a forward pass has no tape and no gradients");
  };
  const graphs = segments.map((segment) => ({ segment, graph: segment.model.forward }));
  const sequence = bindSequence(executor, programs, graphs, memory);
  const calls = segments.map(
    (segment, index) =>
      bindProgram(
        executor,
        programs,
        segment,
        index,
        segment.model.forward,
        memory,
        { offsets: new Map(), bytes: 0 },
        {
          input: () => (index === 0 && entering !== undefined ? entering : boundary(index - 1)),
          output: () => boundary(index),
          tape: none,
          outputGrad: none,
          inputGrad: none,
          workspace: () => arena + 2 * stride,
          ...(logits === undefined ? {} : { logits: () => logits }),
        },
        sequence?.places(index) ?? null,
      ).call,
  );
  return {
    output: boundary(segments.length - 1),
    run() {
      sequence?.begin();
      calls.forEach((call, index) => (sequence ? sequence.run(index, call) : executor.run(call)));
    },
  };
}
