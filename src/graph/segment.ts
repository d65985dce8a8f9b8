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
  /** Selective saving: other pairs for the same segment, with smaller tapes; variant k of the chain is `variants[k - 1]`. */
  readonly variants: readonly TrainingPrograms[];
  /** Forward and backward in one program without a tape. The head has only this one. */
  readonly fused: Graph | null;
  /**
   * An open head: the loss is computed outside, of what `forward` outputs. Each `fused` follows a run of `forward`, and its batch input
   * `scale` holds the derivatives of that loss by these outputs.
   */
  readonly open?: true;
}

/** A taped forward and the backward that reads its tape. */
export interface TrainingPrograms {
  /** `forward` that also outputs the tape. */
  readonly taped: Graph;
  readonly backward: Graph;
  /** Names of the values in the tape, in stash order. */
  readonly tape: readonly string[];
  /** Names of the forward values (one per node) that the backward computes again. */
  readonly recomputed: readonly string[];
}

/** One link of the chain. */
export interface Segment {
  /** Name in the model: `model.layers.3`. */
  readonly name: string;
  readonly model: SegmentModel;
  /** Graph input of role `param` -> parameter name in the checkpoint or adapter. */
  readonly params: ReadonlyMap<string, string>;
  /** Values that it takes of earlier segments beside the boundary, or makes for later ones: its own names -> names in the chain. */
  readonly carried?: ReadonlyMap<string, string>;
}

/** Name of the accumulator input, and of the `param-grad` output's update target, of a parameter input; and of the gradient of a carried value. */
export function accumulatorOf(param: string): string {
  return `acc.${param}`;
}

/** The taped pairs of a segment model by variant, k = 0 first. */
export function tapedPrograms(model: SegmentModel): readonly TrainingPrograms[] {
  return model.training ? [model.training, ...model.variants] : [];
}

/** All distinct graphs of a segment model, with the suffix that names each in files. */
export function programsOf(model: SegmentModel): [suffix: string, graph: Graph][] {
  const programs: [string, Graph][] = [["forward", model.forward]];
  tapedPrograms(model).forEach(({ taped, backward }, k) => {
    const suffix = k === 0 ? "" : `-${k}`;
    // Without a tape the taped forward of a variant is the plain forward.
    if (k === 0 || taped !== model.forward) programs.push([`forward-taped${suffix}`, taped]);
    programs.push([`backward${suffix}`, backward]);
  });
  if (model.fused) programs.push(["forward-backward", model.fused]);
  return programs;
}
