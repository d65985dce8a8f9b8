import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { weightInputs } from "../graph/weight-inputs.ts";

/** A byte address in the executor's memory. */
export type Address = number;

/** A graph compiled for one executor. It may run with any bindings; identical segments share it. */
export interface Program {
  readonly graph: Graph;
  /** Bytes of temporary memory while the program runs, exact, from the executor's own memory plan. */
  readonly workspace: number;
  /** The commands that it consists of: a run may pause between two. */
  readonly commands: number;
  /** Which commands read weights (inputs of role `param` that the program does not update), in order. */
  readonly reads: readonly WeightRead[];
}

/** A part of a weight that a command reads. */
export interface WeightRead {
  readonly input: string;
  /** In bytes. */
  readonly offset: number;
  readonly bytes: number;
  readonly command: number;
  /** Says when the weight is needed at all; absent: always. */
  readonly needed?: NeededRead;
}

/** A read of what is left alone where a count is 0: that of an expert without tokens. */
export interface NeededRead {
  /** Place of the count in the program's workspace, an i32. */
  readonly offset: number;
  /** The command behind which it is there. */
  readonly known: number;
  /** All commands that do nothing where it is 0: from `first` to `end` - 1. */
  readonly first: number;
  readonly end: number;
}

/** A program with the addresses of its inputs, outputs and workspace fixed. */
export interface Call {
  readonly program: Program;
  readonly workspace: Address;
}

/** How threads that are not the executor's own reach its memory while programs run. */
export type Reach =
  /** An address is an offset in it. */
  | { readonly kind: "shared"; readonly memory: WebAssembly.Memory }
  /** An address is a pointer in this process. */
  | { readonly kind: "process" }
  /** Memory of a device, where bytes come and go by copies of ONNX Runtime: its objects, as pointers. */
  | { readonly kind: "device"; readonly copies: DeviceCopies }
  /** Not at all. */
  | { readonly kind: "none" };

export interface DeviceCopies {
  readonly session: number;
  readonly runOptions: number;
  /** Names of the CPU's memory and of the device's. */
  readonly host: number;
  readonly device: number;
  /** True if CUDA itself reaches both, beside ONNX Runtime. */
  readonly isCuda: boolean;
}

/**
 * Temporary memory that the library below an executor takes for its programs by itself, beside what the runtime places: it cannot
 * be planned, only measured; see runtime/temporary.ts.
 */
export interface TemporaryMemory {
  /** Bytes that it has grown to. */
  readonly bytes: number;
  /** Gives back all that is not in use, and takes `bytes` in one piece to cut what programs ask for from. */
  reset(bytes: number): void;
  /** Has a function use memory that is given back behind it. Its content is arbitrary. */
  borrow<T>(bytes: number, use: (address: Address) => T): T;
}

/**
 * Between memory of this process, which addresses point to, and a device that has copies of its own of what programs read and write.
 * `write`, `read`, `fill` and `zero` of the executor see to it themselves.
 */
export interface DeviceMirror {
  /** Before others read a range of the memory. */
  publish(address: Address, bytes: number): void;
  /** Before others write a range of the memory. */
  take(address: Address, bytes: number): void;
  /** A range is not read again before it is written. */
  forget(address: Address, bytes: number): void;
  /** Has the device have a range, as a program does that reads it. */
  load(address: Address, bytes: number): void;
  /** Copies a range to a place in memory of this process that is nobody else's. */
  copyOut(address: Address, bytes: number, place: Address): void;
  /** Fills a range from a place that a range of its size was copied to: what the device had then it has again. */
  copyIn(address: Address, bytes: number, place: Address): void;
}

/** The values that bf16 and f16 may be the types of: none, weights in memory alone, all that programs compute if the type is f16, or all. */
export type Halves = "none" | "weights" | "f16" | "all";

export interface Card {
  /** Bytes of its memory; null when it cannot be asked. */
  memory(): { readonly free: number; readonly total: number } | null;
  /** Reserves memory of this process that stays where it is (pinned), so that copies to and from the card need no detour; null: none is to be had. */
  pin(bytes: number): Address | null;
}

