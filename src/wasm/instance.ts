import type { Address } from "../runtime/executor.ts";
import type { KernelModule } from "./build.ts";

/** What a thread needs to start. */
export interface Boot {
  readonly modules: Readonly<Record<KernelModule, WebAssembly.Module>>;
  readonly memory: WebAssembly.Memory;
  readonly thread: number;
  readonly threads: number;
  /** This thread's private buffer for packing and tiles. */
  readonly scratch: Address;
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
  currentCommand(): number;
}

/** One thread's instance of both kernel modules. */
export function instantiateKernels({ modules, memory, thread, threads, scratch }: Boot): Kernels {
  const env = { memory };
  const matrix = new WebAssembly.Instance(modules.matrix, { env });
  const { exports } = new WebAssembly.Instance(modules.index, { env, matrix: matrix.exports });
  const kernels = exports as unknown as Kernels;
  kernels.setThread(thread, threads, scratch);
  return kernels;
}
