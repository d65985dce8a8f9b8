import { availableParallelism } from "node:os";
import type { Address } from "../runtime/executor.ts";
import type { KernelModule } from "./kernels.ts";
import { createNativeImports, type NativeThread, noNativeImports } from "./native.ts";

/** Describes what a thread needs to start. */
export interface Boot {
  readonly modules: Readonly<Record<KernelModule, WebAssembly.Module>>;
  readonly memory: WebAssembly.Memory;
  readonly thread: number;
  readonly threads: number;
  /** This thread's private buffer for packing and tiles. */
  readonly scratch: Address;
  readonly native: NativeThread | null;
  /** The block in which threads meet. */
  readonly control: Address;
}

/** Exports of assembly/index.ts; documented there. */
export interface Kernels {
  readonly heapBase: WebAssembly.Global;
  readonly CONTROL_BYTES: WebAssembly.Global;
  readonly THREAD_SCRATCH: WebAssembly.Global;
  setThread(index: number, count: number, scratch: Address): void;
  interpret(control: Address, commands: Address, end: Address, table: Address): number;
  work(control: Address): void;
  stop(control: Address): void;
  fail(): void;
  setSpin(rounds: number): void;
  currentCommand(): number;
  quantise(format: number, x: Address, stored: number, codes: Address, scales: Address, blocks: number): void;
}

/** About 20 microseconds of spinning at a barrier; none where threads outnumber cores and would spin in each other's way. */
const SPIN_ROUNDS = 20_000;

/** One thread's instance of both kernel modules. */
export function instantiateKernels({ modules, memory, thread, threads, scratch, native }: Boot): Kernels {
  const env = { memory };
  const matrix = new WebAssembly.Instance(modules.matrix, { env });
  const imports = {
    env,
    matrix: matrix.exports,
    native: { ...(native ? createNativeImports(memory, native) : noNativeImports) },
  };
  const { exports } = new WebAssembly.Instance(modules.index, imports);
  const kernels = exports as unknown as Kernels;
  kernels.setThread(thread, threads, scratch);
  kernels.setSpin(threads <= availableParallelism() ? SPIN_ROUNDS : 0);
  return kernels;
}
