import { availableParallelism } from "node:os";
import { type Pointer, ptr } from "bun:ffi";
import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { ONNX_DTYPE } from "../onnx/encode.ts";
import { PORTABLE, type Target } from "../onnx/target.ts";
import { writeModel } from "../onnx/write.ts";
import {
  type Address,
  ALIGNMENT,
  type Call,
  type Executor,
  type Program,
  readsAtOnce,
  type TemporaryMemory,
} from "../runtime/executor.ts";
import { loadSession, LOG_ERRORS, openEnvironment } from "./environment.ts";
import { cString, created, type OrtApi } from "./library.ts";
import { copyModel } from "./copy-models.ts";
import { copiedMemory, hostMemory } from "./memory.ts";
import { type ArenaStats, createArena } from "./arena.ts";
import { cardMemory, findCuda } from "./cuda.ts";
import { appendProvider, explainFailure, openCudaMemory, type OrtProvider, type ProviderOptions } from "./providers.ts";

export interface OrtExecutorOptions extends ProviderOptions {
  /** Threads of a kernel on the CPU, this one included; by default one per core. */
  readonly threads?: number;
  readonly provider?: OrtProvider;
  /** Treat the CPU's memory like a device's, which is reached by copies alone: for tests. */
  readonly copies?: boolean;
}

export interface OrtExecutor extends Executor {
  /** Programs that were loaded, and calls that were bound, so far. */
  readonly loaded: { readonly programs: number; readonly calls: number };
  /** In ONNX Runtime's arena, which all executors of the process on the same device share. */
  readonly temporary: TemporaryMemory;
  arena(): ArenaStats;
}

interface OrtProgram extends Program {
  readonly session: Pointer;
}

interface OrtCall extends Call {
  readonly program: OrtProgram;
  start(): void;
}

/** The types that the providers have kernels for. In f16 the CPU's get casts from ONNX Runtime itself. */
export const TARGETS: Readonly<Record<OrtProvider, Target>> = {
  cpu: { bitOps: true, bf16: false },
  cuda: { bitOps: false, bf16: true },
  webgpu: PORTABLE,
};

/** GraphOptimizationLevel: a bf16 weight's Cast must stay where it is, and nothing else is gained on these graphs. */
const NO_OPTIMIZATION = 0;

/**
 * An executor on a provider of ONNX Runtime. An address is a pointer into memory of the process or, with CUDA, of the
 * card; inputs and outputs are bound in place, without copies. WebGPU's memory has no addresses: its inputs and outputs lie in
 * memory of the process and are copied at each run. A program is a session on the graph's ONNX model. ONNX Runtime takes temporary memory from its own arena, outside
 * of what the runtime places: `workspace` is 0.
 * @throws {UserError} when the library or the provider cannot be loaded
 */
export function createOrtExecutor(options: OrtExecutorOptions = {}): OrtExecutor {
  const { threads = availableParallelism(), provider = "cpu" } = options;
  const environment = openEnvironment();
  const { api } = environment;
  const sessionOptions = createSessionOptions(api, threads);
  const { memory, info } = explainFailure(provider, () => {
    // What the provider is linked to need not lie where the system looks.
    if (provider === "cuda") findCuda();
    appendProvider(api, sessionOptions, provider, options);
    const isDevice = provider === "cuda";
    const info = isDevice ? openCudaMemory(environment, options) : environment.memoryInfo;
    if (isDevice || options.copies) return { memory: copiedMemory(environment, sessionOptions, info), info };
    // A provider may load its device with the first session.
    if (provider !== "cpu") api.ReleaseSession(loadSession(environment, copyModel(), sessionOptions));
    return { memory: hostMemory(environment), info };
  });
  const runOptions = created((out) => api.CreateRunOptions(out));
  const sessions: Pointer[] = [];
  const ends: (() => void)[] = [];
  const bindCall = provider === "webgpu" ? callByCopies : callInPlace;
  const temporary = createArena(environment, { sessionOptions, memory, device: provider === "cuda" ? "gpu:0" : "cpu:0" });

  return {
    name: `ort-${provider}`,
    threads,
    halves: provider === "webgpu" ? "weights" : "all",
    get reserved() {
      return memory.reserved;
    },
    capacity: Infinity,
    get loaded() {
      return { programs: sessions.length, calls: ends.length };
    },
    prepare(graph: Graph): OrtProgram {
      const model = writeModel(graph, undefined, TARGETS[provider]);
      const session = loadSession(environment, model, sessionOptions);
      sessions.push(session);
      return { graph, workspace: 0, session, commands: 1, reads: readsAtOnce(graph) };
    },
    bind(program: OrtProgram, addresses, _workspace, places): OrtCall {
      const { graph, reads } = program;
      const elsewhere = new Map(reads.map(({ input }, i) => [input, places?.[i] ?? null]));
      const tensor = ({ name }: { readonly name: string }): NamedTensor => {
        const address = elsewhere.get(name) ?? addresses.get(name);
        if (address === undefined) throw new Error(`bind ${graph.name}: no address for ${name}`);
        return { name: cString(name), value: tensorAt(api, info, graph, name, address) };
      };
      const { start, end } = bindCall(api, program.session, runOptions, graph.inputs.map(tensor), graph.outputs.map(tensor));
      ends.push(end);
      return { program, start };
    },
    run(call: OrtCall): void {
      temporary.open();
      call.start();
    },
    reserve: memory.reserve,
    fill: memory.fill,
    write: memory.write,
    read: memory.read,
    zero: memory.zero,
    reach: memory.reach,
    temporary,
    ...(provider === "cuda" && { card: { memory: cardMemory, pin: memory.pin } }),
    arena: temporary.stats,
    close(): void {
      temporary.close();
      for (const end of ends.splice(0)) end();
      for (const session of sessions.splice(0)) api.ReleaseSession(session);
      memory.close();
      api.ReleaseSessionOptions(sessionOptions);
      api.ReleaseRunOptions(runOptions);
    },
  } satisfies OrtExecutor as OrtExecutor;
}

