import { type Segment, tapedPrograms } from "../graph/segment.ts";
import type { Graph } from "../graph/types.ts";
import { isComputation, type Op, type Schedule } from "../schedule/ops.ts";

/** A step of a schedule with its program (null for drops, copies and fetches) and the variant of the tape that it writes or reads. */
export interface ScheduledProgram {
  readonly op: Op;
  readonly graph: Graph | null;
  readonly k: number;
}

/** The programs of a schedule, step by step. Throws when a segment has none for what is asked of it. */
export function schedulePrograms(segments: readonly Segment[], schedule: Schedule): ScheduledProgram[] {
  /** Variant of the tape that each segment has at the time. */
  const held = new Map<number, number>();
  return schedule.map((op) => {
    if (!isComputation(op)) return { op, graph: null, k: 0 };
    if (op.kind === "FA") held.set(op.i, op.k);
    const k = held.get(op.i) ?? 0;
    const { name, model } = segments[op.i - 1]!;
    const pair = tapedPrograms(model)[k];
    const graph = { FN: model.forward, FC: model.forward, FA: pair?.taped, B: pair?.backward, BR: model.fused }[op.kind];
    if (!graph) throw new Error(`${name}: the schedule asks for ${op.kind} (variant ${k}), for which there is no program`);
    return { op, graph, k };
  });
}

/** True if a step runs the forward of an open head first. */
export function opens({ model }: Segment, op: Op): boolean {
  return op.kind === "BR" && model.open === true;
}

/** The graphs that the steps run, in order. */
export function sequenceGraphs(
  segments: readonly Segment[],
  scheduled: readonly ScheduledProgram[],
): { readonly segment: Segment; readonly graph: Graph }[] {
  return scheduled.flatMap(({ op, graph }) => {
    if (!isComputation(op) || !graph) return [];
    const segment = segments[op.i - 1]!;
    return (opens(segment, op) ? [segment.model.forward, graph] : [graph]).map((own) => ({ segment, graph: own }));
  });
}
