import type { Segment, SegmentModel } from "../graph/segment.ts";
import type { Graph } from "../graph/types.ts";
import { type Computation, isComputation, movedItem, type Op, type Schedule } from "../schedule/ops.ts";
import type { PlacedItem, Placement } from "../schedule/placement.ts";
import { bindProgram, type BoundProgram, type Places, type StepMemory } from "./bind.ts";
import { type Programs, type TapeLayout, tapeLayouts } from "./chain.ts";
import type { Address, Executor } from "./executor.ts";
import type { OffloadMemory } from "./offload-memory.ts";
import { opens, schedulePrograms, sequenceGraphs } from "./scheduled.ts";
import type { Verifier } from "./verify.ts";
import { bindSequence } from "./streaming/sequence.ts";

/** A schedule bound to memory: running it is a fixed list of calls, with nothing allocated on the way. */
export interface Runner {
  /**
   * One forward and backward of one micro-batch. With an open head `weigh` is called when the losses of all tokens are there, and leaves the
   * scales with which the backward begins.
   */
  run(weigh?: () => void): void;
  /** Bytes from the arena's start to the highest address that the steps run so far could touch. */
  readonly touched: number;
  /** Mean seconds of each program in the runs after the first, and how often one run runs it. */
  seconds(): ReadonlyMap<Graph, { readonly mean: number; readonly calls: number }>;
}

export interface RunnerOptions {
  readonly verifier?: Verifier | undefined;
  /** Where a schedule with offload copies to, and the bytes of unfinished copies at most. */
  readonly offload?: { readonly outside: OffloadMemory; readonly inFlight: number } | undefined;
}

interface BoundStep {
  /** Begins transfers and waits for them. */
  readonly before?: () => void;
  /** Null for steps between computations. */
  readonly program: BoundProgram | null;
  readonly watch?: ReturnType<Verifier["watch"]> | undefined;
  readonly after?: (() => void) | undefined;
  /** Items that nothing reads behind it, where a device is to know. */
  readonly dying?: readonly PlacedItem[] | undefined;
  /** It is the forward of an open head, in front of its backward. */
  readonly opens?: true;
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
  { verifier, offload }: RunnerOptions = {},
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
  const itemAt = (kind: PlacedItem["kind"], index: number, step: number): PlacedItem => {
    const item = items.get(`${kind} ${index}`)?.find(({ first, last }) => first <= step && step <= last);
    if (!item) throw new Error(`step ${step}: ${kind} ${index} has no place in the arena`);
    return item;
  };
  const addressOf = (kind: PlacedItem["kind"], index: number, step: number): Address => arena + itemAt(kind, index, step).offset;

  const transfers = offload && bindTransfers(offload, itemAt, arena, verifier);
  const { mirror } = executor;
  const dyingAt = mirror && Map.groupBy(placement.items, ({ last }) => last);
  const scheduled = schedulePrograms(segments, schedule);
  const sequence = bindSequence(executor, programs, sequenceGraphs(segments, scheduled), memory);
  let bound = 0;
  const steps = scheduled.flatMap((program, step): BoundStep | BoundStep[] => {
    const { op, graph, k } = program;
    const end = { dying: dyingAt?.get(step) };
    if (!isComputation(op) || !graph) {
      if (!transfers && op.kind !== "DA" && op.kind !== "DT") throw new Error(`step ${step}: there is nowhere to copy to`);
      return { ...(transfers && { before: transfers.moving(op, step) }), program: null, ...end };
    }
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
    const bind = (own: Graph) =>
      bindProgram(executor, programs, segment, op.i - 1, own, memory, layout, places, sequence?.places(bound++) ?? null);
    const opening = opens(segment, op) ? bind(segment.model.forward) : null;
    const { before, ...rest } = { watch: verifier?.watch(program, places), ...transfers?.around(op) };
    const first = before && { before };
    if (opening === null) return { ...first, ...rest, program: bind(graph), ...end };
    return [
      { ...first, program: opening, opens: true },
      { ...rest, program: bind(graph), ...end },
    ];
  });

