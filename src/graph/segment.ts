import type { Graph } from "./types.ts";

/**
 * The programs of one kind of segment. Identical segments share one model: parameters and the segment's index are
 * graph inputs, bound per segment. Graph input and output names are the same in all programs.
 */
export interface SegmentModel {
  /** Unique name of the kind: `embedding`, `block`, `head`, ... Names the ONNX files. */
  readonly id: string;
  readonly forward: Graph;
  /** Null when the segment lies below the first trainable parameter (or has only the fused program). */
  readonly training: TrainingPrograms | null;
  /** Forward and backward in one program without a tape. The head has only this one. */
  readonly fused: Graph | null;
}

/** A taped forward and the backward that reads its tape. */
export interface TrainingPrograms {
  /** `forward` that also outputs the tape. */
  readonly taped: Graph;
  readonly backward: Graph;
  /** Names of the values in the tape, in stash order. */
  readonly tape: readonly string[];
}

/** One link of the chain. */
export interface Segment {
  /** Name in the model: `model.layers.3`. */
  readonly name: string;
  readonly model: SegmentModel;
  /** Graph input of role `param` -> parameter name in the checkpoint or adapter. */
  readonly params: ReadonlyMap<string, string>;
}

/** Name of the accumulator input, and of the `param-grad` output's update target, of a parameter input. */
export function accumulatorOf(param: string): string {
  return `acc.${param}`;
}

/** All distinct graphs of a segment model, with the suffix that names each in files. */
export function programsOf(model: SegmentModel): [suffix: string, graph: Graph][] {
  const programs: [string, Graph][] = [["forward", model.forward]];
  if (model.training) programs.push(["forward-taped", model.training.taped], ["backward", model.training.backward]);
  if (model.fused) programs.push(["forward-backward", model.fused]);
  return programs;
}
