import { type Segment, type SegmentModel, tapedPrograms, type TrainingPrograms } from "../graph/segment.ts";
import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { modelledSeconds } from "../ops/modelled-time.ts";
import { type Chain, type Link, makeChain, type Replay, type Variant } from "../schedule/chain.ts";
import { align, ALIGNMENT, type Executor, type Program } from "./executor.ts";

/** Compiled programs, each graph once. */
export interface Programs {
  of(graph: Graph): Program;
  /** All graphs compiled so far. */
  graphs(): readonly Graph[];
}

export function createPrograms(executor: Executor): Programs {
  const compiled = new Map<Graph, Program>();
  return {
    of(graph) {
      let program = compiled.get(graph);
      if (!program) compiled.set(graph, (program = executor.prepare(graph)));
      return program;
    },
    graphs: () => [...compiled.keys()],
  };
}

/** A tape is one item of the stash: its tensors stand one behind the other, each aligned. */
export interface TapeLayout {
  readonly offsets: ReadonlyMap<string, number>;
  readonly bytes: number;
}

export function tapeLayout({ taped, tape }: TrainingPrograms): TapeLayout {
  const offsets = new Map<string, number>();
  let bytes = 0;
  for (const name of tape) {
    offsets.set(name, bytes);
    bytes += align(byteLength(typeOf(taped, name)));
  }
  return { offsets, bytes };
}

/** Layouts of a segment's tapes by variant, k = 0 first; one without a tape has an empty one. */
export function tapeLayouts(model: SegmentModel): readonly TapeLayout[] {
  const layouts = tapedPrograms(model).map(tapeLayout);
  return layouts.length > 0 ? layouts : [{ offsets: new Map(), bytes: 0 }];
}

/** Bytes of the boundary that a segment takes in; 0 for the first one, whose input is the batch. */
export function boundaryBytes(segment: Segment): number {
  const { forward } = segment.model;
  const input = forward.inputs.find(({ role }) => role === "boundary");
  return input ? align(byteLength(typeOf(forward, input.name))) : 0;
}

/** Seconds of a program: modelled, or measured where they are known. */
export type SecondsOf = (graph: Graph) => number;

/**
 * The chain of a model on an executor: sizes exact from the programs' memory plans, times from `seconds` (by default
 * modelled at a nominal speed, of which only the ratios matter to a planner). The loss and its seed gradient are
 * resident and do not count.
 */
export function buildChain(
  segments: readonly Segment[],
  programs: Programs,
  seconds: SecondsOf = modelledSeconds,
  offload: ChainOffload | null = null,
): Chain {
  const alignment = offload?.alignment ?? ALIGNMENT;
  const rows = new Map<SegmentModel, ModelRow>();
  const row = ({ model }: Segment): ModelRow => {
    let made = rows.get(model);
    if (!made) rows.set(model, (made = modelRow(model, programs, seconds, alignment)));
    return made;
  };
  const frozen = segments.findIndex((segment) => row(segment).trains);
  const a = [...segments.map((segment) => row(segment).input), 0];
  return makeChain({
    a,
    g: a.map((bytes, j) => (j > frozen && j < segments.length && row(segments[j]!).inputGradient ? bytes : 0)),
    r: segments.map((segment) => row(segment).tapes[0]!.r),
    uf: segments.map((segment) => row(segment).uf),
    ub: segments.map((segment) => row(segment).tapes[0]!.ub),
    of: segments.map((segment) => row(segment).of),
    ot: segments.map((segment) => row(segment).tapes[0]!.of),
    ob: segments.map((segment) => row(segment).tapes[0]!.ob),
    frozen,
    variants: segments.map((segment) => row(segment).tapes.slice(1)),
    replay: segments.map((segment) => row(segment).replay),
    offload: offload?.link ?? null,
  });
}

/** Where items may go, and what their sizes are multiples of so that they can. */
export interface ChainOffload {
  readonly link: Link;
  readonly alignment: number;
}

/** Describes what all segments of one model have in common. */
interface ModelRow {
  readonly trains: boolean;
  /** Bytes of the boundary that it takes in, and whether the backward outputs its gradient. */
  readonly input: number;
  readonly inputGradient: boolean;
  readonly uf: number;
  readonly of: number;
  /** By tape variant, k = 0 first; a stand-in when the segment has no taped programs. */
  readonly tapes: readonly Variant[];
  readonly replay: Replay | null;
}

function modelRow(model: SegmentModel, programs: Programs, seconds: SecondsOf, alignment: number): ModelRow {
  const workspace = (graph: Graph) => align(programs.of(graph).workspace, alignment);
  const tapes = tapedPrograms(model).map((pair) => ({
    uf: seconds(pair.taped),
    ub: seconds(pair.backward),
    r: align(tapeLayout(pair).bytes, alignment),
    of: workspace(pair.taped),
    ob: workspace(pair.backward),
  }));
  // The fused program of an open head follows its forward, one in the workspace of the other.
  const ending = model.fused && (model.open ? [model.forward, model.fused] : [model.fused]);
  const replay = ending && {
    ub: ending.reduce((sum, graph) => sum + seconds(graph), 0),
    ob: Math.max(...ending.map(workspace)),
  };
  // Dearer than the fused program, so that no planner asks for it.
  const untaped = { uf: seconds(model.forward), of: workspace(model.forward), r: 0, ub: replay?.ub ?? 0, ob: replay?.ob ?? 0 };
  const backward = model.training?.backward ?? model.fused;
  const input = model.forward.inputs.find(({ role }) => role === "boundary");
  return {
    trains: backward !== null,
    input: input ? align(byteLength(typeOf(model.forward, input.name)), alignment) : 0,
    inputGradient: backward !== null && backward.outputs.some((output) => output.role === "input-grad"),
    uf: seconds(model.forward),
    of: workspace(model.forward),
    tapes: tapes.length > 0 ? tapes : [untaped],
    replay,
  };
}
