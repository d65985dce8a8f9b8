import { type Segment, tapedPrograms } from "../graph/segment.ts";
import { byteLength, typeOf } from "../graph/types.ts";
import { type DType } from "../base/dtype.ts";
import { widen } from "../base/float16.ts";
import { bindProgram, type Places, type StepMemory } from "./bind.ts";
import { type Programs, tapeLayout } from "./chain.ts";
import { isComputation } from "../schedule/ops.ts";
import { type Address, align, type Call, type Executor, PIECE, readPieces } from "./executor.ts";
import type { Probe, Probes } from "./probes.ts";
import type { ScheduledProgram } from "./scheduled.ts";

/**
 * Checks, while a schedule runs, that what is computed again comes out as it did the first time. The first forward of a
 * segment is followed by its probe. The checksums of all its values are what replayed boundaries, and what a backward
 * computes again, are compared with. A difference names the first operator.
 *
 * It takes about the time of another forward and of all that is computed again.
 */
export interface Verifier {
  /** Returns what is to be done before and after a step. */
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

/** On the WebAssembly executor results are exact; elsewhere kernels may round differently from run to run. */
const TOLERANCE = 1e-4;

/** `arena` has the probes' bytes. */
export function createVerifier(
  executor: Executor,
  programs: Programs,
  segments: readonly Segment[],
  memory: StepMemory,
  probes: Probes,
  arena: Address,
): Verifier {
  const exact = executor.name.startsWith("wasm");
  // Values are read piece by piece: all of a step together are many times what a segment takes.
  const piece = new Uint8Array(PIECE);
  const checksum = (address: Address, bytes: number, dtype: DType): Checksum =>
    checksumOf(readPieces(executor, address, bytes, piece), dtype, exact);
  const hash = (address: Address, bytes: number) => hashOf(readPieces(executor, address, bytes, piece));

  /** By segment: checksums of the values of its first forward. */
  const first = new Map<number, Map<string, Checksum>>();
  const outside = new Map<string, bigint>();

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
    return new Map(probe.values.map(({ name, offset, type }) => [name, checksum(arena + offset, byteLength(type), type.dtype)]));
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
      outside.set(item, hash(address, bytes));
    },
    fetched(item, address, bytes) {
      if (outside.get(item) === hash(address, bytes)) return;
      throw new ReplayError(`replay check: ${item} did not come back from outside as it was when it was copied`);
    },
    watch({ op, graph, k }, places) {
      const nothing = () => {};
      if (!isComputation(op) || !graph || segments[op.i - 1]!.model.fused) return { before: nothing, after: nothing };
      const index = op.i - 1;
      const { model } = segments[index]!;
      if (op.kind === "B") {
        const probe = probes.of(graph);
        if (probe.values.length === 0) return { before: nothing, after: nothing };
        const call = bind(index, probe, k, places);
        return { before: () => compare(index, probe, call, `when its backward computes it again`), after: nothing };
      }
      const probe = probes.of(model.forward);
      const call = bind(index, probe, k, places);
      const output = model.forward.outputs[0]!.name;
      const type = typeOf(model.forward, output);
      return {
        before: nothing,
        after() {
          const replayed = first.has(index);
          if (!replayed) first.set(index, checksumsOf(probe, call));
          const now = checksum(places.output(), byteLength(type), type.dtype);
          if (agree(first.get(index)!.get(output)!, now, exact)) return;
          if (replayed) compare(index, probe, call, "when its forward is replayed");
          throw new ReplayError(
            `replay check: the output of ${segments[index]!.name} is not what its forward computes, although each operator by itself gives the same`,
          );
        },
      };
    },
  };
}

interface Checksum {
  readonly hash: bigint;
  /** The sums of values and of their magnitudes; 0 where the hash alone decides. */
  readonly sum: number;
  readonly magnitude: number;
}

function hashOf(pieces: Iterable<Uint8Array>): bigint {
  let hash = 0n;
  for (const piece of pieces) hash = Bun.hash.wyhash(piece, hash);
  return hash;
}

/** `pieces` of whole, aligned elements. */
function checksumOf(pieces: Iterable<Uint8Array>, dtype: DType, exact: boolean): Checksum {
  if (exact) return { hash: hashOf(pieces), sum: 0, magnitude: 0 };
  let hash = 0n;
  let [sum, magnitude] = [0, 0];
  const wide = new Float32Array(PIECE / 2);
  for (const piece of pieces) {
    hash = Bun.hash.wyhash(piece, hash);
    for (const value of floats(piece, dtype, wide)) {
      sum += value;
      magnitude += Math.abs(value);
    }
  }
  return { hash, sum, magnitude };
}

/** A view of f32 values, or halves widened into `wide`. */
function floats({ buffer, byteOffset, byteLength }: Uint8Array, dtype: DType, wide: Float32Array): Float32Array {
  if (dtype !== "bf16" && dtype !== "f16") return new Float32Array(buffer, byteOffset, byteLength / 4);
  const values = wide.subarray(0, byteLength / 2);
  widen(new Uint16Array(buffer, byteOffset, byteLength / 2), dtype, values);
  return values;
}

function agree(a: Checksum, b: Checksum, exact: boolean): boolean {
  if (exact || a.hash === b.hash) return a.hash === b.hash;
  return Math.abs(a.sum - b.sum) + Math.abs(a.magnitude - b.magnitude) <= TOLERANCE * Math.max(a.magnitude, b.magnitude);
}
