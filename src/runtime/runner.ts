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
  /** Mean seconds of each program in the runs after the first, and how often one run runs it. */
  seconds(): ReadonlyMap<Graph, { readonly mean: number; readonly calls: number }>;
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
  schedulePrograms(segments, schedule).forEach(({ op, graph, k }, step) => {
    if (op.kind === "DA" || op.kind === "DT" || !graph) return;
    const segment = segments[op.i - 1]!;
    steps.push(
      bindProgram(executor, programs, segment, op.i - 1, graph, memory, layouts.get(segment.model)![k]!, {
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
  let runs = 0;
  const spent = new Float64Array(steps.length);
  return {
    run() {
      let begin = performance.now();
      steps.forEach((step, at) => {
        executor.run(step.call);
        if (step.end > end) end = step.end;
        const now = performance.now();
        // The first run commits pages.
        if (runs > 0) spent[at]! += (now - begin) / 1000;
        begin = now;
      });
      runs++;
    },
    get touched() {
      return end - arena;
    },
    seconds() {
      const sums = new Map<Graph, { seconds: number; calls: number }>();
      steps.forEach(({ call }, at) => {
        const { graph } = call.program;
        const { seconds, calls } = sums.get(graph) ?? { seconds: 0, calls: 0 };
        sums.set(graph, { seconds: seconds + spent[at]!, calls: calls + 1 });
      });
      return new Map(
        [...sums].map(([graph, { seconds, calls }]) => [graph, { mean: seconds / calls / Math.max(1, runs - 1), calls }]),
      );
    },
  };
}

/** A step of a schedule with its program (null for drops) and the variant of the tape that it writes or reads. */
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
    if (op.kind === "DA" || op.kind === "DT") return { op, graph: null, k: 0 };
    if (op.kind === "FA") held.set(op.i, op.k);
    const k = held.get(op.i) ?? 0;
    const { name, model } = segments[op.i - 1]!;
    const pair = tapedPrograms(model)[k];
    const graph = { FN: model.forward, FC: model.forward, FA: pair?.taped, B: pair?.backward, BR: model.fused }[op.kind];
    if (!graph) throw new Error(`${name}: the schedule asks for ${op.kind} (variant ${k}), for which there is no program`);
    return { op, graph, k };
  });
}