/**
 * Runs programs on memory that the runtime places. Addresses given out are 64-byte aligned (`ALIGNMENT`), and so must
 * be those passed in. Nothing is allocated by `run`.
 */
export interface Executor {
  readonly name: string;
  readonly threads: number;
  readonly halves: Halves;
  /** Compiles a graph. Throws when an operator has no kernel here. */
  prepare(graph: Graph): Program;
  /** True if some of a graph's work would be done by the CPU, with copies there and back; absent where all memory is the CPU's. */
  leavesToCpu?(graph: Graph): boolean;
  /**
   * Fixes addresses by value name: every graph input and output needs one; an output may have the address of the input
   * that it `updates`. `workspace` is not looked at if the program needs none. `reads` has an address for each of the program's reads
   * of weights that come and go, whose inputs need none then; null: the weight is where `addresses` says.
   */
  bind(program: Program, addresses: ReadonlyMap<string, Address>, workspace: Address, reads?: readonly (Address | null)[]): Call;
  /** Runs a call, or its commands `from` to `to` - 1, of which those before `from` have run. */
  run(call: Call, from?: number, to?: number): void;
  /** Waits for programs that have begun; absent where `run` returns when a program has ended. */
  wait?(): void;
  /** Reserves memory for good. Throws an error that names the sizes when the executor's memory is exhausted. */
  reserve(bytes: number): Address;
  /**
   * Gives the memory behind a reserved range back to the system, until it is touched again; its content is arbitrary from now on. False
   * where the system does not take it; absent where a reservation takes memory at once, and keeps it.
   */
  giveBack?(address: Address, bytes: number): boolean;
  /** Has a function write a reserved range: files are read straight into it where the CPU reaches the memory. */
  fill(address: Address, bytes: number, write: (target: Uint8Array) => void): void;
  write(address: Address, data: Uint8Array): void;
  /** Copies out, into fresh memory or into an array of `bytes` bytes. */
  read(address: Address, bytes: number, target?: Uint8Array): Uint8Array;
  zero(address: Address, bytes: number): void;
  /** Bytes reserved so far. */
  readonly reserved: number;
  /** Bytes that addresses can still be given for, about; Infinity where memory itself is the only limit. */
  readonly capacity: number;
  readonly reach: Reach;
  /** Where memory is a card's, which is what runs out then, and not this process's. */
  readonly card?: Card;
  /** Where programs compute on copies of the memory behind addresses. */
  readonly mirror?: DeviceMirror;
  /** Where a program's `workspace` is not all that it takes. */
  readonly temporary?: TemporaryMemory;
  close(): void;
}

/** Bytes that are copied at a time where copying everything at once would take memory that is promised to nobody. */
export const PIECE = 2 ** 20;

/** Copies out a long range piece by piece, each into the memory of the one before it: `piece`, of `PIECE` bytes. */
export function* readPieces(
  executor: Pick<Executor, "read">,
  address: Address,
  bytes: number,
  piece = new Uint8Array(PIECE),
): Iterable<Uint8Array> {
  for (let at = 0; at < bytes; at += PIECE) {
    const count = Math.min(PIECE, bytes - at);
    yield executor.read(address + at, count, piece.subarray(0, count));
  }
}

/** Fills a long range piece by piece. @param read fills a piece that begins at byte `at` of the range */
export function fillPieces(
  executor: Pick<Executor, "fill">,
  address: Address,
  bytes: number,
  read: (target: Uint8Array, at: number) => void,
): void {
  for (let at = 0; at < bytes; at += PIECE) {
    executor.fill(address + at, Math.min(PIECE, bytes - at), (target) => read(target, at));
  }
}

/** The reads of a program that runs as one command. */
export function readsAtOnce(graph: Graph): WeightRead[] {
  return weightInputs(graph).map((input) => ({ input, offset: 0, bytes: byteLength(typeOf(graph, input)), command: 0 }));
}

export const ALIGNMENT = 64;

export function align(bytes: number, to: number = ALIGNMENT): number {
  return Math.ceil(bytes / to) * to;
}
