import { isNamed } from "../../autodiff/selective.ts";
import { UserError } from "../../base/errors.ts";
import type { Segment } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";
import type { Residency } from "../../load/residency.ts";
import type { Programs } from "../../runtime/chain.ts";
import type { Executor } from "../../runtime/executor.ts";
import { type SequenceProgram, sequenceUses } from "../../runtime/streaming/weight-window.ts";
import { measureTemporary, settle } from "../../runtime/temporary.ts";
import { planWindow, windowWait } from "../../schedule/window.ts";
import type { Costs } from "./costs.ts";

/** Reads of weights that lie in their file, by a micro-batch. */
export interface StreamedReads {
  readonly bytes: number;
  /** Seconds that it waits for them. */
  wait(bandwidth: number): number;
}

/** The programs that add to gradients, from the last segment to the first: every schedule runs them in this order. */
export function backwardGraphs(segments: readonly Segment[]): { readonly graph: Graph; readonly params: Segment["params"] }[] {
  return segments.toReversed().flatMap(({ model, params }) => {
    const graph = model.fused ?? model.training?.backward;
    return graph ? [{ graph, params }] : [];
  });
}

/** Reads of a sequence of programs through the window; null: it reads none. */
export function streamingOf(
  sequence: readonly SequenceProgram[],
  seconds: readonly number[],
  { streamed, rowBytes, window }: Residency,
): StreamedReads | null {
  if (streamed.size === 0) return null;
  const { uses, starts } = sequenceUses(sequence, { streamed, rows: rowBytes });
  const plan = planWindow(uses, window);
  if (!plan) throw new Error(`a window of ${window} bytes is too small for ${sequence.length} programs`);
  const runs = seconds.map((each, i) => ({ seconds: each, from: starts[i]!, to: starts[i]! + sequence[i]!.program.commands }));
  return { bytes: plan.bytes, wait: (bandwidth) => windowWait(plan, uses, runs, bandwidth) };
}

/** Temporary memory of programs, which the executor's library then has: from before where it is known, or measured. */
export function temporaryBytes(
  executor: Executor,
  programs: Programs,
  graphs: readonly Graph[],
  costs: Pick<Costs, "temporaryOf" | "setTemporary"> | undefined,
): number {
  if (!executor.temporary) return 0;
  const known = costs?.temporaryOf(graphs);
  if (known !== undefined) return settle(executor.temporary, known);
  const bytes = measureTemporary(executor, graphs.map(programs.of));
  costs?.setTemporary(graphs, bytes);
  return bytes;
}

/** @throws {UserError} a name that means no value of any block */
export function checkNames(segments: readonly Segment[], names: readonly string[]): void {
  const nodes = segments.flatMap(({ model }) => (model.training ? model.forward.nodes : []));
  const values = nodes.flatMap((node) => node.outputs.map((value) => ({ value, node })));
  for (const name of names) {
    if (values.some(({ value, node }) => isNamed(name, value, node))) continue;
    const known = [...new Set(values.flatMap(({ value, node }) => [...value.split("."), node.op]))].filter((text) =>
      /^[a-z]/i.test(text),
    );
    throw new UserError(`no layer or operator of a block is named ${JSON.stringify(name)}; there are ${known.sort().join(", ")}`);
  }
}