  let end = arena;
  let runs = 0;
  // Where programs overlap with what the process does, each is waited for in the first runs alone.
  const most = executor.wait ? TIMED : Infinity;
  const isTimed = () => runs < most;
  const spent = new Float64Array(steps.length);
  return {
    run(weigh) {
      verifier?.begin();
      sequence?.begin();
      for (const { address, bytes } of memory.carried.gradients) executor.zero(address, bytes);
      let next = 0;
      const forget = (items: readonly PlacedItem[] = []) =>
        items.forEach(({ offset, bytes }) => mirror?.forget(arena + offset, bytes));
      steps.forEach(({ before, program, watch, after, dying, opens }, at) => {
        before?.();
        if (!program) return forget(dying);
        watch?.before();
        const run = () => {
          executor.run(program.call);
          if (isTimed()) executor.wait?.();
        };
        const seconds = sequence ? sequence.run(next++, program.call) : timed(run);
        // The first run commits pages.
        if (runs > 0 && isTimed()) spent[at]! += seconds;
        watch?.after();
        if (program.end > end) end = program.end;
        after?.();
        forget(dying);
        if (!opens) return;
        if (!weigh) throw new Error("an open head needs somebody who weighs its tokens");
        weigh();
      });
      if (transfers) {
        offload.outside.finish();
        end = Math.max(end, transfers.end());
      }
      runs++;
    },
    get touched() {
      return end - arena;
    },
    seconds() {
      const sums = new Map<Graph, { seconds: number; calls: number }>();
      steps.forEach(({ program }, at) => {
        if (!program) return;
        const { graph } = program.call.program;
        const { seconds, calls } = sums.get(graph) ?? { seconds: 0, calls: 0 };
        sums.set(graph, { seconds: seconds + spent[at]!, calls: calls + 1 });
      });
      return new Map(
        [...sums].map(([graph, { seconds, calls }]) => [
          graph,
          { mean: seconds / calls / Math.max(1, Math.min(runs, most) - 1), calls },
        ]),
      );
    },
  };
}

/** Runs in which programs are timed that `run` does not wait for. */
const TIMED = 5;

function timed(run: () => void): number {
  const begin = performance.now();
  run();
  return (performance.now() - begin) / 1000;
}

/** The steps of a schedule that move bytes, bound to addresses, and what computations wait for. */
function bindTransfers(
  { outside, inFlight }: NonNullable<RunnerOptions["offload"]>,
  itemAt: (kind: PlacedItem["kind"], index: number, step: number) => PlacedItem,
  arena: Address,
  verifier: Verifier | undefined,
) {
  /** By item: tickets of its copy and its fetch in this run, or in the one before. */
  const copies = new Map<string, number>();
  const fetches = new Map<string, { readonly ticket: number; readonly address: Address; readonly bytes: number }>();
  let end = 0;
  const awaitCopy = (key: string) => {
    const ticket = copies.get(key);
    if (ticket !== undefined) outside.wait("out", ticket);
  };
  const awaitFetch = (key: string) => {
    const fetch = fetches.get(key);
    if (!fetch) return;
    outside.wait("in", fetch.ticket);
    verifier?.fetched(key, fetch.address, fetch.bytes);
    fetches.delete(key);
  };
  return {
    /** End of the highest item that is copied or fetched. */
    end: () => end,
    moving(op: Op, step: number): () => void {
      const { kind, index } = movedItem(op)!;
      const key = `${kind} ${index}`;
      if (op.kind === "DA" || op.kind === "DT") {
        return () => {
          awaitFetch(key);
          awaitCopy(key);
        };
      }
      const { offset, bytes } = itemAt(kind, index, step);
      if (bytes === 0) return () => {};
      const address = arena + offset;
      const place = outside.reserve(key, bytes);
      end = Math.max(end, address + bytes);
      if (op.kind === "OA" || op.kind === "OT") {
        return () => {
          awaitFetch(key);
          verifier?.copied(key, address, bytes);
          copies.set(key, outside.copy(address, bytes, place, inFlight));
        };
      }
      return () => void fetches.set(key, { ticket: outside.fetch(address, bytes, place, copies.get(key)!), address, bytes });
    },
    /** Returns what a computation waits for: fetches of what it reads, and copies of what is freed behind it. */
    around(op: Computation): Pick<BoundStep, "before" | "after"> {
      const keys = [`boundary ${op.i - 1}`, `tape ${op.i}`];
      const frees = op.kind === "FN" || op.kind === "B" || op.kind === "BR";
      return { before: () => keys.forEach(awaitFetch), after: frees ? () => keys.forEach(awaitCopy) : undefined };
    },
  };
}
