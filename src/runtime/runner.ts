import type { Segment, SegmentModel } from "../graph/segment.ts";
import type { Graph } from "../graph/types.ts";
import type { Schedule } from "../schedule/ops.ts";
import type { PlacedItem, Placement } from "../schedule/placement.ts";
import { bindProgram, type BoundProgram, type Places, type StepMemory } from "./bind.ts";
import { type Programs, type TapeLayout, tapeLayouts } from "./chain.ts";
import type { Address, Executor } from "./executor.ts";
import { schedulePrograms } from "./scheduled.ts";
import type { Verifier } from "./verify.ts";

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
  verifier?: Verifier,
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

  const steps: (BoundProgram & { readonly watch?: ReturnType<Verifier["watch"]> })[] = [];
  schedulePrograms(segments, schedule).forEach((program, step) => {
    const { op, graph, k } = program;
    if (op.kind === "DA" || op.kind === "DT" || !graph) return;
    const segment = segments[op.i - 1]!;
    const places: Places = {
      input: () => addressOf("boundary", op.i - 1, step),
      output: () => addressOf("boundary", op.i, step),
      tape: () => addressOf("tape", op.i, step),
      outputGrad: () => addressOf("gradient", op.i, step),
      inputGrad: () => addressOf("gradient", op.i - 1, step),
      workspace: () => addressOf("workspace", step, step),
    };
    const layout = layouts.get(segment.model)![k]!;
    const bound = bindProgram(executor, programs, segment, op.i - 1, graph, memory, layout, places);
    steps.push(verifier ? { ...bound, watch: verifier.watch(program, places) } : bound);
  });

  let end = arena;
  let runs = 0;
  const spent = new Float64Array(steps.length);
  return {
    run() {
      verifier?.begin();
      let begin = performance.now();
      steps.forEach((step, at) => {
        step.watch?.before();
        executor.run(step.call);
        step.watch?.after();
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
