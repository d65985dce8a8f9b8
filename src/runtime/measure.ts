import { type Segment, tapedPrograms } from "../graph/segment.ts";
import { byteLength, type Graph, type InputRole, type OutputRole, typeOf } from "../graph/types.ts";
import { type FloatType } from "../base/dtype.ts";
import { fromFloat32 } from "../base/float16.ts";
import { createRandom } from "../base/random.ts";
import { bindProgram, type Places, type StepMemory } from "./bind.ts";
import { type Programs, type TapeLayout, tapeLayout } from "./chain.ts";
import { type Address, align, type Executor } from "./executor.ts";
import { bindSequence } from "./streaming/sequence.ts";

/** Least runs of a program after its first, which is not counted: kernels are compiled and pages committed then. */
const RUNS = 3;
/** Short programs run until so many seconds have passed, but at most so often. */
const LEAST_SECONDS = 0.05;
const MOST_RUNS = 12;

/**
 * Times each distinct program of a chain on memory that is not in use: the arena between steps, `bytes` long. Boundaries
 * and gradients are filled with random numbers; weights, batch and parameter gradients are those of `memory`, and the
 * latter are added to. Returns the least seconds by graph; a program that does not fit, or whose time is known, is left out.
 */
export function measurePrograms(
  executor: Executor,
  programs: Programs,
  segments: readonly Segment[],
  memory: StepMemory,
  arena: Address,
  bytes: number,
  isKnown: (graph: Graph) => boolean = () => false,
  clock: () => number = () => performance.now() / 1000,
): Map<Graph, number> {
  const seconds = new Map<Graph, number>();
  const none: TapeLayout = { offsets: new Map(), bytes: 0 };
  const measure = (index: number, graph: Graph, layout: TapeLayout) => {
    if (seconds.has(graph) || isKnown(graph)) return;
    const parts = partsOf(graph, layout, programs.of(graph).workspace);
    // The tape comes first, so that a backward finds it where the taped forward has left it.
    const offsets = { tape: 0, input: 0, output: 0, outputGrad: 0, inputGrad: 0, workspace: 0 };
    let end = 0;
    for (const part of Object.keys(offsets) as (keyof typeof offsets)[]) {
      offsets[part] = arena + end;
      end += align(parts[part]);
    }
    if (end > bytes) return;
    const places = Object.fromEntries(Object.entries(offsets).map(([part, address]) => [part, () => address]));
    const segment = segments[index]!;
    const alone = bindSequence(executor, programs, [{ segment, graph }], memory, true);
    const where = places as unknown as Places;
    const { call } = bindProgram(executor, programs, segment, index, graph, memory, layout, where, alone?.places(0) ?? null);
    /** Seconds of a run, without those that it waits for weights. */
    const run = (): number => {
      if (alone) {
        alone.begin();
        return alone.run(0, call);
      }
      const begin = clock();
      executor.run(call);
      executor.wait?.();
      return clock() - begin;
    };
    fill(executor, graph, "boundary", offsets.input);
    fill(executor, graph, "output-grad", offsets.outputGrad);
    run();
    let [least, total] = [Infinity, 0];
    for (let count = 0; count < RUNS || (total < LEAST_SECONDS && count < MOST_RUNS); count++) {
      const time = run();
      least = Math.min(least, time);
      total += time;
    }
    // What else the machine does can only make a run longer.
    seconds.set(graph, least);
  };
  const seen = new Set<Segment["model"]>();
  segments.forEach(({ model }, index) => {
    if (seen.has(model)) return;
    seen.add(model);
    measure(index, model.forward, none);
    for (const pair of tapedPrograms(model)) {
      measure(index, pair.taped, tapeLayout(pair));
      measure(index, pair.backward, tapeLayout(pair));
    }
    if (model.fused) measure(index, model.fused, none);
  });
  return seconds;
}

type Part = keyof Omit<Places, "logits">;

/** Bytes that a program needs at each place. */
function partsOf(graph: Graph, layout: TapeLayout, workspace: number): Record<Part, number> {
  const sum = (values: readonly { name: string; role: InputRole | OutputRole }[], role: InputRole | OutputRole) =>
    values.filter((value) => value.role === role).reduce((bytes, { name }) => bytes + byteLength(typeOf(graph, name)), 0);
  return {
    input: sum(graph.inputs, "boundary"),
    output: sum(graph.outputs, "boundary"),
    tape: layout.bytes,
    outputGrad: sum(graph.inputs, "output-grad"),
    inputGrad: sum(graph.outputs, "input-grad"),
    workspace,
  };
}

/** Bytes that `fill` writes at a time: what is measured may be all that the process has left. */
const PIECE = 2 ** 16;

/** Random numbers for the input of a role, if there is one. */
function fill(executor: Executor, graph: Graph, role: InputRole, address: Address): void {
  const input = graph.inputs.find((each) => each.role === role);
  if (!input) return;
  const type = typeOf(graph, input.name);
  const bytes = byteLength(type);
  const random = createRandom(1, "measure");
  const values = new Float32Array(PIECE / 4);
  for (let i = 0; i < values.length; i++) values[i] = 2 * random.uniform() - 1;
  const piece = fromFloat32(values, type.dtype as FloatType);
  for (let at = 0; at < bytes; at += piece.length)
    executor.write(address + at, piece.subarray(0, Math.min(piece.length, bytes - at)));
}
