import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { type Address, align, type Executor, type Program, type TemporaryMemory } from "./executor.ts";

/** Share of the largest program's temporary memory from which on programs may need more than it in the same piece. */
const NEAR = 0.75;

/**
 * Bytes of temporary memory that `programs` take in all, in any order: a library reuses the memory of one for the next. Each is
 * run alone, on memory without a meaning (no shape depends on values), and what the largest has grown to is then there in one
 * piece, from which the others are cut. Grown bit by bit it would have holes that nothing fits into. 0 where all memory is planned.
 */
export function measureTemporary(executor: Executor, programs: readonly Program[]): number {
  const { temporary } = executor;
  if (!temporary || programs.length === 0) return 0;
  const [inputs, outputs] = [mostBytes(programs, "inputs"), mostBytes(programs, "outputs")];
  const [given, made] = [mostBytes(programs, "inputs", isWhole), mostBytes(programs, "outputs", isWhole)];
  const taken = temporary.borrow(given + made + inputs + outputs, (scratch) => {
    // Indices must be valid, as 0 is, and those that a program makes and reads again. They lie apart from what else it writes.
    executor.zero(scratch, given);
    const places = {
      inputs: { whole: scratch, other: scratch + given + made },
      outputs: { whole: scratch + given, other: scratch + given + made + inputs },
    };
    const run = (program: Program) => executor.run(executor.bind(program, scratchAddresses(program.graph, places), 0));
    const bytes = programs.map((program) => {
      temporary.reset(0);
      run(program);
      return temporary.bytes;
    });
    const largest = Math.max(...bytes);
    temporary.reset(largest);
    programs.forEach((program, i) => bytes[i]! >= NEAR * largest && run(program));
    return temporary.bytes;
  });
  return settle(temporary, taken);
}

/** Has what was measured in one piece. Returns the bytes that are taken then. */
export function settle(temporary: TemporaryMemory, bytes: number): number {
  temporary.reset(bytes);
  return temporary.bytes;
}

const isWhole = (dtype: string): boolean => /^[iu]\d/.test(dtype);

/** Bytes of the largest input or output. */
function mostBytes(programs: readonly Program[], side: "inputs" | "outputs", wanted: (dtype: string) => boolean = () => true) {
  const sizes = programs.flatMap(({ graph }) =>
    graph[side].map(({ name }) => typeOf(graph, name)).map((type) => (wanted(type.dtype) ? align(byteLength(type)) : 0)),
  );
  return Math.max(0, ...sizes);
}

type Places = Readonly<Record<"inputs" | "outputs", { readonly whole: Address; readonly other: Address }>>;

/** All inputs of whole numbers in one place, all other inputs in another, and outputs likewise. */
function scratchAddresses(graph: Graph, places: Places): Map<string, Address> {
  const sides = ["inputs", "outputs"] as const;
  return new Map(
    sides.flatMap((side) =>
      graph[side].map(({ name }) => [name, places[side][isWhole(typeOf(graph, name).dtype) ? "whole" : "other"]] as const),
    ),
  );
}
