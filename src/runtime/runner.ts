import { type Segment, type SegmentModel, tapedPrograms } from "../graph/segment.ts";
import type { Graph } from "../graph/types.ts";
import type { Op, Schedule } from "../schedule/ops.ts";
import type { PlacedItem, Placement } from "../schedule/placement.ts";
import { bindProgram, type BoundProgram, type StepMemory } from "./bind.ts";
import { type Programs, type TapeLayout, tapeLayouts } from "./chain.ts";
import type { Address, Executor } from "./executor.ts";

/** A schedule bound to memory: running it is a fixed list of calls, with nothing allocated on the way. */
export interface Runner {
  /** One forward and backward of one micro-batch. */
  run(): void;
  /** Bytes from the arena's start to the highest address that the steps run so far could touch. */
  readonly touched: number;
}

/** Binds each step of a schedule to the places that `placement` gives its items in the arena. */
export function createRunner(
  executor: Executor,
  programs: Programs,
  segments: readonly Segment[],
  schedule: Schedule,
  placement: Placement,
  arena: Address,
  memory: StepMemory,
): Runner {
  const layouts = new Map<SegmentModel, readonly TapeLayout[]>();
  for (const { model } of segments) if (!layouts.has(model)) layouts.set(model, tapeLayouts(model));
  const items = new Map<string, PlacedItem[]>();
  for (const item of placement.items) {
    const key = `${item.kind} ${item.index}`;
    const twins = items.get(key);
    if (twins) twins.push(item);
    else items.set(key, [item]);
  }
  const addressOf = (kind: PlacedItem["kind"], index: number, step: number): Address => {
    const item = items.get(`${kind} ${index}`)?.find(({ first, last }) => first <= step && step <= last);
    if (!item) throw new Error(`step ${step}: ${kind} ${index} has no place in the arena`);
    return arena + item.offset;
  };

  const steps: BoundProgram[] = [];
  /** Variant of the tape that each segment has at the time. */
  const held = new Map<number, number>();
  schedule.forEach((op, step) => {
    if (op.kind === "DA" || op.kind === "DT") return;
    const segment = segments[op.i - 1]!;
    if (op.kind === "FA") held.set(op.i, op.k);
    const k = held.get(op.i) ?? 0;
    steps.push(
      bindProgram(executor, programs, segment, op.i - 1, graphOf(segment, op, k), memory, layouts.get(segment.model)![k]!, {
        input: () => addressOf("boundary", op.i - 1, step),
        output: () => addressOf("boundary", op.i, step),
        tape: () => addressOf("tape", op.i, step),
        outputGrad: () => addressOf("gradient", op.i, step),
        inputGrad: () => addressOf("gradient", op.i - 1, step),
        workspace: () => addressOf("workspace", step, step),
      }),
    );
  });

  let end = arena;
  return {
    run() {
      for (const step of steps) {
        executor.run(step.call);
        if (step.end > end) end = step.end;
      }
    },
    get touched() {
      return end - arena;
    },
  };
}

function graphOf({ name, model }: Segment, { kind }: Op, k: number): Graph {
  const pair = tapedPrograms(model)[k];
  const graph = { FA: pair?.taped, B: pair?.backward, BR: model.fused, FN: model.forward, FC: model.forward, DA: null, DT: null }[
    kind
  ];
  if (!graph) throw new Error(`${name}: the schedule asks for ${kind} (variant ${k}), for which there is no program`);
  return graph;
}
