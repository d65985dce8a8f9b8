import type { Segment } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";
import type { StepMemory, StreamedPlaces } from "../bind.ts";
import type { Programs } from "../chain.ts";
import type { Call, Executor } from "../executor.ts";
import { bindGradients } from "./gradient-window.ts";
import { bindWindow, sequenceProgram } from "./weight-window.ts";

/** Programs that run one after the other, of which some weights or gradients pass through windows. */
export interface StreamedSequence {
  /** The places of program `index`, for `bindProgram`. */
  places(index: number): StreamedPlaces;
  /** Begins a run of the whole sequence. */
  begin(): void;
  /** Runs program `index`, the one behind that of the last call. Returns the seconds that it computed. */
  run(index: number, call: Call): number;
}

/** Binds a sequence to the windows of `memory`; null: it has none. @param isDry gradients are neither read nor kept */
export function bindSequence(
  executor: Executor,
  programs: Programs,
  sequence: readonly { readonly segment: Segment; readonly graph: Graph }[],
  { window, gradients }: Pick<StepMemory, "window" | "gradients">,
  isDry = false,
): StreamedSequence | null {
  if (!window) return null;
  const parts = sequence.map(({ segment, graph }) => sequenceProgram(executor, programs, segment, graph));
  const weights = bindWindow(executor, window, parts);
  const added = gradients
    ? bindGradients(
        executor,
        gradients,
        sequence.map(({ segment, graph }) => ({ graph, params: segment.params })),
      )
    : null;
  const rowLists = (index: number) => {
    const { params, gathered } = parts[index]!;
    return new Set([...gathered].flatMap(([input, list]) => (window.rows.has(params.get(input)!) ? [list] : [])));
  };
  return {
    places: (index) => ({
      reads: weights.places(index),
      rowLists: rowLists(index),
      gradients: added && added.places(index),
    }),
    begin: () => weights.begin(),
    run(index, call) {
      if (!isDry) added?.before(index);
      const seconds = weights.run(index, call);
      if (!isDry) added?.after(index);
      return seconds;
    },
  };
}
