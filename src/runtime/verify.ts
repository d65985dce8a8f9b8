import { type Segment, tapedPrograms } from "../graph/segment.ts";
import { prune } from "../graph/passes.ts";
import { byteLength, type DType, type FloatType, type Graph, type TensorType, typeOf } from "../graph/types.ts";
import { toFloat32 } from "../hf/halves.ts";
import { bindProgram, type Places, type StepMemory } from "./bind.ts";
import { type Programs, tapeLayout } from "./chain.ts";
import { isComputation } from "../schedule/ops.ts";
import { type Address, align, type Call, type Executor } from "./executor.ts";
import type { ScheduledProgram } from "./scheduled.ts";

/**
 * Checks, while a schedule runs, that what is computed again comes out as it did the first time. The first forward of a
 * segment is followed by a *probe*: the same forward with every intermediate value as an output. Their checksums are what
 * replayed boundaries, and what a backward computes again, are compared with. A difference names the first operator.
 *
 * It takes about the time of another forward and of all that is computed again, and memory for the values of a segment.
 */
export interface Verifier {
  /** What to do before and after a step. */
  watch(step: ScheduledProgram, places: Places): { before(): void; after(): void };
  /** Remembers an item that is copied outside, and compares what has come back: always exactly. */
  copied(item: string, address: Address, bytes: number): void;
  fetched(item: string, address: Address, bytes: number): void;
  /** Forgets everything: another micro-batch begins. */
  begin(): void;
}

/** A value that was not the same again. */
export class ReplayError extends Error {
  override name = "ReplayError";
}

interface Probe {
  readonly graph: Graph;
  /** Values that it makes, in order of execution, with their places relative to the probe's memory. */
  readonly values: readonly { readonly name: string; readonly op: string; readonly offset: number; readonly type: TensorType }[];
  /** Bytes of values and workspace. */
  readonly bytes: number;
}

/** On the WebAssembly executor results are exact; elsewhere kernels may round differently from run to run. */
const TOLERANCE = 1e-4;

