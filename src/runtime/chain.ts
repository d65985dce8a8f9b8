import type { Segment, SegmentModel } from "../graph/segment.ts";
import { byteLength, elements, type Graph, typeOf } from "../graph/types.ts";
import { type Chain, makeChain } from "../schedule/chain.ts";
import { align, type Executor, type Program } from "./executor.ts";

/** Compiled programs, each graph once. */
export interface Programs {
  of(graph: Graph): Program;
}

export function createPrograms(executor: Executor): Programs {
  const compiled = new Map<Graph, Program>();
  return {
    of(graph) {
      let program = compiled.get(graph);
      if (!program) compiled.set(graph, (program = executor.prepare(graph)));
      return program;
    },
  };
}

/** A tape is one item of the stash: its tensors stand one behind the other, each aligned. */
export interface TapeLayout {
  readonly offsets: ReadonlyMap<string, number>;
  readonly bytes: number;
}

export function tapeLayout({ training }: SegmentModel): TapeLayout {
  const offsets = new Map<string, number>();
  let bytes = 0;
  for (const name of training?.tape ?? []) {
    offsets.set(name, bytes);
    bytes += align(byteLength(typeOf(training!.taped, name)));
  }
  return { offsets, bytes };
}

/** Bytes of the boundary that a segment takes in; 0 for the first one, whose input is the batch. */
export function boundaryBytes(segment: Segment): number {
  const { forward } = segment.model;
  const input = forward.inputs.find(({ role }) => role === "boundary");
  return input ? align(byteLength(typeOf(forward, input.name))) : 0;
}

/**
 * The chain of a model on an executor: sizes exact from the programs' memory plans, times modelled from operation
 * counts (seconds at a nominal speed; only their ratios matter to a planner). The loss and its seed gradient are
 * resident and do not count.
 */
export function buildChain(segments: readonly Segment[], programs: Programs): Chain {
  const workspace = (graph: Graph | undefined) => (graph ? align(programs.of(graph).workspace) : 0);
  const backwardOf = ({ model }: Segment) => model.training?.backward ?? model.fused;
  const frozen = segments.findIndex((segment) => backwardOf(segment) !== null);
  const a = [...segments.map(boundaryBytes), 0];
  return makeChain({
    a,
    g: a.map((bytes, j) => (j > frozen && j < segments.length && hasGradient(segments[j]!) ? bytes : 0)),
    r: segments.map((segment) => tapeLayout(segment.model).bytes),
    uf: segments.map(({ model }) => modelledSeconds(model.forward)),
    ub: segments.map(({ model }) => (model.training ? modelledSeconds(model.training.backward) : 0)),
    of: segments.map(({ model }) => workspace(model.forward)),
    ot: segments.map(({ model }) => workspace(model.training?.taped)),
    ob: segments.map(({ model }) => workspace(model.training?.backward)),
    frozen,
    replay: segments.map(({ model }) => (model.fused ? { ub: modelledSeconds(model.fused), ob: workspace(model.fused) } : null)),
  });
}

/** Whether a segment's backward outputs the gradient of its input boundary. */
function hasGradient({ model }: Segment): boolean {
  const backward = model.training?.backward ?? model.fused;
  return backward !== null && backward.outputs.some((output) => output.role === "input-grad");
}

const NOMINAL_FLOPS = 60e9;
const NOMINAL_BYTES = 8e9;

/** Time of a program from the operations of its products and the bytes that the other operators touch. */
export function modelledSeconds(graph: Graph): number {
  let seconds = 0;
  for (const node of graph.nodes) {
    const size = (i: number) => elements(typeOf(graph, node.inputs[i]!).shape);
    const dim = (i: number, axis: number) => typeOf(graph, node.inputs[i]!).shape[axis]!;
    switch (node.op) {
      case "Gemm": {
        const rows = elements(typeOf(graph, node.outputs[0]!).shape);
        seconds += (2 * rows * (node.attrs["transA"] ? dim(0, 0) : dim(0, 1))) / NOMINAL_FLOPS;
        break;
      }
      case "CausalAttention":
        seconds += (2 * dim(0, 0) * size(0)) / NOMINAL_FLOPS;
        break;
      case "CausalAttentionGrad":
        seconds += (5 * dim(0, 0) * size(0)) / NOMINAL_FLOPS;
        break;
      case "LinearCrossEntropy":
        seconds += (2 * dim(0, 0) * size(1)) / NOMINAL_FLOPS;
        break;
      case "LinearCrossEntropyGrad":
        seconds += ((node.inputs[5] ? 6 : 4) * dim(0, 0) * size(1)) / NOMINAL_FLOPS;
        break;
      default: {
        const values = [...node.inputs.filter((input) => input !== ""), ...node.outputs];
        seconds += values.reduce((bytes, value) => bytes + byteLength(typeOf(graph, value)), 0) / NOMINAL_BYTES;
      }
    }
  }
  return seconds;
}
