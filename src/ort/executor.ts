import { availableParallelism } from "node:os";
import type { Pointer } from "bun:ffi";
import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { ONNX_DTYPE } from "../onnx/encode.ts";
import { type Target, writtenType } from "../onnx/target.ts";
import { writeModel } from "../onnx/write.ts";
import { ALIGNMENT, type Call, type Executor, type Program, readsAtOnce, type TemporaryMemory } from "../runtime/executor.ts";
import { loadSession, openEnvironment, type OrtEnvironment } from "./environment.ts";
import { callByValue, callInPlace, type NamedTensor } from "./calls.ts";
import { cString, created, type OrtApi } from "./library.ts";
import { copyModel } from "./copy-models.ts";
import { copiedMemory, hostMemory } from "./memory.ts";
import { type ArenaStats, createArena } from "./arena.ts";
import type { MirrorCounts } from "./webgpu/mirror.ts";
import { computesInHalf } from "./webgpu/half.ts";
import { createWebGpuMemory, type PlacedTensor } from "./webgpu/memory.ts";
import { cardMemory, findCuda } from "./cuda.ts";
import { explainFailure, openCudaMemory, type OrtProvider, type ProviderOptions } from "./providers.ts";
import { createSessionLoader, createSessionOptions, type LoadedSession } from "./sessions.ts";

export interface OrtExecutorOptions extends ProviderOptions {
  /** Threads of a kernel on the CPU, this one included; by default one per core. */
  readonly threads?: number;
  readonly provider?: OrtProvider;
  /** Treat the CPU's memory like a device's, which is reached by copies alone: for tests. */
  readonly copies?: boolean;
  /** Look for nodes that the provider leaves to the CPU, of which it then has all: for tests. */
  readonly strict?: boolean;
}

export interface OrtExecutor extends Executor {
  /** Programs that were loaded, and calls that were bound, so far. */
  readonly loaded: { readonly programs: number; readonly calls: number };
  /** In ONNX Runtime's arena, which all executors of the process on the same device share. */
  readonly temporary: TemporaryMemory;
  arena(): ArenaStats;
  /** Describes what went to the buffers of a device and came back; absent where memory has addresses. */
  readonly buffers?: () => MirrorCounts;
}

interface OrtProgram extends Program, LoadedSession {}

interface OrtCall extends Call {
  readonly program: OrtProgram;
  start(): void;
}

/** The types that the providers have kernels for. In f16 the CPU's get casts from ONNX Runtime itself; WebGPU's add up in it. */
export const TARGETS: Readonly<Record<OrtProvider, Target>> = {
  cpu: { integers: "bits", bf16: false, f16Sums: true },
  cuda: { integers: "wide", bf16: true, f16Sums: true },
  webgpu: { integers: "narrow", bf16: false, f16Sums: false },
};

/**
 * An executor on a provider of ONNX Runtime. An address is a pointer into memory of the process or, with CUDA, of the
 * card; inputs and outputs are bound in place, without copies. WebGPU's memory has buffers in the place of addresses, of which each tensor
 * has one (`webgpu/mirror.ts`). A program is a session on the graph's ONNX model. ONNX Runtime takes temporary memory from its own arena, outside
 * of what the runtime places: `workspace` is 0.
 * @throws {UserError} when the library or the provider cannot be loaded
 */