export function createVerifier(
  executor: Executor,
  programs: Programs,
  segments: readonly Segment[],
  memory: StepMemory,
): Verifier {
  const exact = executor.name.startsWith("wasm");
  const probes = new Map<Graph, Probe>();
  const models = new Set(segments.map((segment) => segment.model));
  for (const model of models) {
    if (model.fused) continue;
    probes.set(
      model.forward,
      probeOf(model.forward, () => true, programs),
    );
    const values = new Set(model.forward.nodes.flatMap((node) => node.outputs));
    for (const { backward } of tapedPrograms(model))
      probes.set(
        backward,
        probeOf(backward, (name) => values.has(name), programs),
      );
  }
  const arena = executor.reserve(Math.max(64, ...[...probes.values()].map((probe) => probe.bytes)));

  /** By segment: checksums of the values of its first forward. */
  const first = new Map<number, Map<string, Checksum>>();
  const outside = new Map<string, bigint | number>();

  const bind = (index: number, probe: Probe, k: number, places: Places): Call => {
    const segment = segments[index]!;
    // Addresses instead of offsets: tapes that are read lie in the stash, values that are written in the probe's memory.
    const offsets = new Map<string, Address>(probe.values.map(({ name, offset }) => [name, arena + offset]));
    const pair = tapedPrograms(segment.model)[k];
    const reads = probe.graph.inputs.some(({ role }) => role === "tape");
    if (pair && reads) for (const [name, offset] of tapeLayout(pair).offsets) offsets.set(name, places.tape() + offset);
    const workspace = arena + probe.bytes - align(programs.of(probe.graph).workspace);
    const boundary = probe.values.find(({ name }) =>
      probe.graph.outputs.some((output) => output.role === "boundary" && output.name === name),
    );
    return bindProgram(
      executor,
      programs,
      segment,
      index,
      probe.graph,
      memory,
      { offsets, bytes: 0 },
      {
        ...places,
        tape: () => 0,
        output: () => arena + (boundary?.offset ?? 0),
        workspace: () => workspace,
      },
    ).call;
  };

  const checksumsOf = (probe: Probe, call: Call): Map<string, Checksum> => {
    executor.run(call);
    return new Map(
      probe.values.map(({ name, offset, type }) => [name, checksum(executor.read(arena + offset, byteLength(type)), type.dtype)]),
    );
  };

  const compare = (index: number, probe: Probe, call: Call, when: string): void => {
    const known = first.get(index)!;
    const again = checksumsOf(probe, call);
    for (const { name, op } of probe.values) {
      const [before, now] = [known.get(name), again.get(name)];
      if (before && now && !agree(before, now, exact)) {
        throw new ReplayError(
          `replay check: in ${segments[index]!.name}, ${op} (${name}) is not what it was in the first forward, ${when}; ` +
            "the values before it are the same",
        );
      }
    }
  };

  return {
    begin() {
      first.clear();
      outside.clear();
    },
    copied(item, address, bytes) {
      outside.set(item, Bun.hash(executor.read(address, bytes)));
    },
    fetched(item, address, bytes) {
      if (outside.get(item) === Bun.hash(executor.read(address, bytes))) return;
      throw new ReplayError(`replay check: ${item} did not come back from outside as it was when it was copied`);
    },
    watch({ op, graph, k }, places) {
      const nothing = () => {};
      if (!isComputation(op) || !graph || segments[op.i - 1]!.model.fused) return { before: nothing, after: nothing };
      const index = op.i - 1;
      const { model } = segments[index]!;
      if (op.kind === "B") {
        const probe = probes.get(graph)!;
        if (probe.values.length === 0) return { before: nothing, after: nothing };
        const call = bind(index, probe, k, places);
        return { before: () => compare(index, probe, call, `when its backward computes it again`), after: nothing };
      }
      const probe = probes.get(model.forward)!;
      const call = bind(index, probe, k, places);
      const output = model.forward.outputs[0]!.name;
      const type = typeOf(model.forward, output);
      return {
        before: nothing,
        after() {
          const replayed = first.has(index);
          if (!replayed) first.set(index, checksumsOf(probe, call));
          if (
            agree(first.get(index)!.get(output)!, checksum(executor.read(places.output(), byteLength(type)), type.dtype), exact)
          )
            return;
          if (replayed) compare(index, probe, call, "when its forward is replayed");
          throw new ReplayError(
            `replay check: the output of ${segments[index]!.name} is not what its forward computes, although each operator by itself gives the same`,
          );
        },
      };
    },
  };
}

/** The part of a graph that makes the values that are wanted, with all of them as outputs. */
function probeOf(graph: Graph, wanted: (name: string) => boolean, programs: Programs): Probe {
  const made = graph.nodes
    .flatMap((node) => node.outputs.map((name) => ({ name, op: node.op })))
    .filter(({ name }) => wanted(name));
  const roles = new Map(graph.outputs.map(({ name, role }) => [name, role]));
  const probe = prune({
    ...graph,
    outputs: made.map(({ name }) => ({ name, role: roles.get(name) === "boundary" ? ("boundary" as const) : ("tape" as const) })),
  });
  let bytes = 0;
  const values = made.map(({ name, op }) => {
    const type = typeOf(graph, name);
    const value = { name, op, offset: bytes, type };
    bytes += align(byteLength(type));
    return value;
  });
  return { graph: probe, values, bytes: bytes + (made.length > 0 ? align(programs.of(probe).workspace) : 0) };
}

interface Checksum {
  readonly hash: number | bigint;
  readonly sum: number;
  readonly magnitude: number;
}

function checksum(bytes: Uint8Array, dtype: DType): Checksum {
  const values = toFloat32(bytes, dtype as FloatType);
  let [sum, magnitude] = [0, 0];
  for (const value of values) {
    sum += value;
    magnitude += Math.abs(value);
  }
  return { hash: Bun.hash(bytes), sum, magnitude };
}

function agree(a: Checksum, b: Checksum, exact: boolean): boolean {
  if (exact || a.hash === b.hash) return a.hash === b.hash;
  return Math.abs(a.sum - b.sum) + Math.abs(a.magnitude - b.magnitude) <= TOLERANCE * Math.max(a.magnitude, b.magnitude);
}
