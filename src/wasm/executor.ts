import { availableParallelism } from "node:os";
import { messageOf } from "../base/errors.ts";
import { threadModule } from "../base/process/program.ts";
import type { Graph, Node } from "../graph/types.ts";
import { opOf } from "../ops/index.ts";
import type { OpDef } from "../ops/types.ts";
import type { Address, Call, Executor, Program } from "../runtime/executor.ts";
import { loadKernels } from "./kernels.ts";
import { type Boot, instantiateKernels, type Kernels } from "./instance.ts";
import { lower, type Lowered } from "./lower.ts";
import { type MatmulChoice, type MatmulProvider, openMatmul } from "./matmul.ts";
import { createMemory, expectAligned, type SharedMemory, STATIC_BYTES } from "./memory.ts";
import { nativeScratch } from "./native.ts";

export interface WasmExecutorOptions {
  /** Threads that run kernels, this one included; by default one per core. Results do not depend on it. */
  readonly threads?: number;
  /** The provider of large matrix products; `wasm` by default. */
  readonly matmul?: MatmulChoice;
  /** Bytes that the executor may use at most: 4 GiB, what 32-bit addresses reach, by default. */
  readonly memoryLimit?: number;
  /** Runs commands one by one and reports each: the node it belongs to (null: a final copy) and its seconds. */
  readonly profile?: (node: Node | null, seconds: number, graph: Graph) => void;
  /** The clock of `profile`, in milliseconds; `performance.now` by default. */
  readonly clock?: () => number;
}

export interface WasmExecutor extends Executor {
  /** Bytes that the executor took for itself besides `reserved`: thread scratch, commands, static data. */
  readonly overhead: number;
  /** The provider of large matrix products, and the reason for it. */
  readonly matmul: Pick<MatmulProvider, "name" | "reason">;
  /** For instruments and tests. */
  readonly memory: WebAssembly.Memory;
}

interface WasmProgram extends Program {
  readonly lowered: Lowered;
}

interface WasmCall extends Call {
  readonly program: WasmProgram;
  /** Addresses by slot. */
  readonly table: Int32Array;
}

/** The part of memory that the program in effect is copied to: its binding table, then its commands. */
interface Stage {
  readonly address: Address;
  readonly bytes: number;
}

/**
 * An executor on AssemblyScript kernels. Asynchronous because its threads must have started.
 * @throws {UserError} `matmul` is `native`, `bf16` or `int8`, and the library cannot be loaded, or the machine has no unit for it
 */