export function createOrtExecutor(options: OrtExecutorOptions = {}): OrtExecutor {
  const { threads = availableParallelism(), provider = "cpu" } = options;
  const environment = openEnvironment();
  const { api } = environment;
  // What the provider is linked to need not lie where the system looks.
  if (provider === "cuda") explainFailure(provider, findCuda);
  const makeOptions = (more: Readonly<Record<string, string>>) => createSessionOptions(api, threads, provider, options, more);
  const sessionOptions = explainFailure(provider, () => makeOptions({}));
  const sessions: Pointer[] = [];
  const { memory, info, webGpu } = explainFailure(provider, () => openMemory(environment, options, sessionOptions, sessions));
  const loader = createSessionLoader(environment, makeOptions);
  const isStrict = provider === "cuda" || options.strict === true;
  const runOptions = created((out) => api.CreateRunOptions(out));
  const ends: (() => void)[] = [];
  const isCard = provider === "cuda";
  // Memory of a card that is not given back would only grow, and the measured peak with it.
  const arena = createArena(environment, { sessionOptions, memory, device: isCard ? "gpu:0" : "cpu:0", mustShrink: isCard });
  const temporary = webGpu ? withBytes(arena, () => webGpu.most) : arena;
  let isClosed = false;
  // ONNX Runtime does not look whether a session was released: the process would end.
  const mustBeOpen = () => {
    if (isClosed) throw new Error("the ONNX Runtime executor is closed");
  };

  return {
    name: `ort-${provider}`,
    threads,
    get halves() {
      if (provider !== "webgpu") return "all";
      // WebGPU has no kernel that widens bf16.
      return computesInHalf(environment, loader) ? "f16" : "none";
    },
    get reserved() {
      return memory.reserved;
    },
    capacity: Infinity,
    get loaded() {
      return { programs: sessions.length, calls: ends.length };
    },
    prepare(graph: Graph): OrtProgram {
      mustBeOpen();
      const model = writeModel(graph, undefined, TARGETS[provider]);
      const loaded = isStrict ? loader.load(model) : { session: loadSession(environment, model, sessionOptions), isMixed: false };
      sessions.push(loaded.session);
      webGpu?.count(graph);
      return { graph, workspace: 0, ...loaded, commands: 1, reads: readsAtOnce(graph) };
    },
    bind(program: OrtProgram, addresses, workspace, places): OrtCall {
      const { graph, reads } = program;
      const elsewhere = new Map(reads.map(({ input }, i) => [input, places?.[i] ?? null]));
      const place = ({ name }: { readonly name: string }): PlacedTensor => {
        const address = elsewhere.get(name) ?? addresses.get(name);
        if (address === undefined) throw new Error(`bind ${graph.name}: no address for ${name}`);
        if (address % ALIGNMENT !== 0)
          throw new Error(`bind ${graph.name}: ${name} at ${address} is not ${ALIGNMENT}-byte aligned`);
        const type = typeOf(graph, name);
        const dtype = ONNX_DTYPE[writtenType(type.dtype, TARGETS[provider])];
        return { name, dtype, shape: type.shape, address, bytes: byteLength(type) };
      };
      const [inputs, outputs] = [graph.inputs.map(place), graph.outputs.map(place)];
      const inPlace = (tensor: PlacedTensor) => tensorAt(api, info, tensor);
      const call = program.isMixed ? callByValue : callInPlace;
      const { start, end } = webGpu
        ? webGpu.bind(program.session, runOptions, inputs, outputs)
        : call(api, program.session, runOptions, inputs.map(inPlace), outputs.map(inPlace));
      ends.push(end);
      return { program, workspace, start };
    },
    run(call: OrtCall): void {
      mustBeOpen();
      arena.open();
      call.start();
    },
    reserve: memory.reserve,
    fill: memory.fill,
    write: memory.write,
    read: memory.read,
    zero: memory.zero,
    reach: memory.reach,
    temporary,
    ...(provider !== "cpu" && {
      leavesToCpu(graph: Graph): boolean {
        const { session, isMixed } = loader.load(writeModel(graph, undefined, TARGETS[provider]));
        api.ReleaseSession(session);
        return isMixed;
      },
    }),
    ...(webGpu && { mirror: webGpu.mirror, wait: webGpu.wait, buffers: () => webGpu.mirror.counts }),
    ...(provider === "cuda" && { card: { memory: cardMemory, pin: memory.pin } }),
    arena: arena.stats,
    close(): void {
      if (isClosed) return;
      isClosed = true;
      arena.close();
      for (const end of ends.splice(0)) end();
      memory.close();
      for (const session of sessions.splice(0)) api.ReleaseSession(session);
      loader.close();
      api.ReleaseSessionOptions(sessionOptions);
      api.ReleaseRunOptions(runOptions);
    },
  } satisfies OrtExecutor as OrtExecutor;
}

/** The memory that tensors lie in; a session that it needs is added to `sessions`. */
function openMemory(environment: OrtEnvironment, options: OrtExecutorOptions, sessionOptions: Pointer, sessions: Pointer[]) {
  const isCard = options.provider === "cuda";
  const info = isCard ? openCudaMemory(environment, options) : environment.memoryInfo;
  if (isCard || options.copies) return { memory: copiedMemory(environment, sessionOptions, info, isCard), info, webGpu: null };
  const memory = hostMemory(environment);
  if (options.provider !== "webgpu") return { memory, info, webGpu: null };
  // The first session loads the device, and its allocator is what buffers come from.
  const session = loadSession(environment, copyModel(), sessionOptions);
  sessions.push(session);
  const webGpu = createWebGpuMemory(environment, session, memory);
  return { memory: webGpu.memory, info, webGpu };
}

/** Temporary memory with what programs take beside an arena. */
function withBytes(arena: TemporaryMemory, more: () => number): TemporaryMemory {
  return {
    get bytes() {
      return arena.bytes + more();
    },
    reset: (bytes) => arena.reset(Math.max(0, bytes - more())),
    borrow: arena.borrow,
  };
}

/** A tensor that views the memory at its address. */
function tensorAt(api: OrtApi, memoryInfo: Pointer, { name, dtype, shape, address, bytes }: PlacedTensor): NamedTensor {
  const sizes = BigInt64Array.from(shape, BigInt);
  const value = created((out) =>
    api.CreateTensorWithDataAsOrtValue(memoryInfo, address as Pointer, bytes, sizes, sizes.length, dtype, out),
  );
  return { name: cString(name), value };
}