function createSessionOptions(api: OrtApi, threads: number): Pointer {
  const options = created((out) => api.CreateSessionOptions(out));
  api.SetIntraOpNumThreads(options, threads);
  api.SetInterOpNumThreads(options, 1);
  api.SetSessionLogSeverityLevel(options, LOG_ERRORS);
  api.SetSessionGraphOptimizationLevel(options, NO_OPTIMIZATION);
  // Patterns are for varying shapes, and cost memory.
  api.DisableMemPattern(options);
  const entries = {
    "session.use_env_allocators": "1",
    // Weights are inputs, which ONNX Runtime cannot pack; constants are tiny.
    "session.disable_prepacking": "1",
    // A pool would spin for 50 ms after each run, and each session has its own.
    "session.intra_op.allow_spinning": "0",
  };
  for (const [key, value] of Object.entries(entries)) api.AddSessionConfigEntry(options, cString(key), cString(value));
  return options;
}

interface NamedTensor {
  readonly name: Uint8Array;
  readonly value: Pointer;
}

/** Runs a session on the tensors that it was made for, as often as wanted, until `end` releases them. */
interface BoundCall {
  start(): void;
  end(): void;
}

/** A call that reads and writes tensors where they are: in memory that the provider computes on. */
function callInPlace(
  api: OrtApi,
  session: Pointer,
  runOptions: Pointer,
  inputs: readonly NamedTensor[],
  outputs: readonly NamedTensor[],
): BoundCall {
  const binding = created((out) => api.CreateIoBinding(session, out));
  for (const { name, value } of inputs) api.BindInput(binding, name, value);
  for (const { name, value } of outputs) api.BindOutput(binding, name, value);
  // The binding keeps references of its own.
  for (const { value } of [...inputs, ...outputs]) api.ReleaseValue(value);
  return {
    start: () => void api.RunWithBinding(session, runOptions, binding),
    end: () => api.ReleaseIoBinding(binding),
  };
}

/**
 * A call whose tensors are copied to the provider's memory and back at each run. A binding would copy an input once, when it is
 * bound: later runs would see what the memory held then.
 */
function callByCopies(
  api: OrtApi,
  session: Pointer,
  runOptions: Pointer,
  inputs: readonly NamedTensor[],
  outputs: readonly NamedTensor[],
): BoundCall {
  const names = (tensors: readonly NamedTensor[]) => BigUint64Array.from(tensors, ({ name }) => BigInt(ptr(name)));
  const values = (tensors: readonly NamedTensor[]) => BigUint64Array.from(tensors, ({ value }) => BigInt(value));
  const [inputNames, inputValues] = [names(inputs), values(inputs)];
  const [outputNames, outputValues] = [names(outputs), values(outputs)];
  return {
    start: () =>
      void api.Run(session, runOptions, inputNames, inputValues, inputs.length, outputNames, outputs.length, outputValues),
    // The names' characters must live as long as the pointers to them.
    end: () => [...inputs, ...outputs].forEach(({ value }) => api.ReleaseValue(value)),
  };
}

/** A tensor that views the memory at `address`. */
function tensorAt(api: OrtApi, memoryInfo: Pointer, graph: Graph, name: string, address: Address): Pointer {
  if (address % ALIGNMENT !== 0) throw new Error(`bind ${graph.name}: ${name} at ${address} is not ${ALIGNMENT}-byte aligned`);
  const type = typeOf(graph, name);
  const shape = BigInt64Array.from(type.shape, BigInt);
  return created((out) =>
    api.CreateTensorWithDataAsOrtValue(
      memoryInfo,
      address as Pointer,
      byteLength(type),
      shape,
      shape.length,
      ONNX_DTYPE[type.dtype],
      out,
    ),
  );
}