export async function createWasmExecutor(options: WasmExecutorOptions = {}): Promise<WasmExecutor> {
  const { threads = availableParallelism() } = options;
  if (!Number.isInteger(threads) || threads < 1) throw new Error(`expected a positive number of threads; got ${threads}`);
  const shared = createMemory(options.memoryLimit);
  const { kernels, workers, control, matmul } = await startThreads(shared, threads, options.matmul ?? "wasm");

  /** Bytes in front of what programs work on: those that threads may still look at when they are told to end. */
  const first = STATIC_BYTES + shared.reserved;
  let stage: Stage = { address: 0, bytes: 0 };
  let overhead = shared.reserved;
  /** Why the executor can no longer run. */
  let broken: string | null = null;

  const ensureStage = (bytes: number): void => {
    if (bytes <= stage.bytes) return;
    const size = Math.max(16384, 2 ** Math.ceil(Math.log2(bytes)));
    stage = { address: shared.reserve(size, "a command buffer"), bytes: size };
    overhead += size;
  };

  /** Runs the commands between two words of those that begin at `start`. */
  const interpret = ({ commands, nodeAt }: Lowered, graph: Graph, start: Address, from: number, to: number): number => {
    const { profile, clock = () => performance.now() } = options;
    if (!profile) return kernels.interpret(control, start + 4 * from, start + 4 * to, stage.address);
    for (let at = from; at < to; at += commands[at + 1]!) {
      const begin = clock();
      const failed = kernels.interpret(control, start + 4 * at, start + 4 * (at + commands[at + 1]!), stage.address);
      if (failed !== 0) return failed;
      profile(nodeAt(at), (clock() - begin) / 1000, graph);
    }
    return 0;
  };

  return {
    name: matmul.name === "wasm" ? "wasm" : `wasm with ${matmul.name} products`,
    threads,
    halves: "weights",
    memory: shared.memory,
    matmul,
    get reserved() {
      return shared.reserved - overhead;
    },
    get overhead() {
      return overhead;
    },
    get capacity() {
      return shared.capacity;
    },
    prepare(graph: Graph): WasmProgram {
      const lowered = lower(graph, opOf as (node: Node) => OpDef, matmul.native, matmul.boot?.fewRows != null);
      const { slots, reads, commands, starts, workspace } = lowered;
      ensureStage(4 * (1 + slots.length + reads.length + commands.length));
      return { graph, workspace, lowered, commands: starts.length - 1, reads };
    },
    bind(program: WasmProgram, addresses, workspace, places): WasmCall {
      const { slots, reads } = program.lowered;
      if (program.workspace > 0) expectAligned(workspace, `bind ${program.graph.name}: the workspace`);
      const table = new Int32Array(1 + slots.length + reads.length);
      table[0] = workspace;
      const known = (name: string): Address => {
        const address = addresses.get(name);
        if (address === undefined) throw new Error(`bind ${program.graph.name}: no address for ${name}`);
        expectAligned(address, `bind ${program.graph.name}: ${name}`);
        return address;
      };
      /** Weights of which no command reads more than what has a place. */
      const elsewhere = new Set(places && reads.filter((_, i) => places[i] !== null).map(({ input }) => input));
      slots.forEach((name, i) => (table[i + 1] = elsewhere.has(name) && !addresses.has(name) ? 0 : known(name)));
      reads.forEach(({ input, offset }, i) => {
        table[1 + slots.length + i] = places?.[i] ?? known(input) + offset;
      });
      return { program, workspace, table };
    },
    run(call: WasmCall, first = 0, end = call.program.commands): void {
      if (broken) throw new Error(`the WebAssembly executor ${broken}`);
      const { commands, nodeAt, starts } = call.program.lowered;
      const { table } = call;
      const start = stage.address + 4 * table.length;
      const words = shared.words(stage.address, table.length + commands.length);
      words.set(table);
      words.set(commands, table.length);
      let reason: string | null = null;
      try {
        if (interpret(call.program.lowered, call.program.graph, start, starts[first]!, starts[end]!) !== 0)
          reason = "another thread trapped";
      } catch (error) {
        kernels.fail();
        reason = messageOf(error);
      }
      if (reason === null) return;
      broken = "was stopped by a trap in a kernel";
      const node = nodeAt(((kernels.currentCommand() >>> 0) - start) / 4);
      throw new Error(
        `kernel of ${node ? `${node.op} (${node.outputs[0]})` : "a final copy"} in ${call.program.graph.name} failed: ${reason}`,
      );
    },
    reserve: (bytes) => shared.reserve(bytes, "the runtime"),
    giveBack: shared.giveBack,
    fill: (address, bytes, write) => write(shared.bytes(address, bytes)),
    write: (address, data) => shared.bytes(address, data.byteLength).set(data),
    read(address, bytes, target = new Uint8Array(bytes)) {
      target.set(shared.bytes(address, bytes));
      return target;
    },
    reach: { kind: "shared", memory: shared.memory },
    zero: (address, bytes) => void shared.bytes(address, bytes).fill(0),
    close(): void {
      if (!broken) kernels.stop(control);
      broken = "is closed";
      // The garbage collector would do so some time.
      shared.giveBack(first, STATIC_BYTES + shared.reserved - first);
      for (const worker of workers) worker.terminate();
      matmul.native?.close();
    },
  } satisfies WasmExecutor as WasmExecutor;
}

interface Threads {
  /** The kernels of this thread, which is thread 0. */
  readonly kernels: Kernels;
  /** The other threads, waiting for work. */
  readonly workers: readonly Worker[];
  readonly control: Address;
  readonly matmul: MatmulProvider;
}

async function startThreads(shared: SharedMemory, threads: number, choice: MatmulChoice): Promise<Threads> {
  // They load their modules while this thread compiles the kernels and opens the native library.
  const workers = Array.from({ length: threads - 1 }, () => new Worker(threadModule("src/wasm/worker.ts")));
  // An idle thread does not keep the process alive.
  for (const worker of workers) worker.unref();
  try {
    const modules = loadKernels();
    const { memory } = shared;
    const boot: Boot = { modules, memory, thread: 0, threads, scratch: 0, control: 0, native: null };
    // The sizes are constants of the module: read them from an instance before memory is laid out.
    const sizes = instantiateKernels(boot);
    const control = shared.reserve(sizes.CONTROL_BYTES.value, "the control block");
    const matmul = await openMatmul(choice, shared);
    const boots = Array.from({ length: threads }, (_, thread): Boot => {
      const scratch = shared.reserve(sizes.THREAD_SCRATCH.value, "thread scratch");
      const native = matmul.boot && {
        ...matmul.boot,
        scratch: shared.reserve(nativeScratch(matmul.boot), "thread scratch"),
      };
      return { ...boot, thread, scratch, control, native };
    });
    await Promise.all(workers.map((worker, i) => startWorker(worker, boots[i + 1]!)));
    return { kernels: instantiateKernels(boots[0]!), workers, control, matmul };
  } catch (error) {
    for (const worker of workers) worker.terminate();
    throw error;
  }
}

/** Hands a worker what it needs and waits until it has its kernels. */
function startWorker(worker: Worker, boot: Boot): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.onmessage = () => resolve();
    worker.onerror = (event) => reject(new Error(`a kernel thread did not start: ${event.message}`));
    worker.postMessage(boot);
  });
}
