import { availableParallelism } from "node:os";
import { type Pointer, toArrayBuffer } from "bun:ffi";
import { UserError } from "../errors.ts";
import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { ONNX_DTYPE } from "../onnx/encode.ts";
import { writeModel } from "../onnx/write.ts";
import { type Address, align, ALIGNMENT, type Call, type Executor, type Program } from "../runtime/executor.ts";
import { type ArenaStats, arenaStats, LOG_ERRORS, openEnvironment } from "./environment.ts";
import { cString, created, type OrtApi } from "./library.ts";

export interface OrtExecutorOptions {
  /** Threads of a kernel, this one included; by default one per core. */
  readonly threads?: number;
}

export interface OrtExecutor extends Executor {
  /** ONNX Runtime's own temporary memory, which `reserved` does not count; shared by all executors of the process. */
  arena(): ArenaStats;
}

interface OrtProgram extends Program {
  readonly session: Pointer;
}

interface OrtCall extends Call {
  readonly program: OrtProgram;
  readonly binding: Pointer;
}

/** An ArrayBuffer has at most 4 GiB; memory is cleared in pieces. */
const VIEW_BYTES = 2 ** 30;
/** GraphOptimizationLevel: a bf16 weight's Cast must stay where it is, and nothing else is gained on these graphs. */
const NO_OPTIMIZATION = 0;

/**
 * An executor on ONNX Runtime's CPU provider. An address is a pointer into memory of the process; inputs and outputs
 * are bound in place, without copies. A program is a session on the graph's ONNX model. ONNX Runtime takes temporary
 * memory from its own arena, outside of what the runtime places: `workspace` is 0.
 * @throws {UserError} when the library cannot be loaded
 */
export function createOrtExecutor(options: OrtExecutorOptions = {}): OrtExecutor {
  const { threads = availableParallelism() } = options;
  const environment = openEnvironment();
  const { api, env, memoryInfo } = environment;
  const allocator = created((out) => api.GetAllocatorWithDefaultOptions(out));
  const runOptions = created((out) => api.CreateRunOptions(out));
  const sessionOptions = createSessionOptions(api, threads);
  const blocks: Pointer[] = [];
  const sessions: Pointer[] = [];
  const bindings: Pointer[] = [];
  let reserved = 0;

  /** A view of the process's memory. */
  const view = (address: Address, bytes: number) =>
    bytes === 0 ? new Uint8Array() : new Uint8Array(toArrayBuffer(address as Pointer, 0, bytes));

  return {
    name: "ort",
    threads,
    get reserved() {
      return reserved;
    },
    prepare(graph: Graph): OrtProgram {
      const model = writeModel(graph);
      const session = created((out) => api.CreateSessionFromArray(env, model, model.length, sessionOptions, out));
      sessions.push(session);
      return { graph, workspace: 0, session };
    },
    bind(program: OrtProgram, addresses): OrtCall {
      const { graph, session } = program;
      const binding = created((out) => api.CreateIoBinding(session, out));
      bindings.push(binding);
      const bindAll = (values: readonly { name: string }[], to: (binding: Pointer, name: Uint8Array, value: Pointer) => void) => {
        for (const { name } of values) {
          const address = addresses.get(name);
          if (address === undefined) throw new Error(`bind ${graph.name}: no address for ${name}`);
          bindValue(api, memoryInfo, graph, name, address, (value) => to(binding, cString(name), value));
        }
      };
      bindAll(graph.inputs, api.BindInput);
      bindAll(graph.outputs, api.BindOutput);
      return { program, binding };
    },
    run(call: OrtCall): void {
      api.RunWithBinding(call.program.session, runOptions, call.binding);
    },
    reserve(bytes: number): Address {
      let block: Pointer;
      try {
        block = created((out) => api.AllocatorAlloc(allocator, align(bytes) + ALIGNMENT, out));
      } catch {
        throw new UserError(
          `memory is exhausted: cannot reserve ${bytes} bytes besides ${reserved}; lower the batch or a budget`,
        );
      }
      blocks.push(block);
      reserved += align(bytes);
      return align(block);
    },
    view,
    write: (address, data) => view(address, data.length).set(data),
    read: (address, bytes) => view(address, bytes).slice(),
    zero(address, bytes) {
      for (let done = 0; done < bytes; done += VIEW_BYTES) view(address + done, Math.min(VIEW_BYTES, bytes - done)).fill(0);
    },
    arena: () => (sessions[0] ? arenaStats(environment, sessions[0]) : { total: 0, peak: 0 }),
    close(): void {
      for (const binding of bindings.splice(0)) api.ReleaseIoBinding(binding);
      for (const session of sessions.splice(0)) api.ReleaseSession(session);
      for (const block of blocks.splice(0)) api.AllocatorFree(allocator, block);
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

/** Makes a tensor that views the memory at `address` and hands it to `bind`, which keeps its own reference. */
function bindValue(
  api: OrtApi,
  memoryInfo: Pointer,
  graph: Graph,
  name: string,
  address: Address,
  bind: (value: Pointer) => void,
): void {
  if (address % ALIGNMENT !== 0) throw new Error(`bind ${graph.name}: ${name} at ${address} is not ${ALIGNMENT}-byte aligned`);
  const type = typeOf(graph, name);
  const shape = BigInt64Array.from(type.shape, BigInt);
  const value = created((out) =>
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
  try {
    bind(value);
  } finally {
    api.ReleaseValue(value);
  }
}
