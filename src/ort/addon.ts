import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { Tensor } from "onnxruntime-node";
import { messageOf, UserError } from "../base/errors.ts";
import { byteLength, elements, type Graph, typeOf } from "../graph/types.ts";
import { type DType } from "../base/dtype.ts";
import { PORTABLE } from "../onnx/target.ts";
import { writeModel } from "../onnx/write.ts";
import { packageFolder } from "./library.ts";
import { forbidTelemetry } from "./telemetry.ts";
import { type Address, align, ALIGNMENT, type Call, type Executor, type Program, readsAtOnce } from "../runtime/executor.ts";

/** The synchronous session inside of onnxruntime-node, which its public interface wraps in promises. */
interface AddonSession {
  loadModel(model: ArrayBufferLike, offset: number, length: number, options: Readonly<Record<string, unknown>>): void;
  run(feeds: Readonly<Record<string, Tensor>>, fetches: Readonly<Record<string, Tensor>>, options: object): unknown;
  dispose(): void;
}

interface Addon {
  readonly binding: { readonly InferenceSession: new () => AddonSession };
  /** The class of the tensors that sessions take. */
  readonly Tensor: typeof Tensor;
}

interface AddonProgram extends Program {
  readonly session: AddonSession;
}

interface AddonCall extends Call {
  readonly program: AddonProgram;
  readonly feeds: Readonly<Record<string, Tensor>>;
  readonly fetches: Readonly<Record<string, Tensor>>;
}

/** Memory that has been reserved; addresses count through all blocks. */
interface Block {
  readonly base: Address;
  readonly buffer: ArrayBuffer;
}

/**
 * ONNX Runtime's CPU provider through the N-API addon of onnxruntime-node, for where `bun:ffi` cannot load its library. Inputs
 * and outputs are bound in place here too, in ArrayBuffers; a call costs ten times what it costs through the C API, each
 * session keeps temporary memory of its own, which cannot be measured, and half types do not get through.
 * @throws {UserError} when the addon cannot be loaded
 */
export function createAddonExecutor({ threads = availableParallelism() }: { readonly threads?: number } = {}): Executor {
  const { binding, Tensor } = loadAddon();
  const blocks: Block[] = [];
  const sessions: AddonSession[] = [];
  let end: Address = ALIGNMENT;
  let reserved = 0;

  const view = (address: Address, bytes: number): Uint8Array<ArrayBuffer> => {
    const block = blocks.findLast(({ base }) => base <= address);
    if (!block || address + bytes > block.base + block.buffer.byteLength)
      throw new Error(`${bytes} bytes at ${address} are outside of what was reserved`);
    return new Uint8Array(block.buffer, address - block.base, bytes);
  };

  return {
    name: "ort-cpu",
    threads,
    halves: "none",
    capacity: Infinity,
    get reserved() {
      return reserved;
    },
    prepare(graph: Graph): AddonProgram {
      const model = writeModel(graph, undefined, PORTABLE);
      const session = new binding.InferenceSession();
      session.loadModel(model.buffer, model.byteOffset, model.byteLength, {
        intraOpNumThreads: threads,
        interOpNumThreads: 1,
        graphOptimizationLevel: "disabled",
        enableMemPattern: false,
        logSeverityLevel: 3,
        extra: { session: { disable_prepacking: "1", intra_op: { allow_spinning: "0" } } },
      });
      sessions.push(session);
      return { graph, workspace: 0, session, commands: 1, reads: readsAtOnce(graph) };
    },
    bind(program: AddonProgram, addresses, workspace, places): AddonCall {
      const { graph, reads } = program;
      const elsewhere = new Map(reads.map(({ input }, i) => [input, places?.[i] ?? null]));
      const tensors = (values: readonly { readonly name: string }[]) =>
        Object.fromEntries(
          values.map(({ name }) => {
            const address = elsewhere.get(name) ?? addresses.get(name);
            if (address === undefined) throw new Error(`bind ${graph.name}: no address for ${name}`);
            if (address % ALIGNMENT !== 0)
              throw new Error(`bind ${graph.name}: ${name} at ${address} is not ${ALIGNMENT}-byte aligned`);
            return [name, tensorAt(Tensor, view, graph, name, address)] as const;
          }),
        );
      return { program, workspace, feeds: tensors(graph.inputs), fetches: tensors(graph.outputs) };
    },
    run(call: AddonCall): void {
      call.program.session.run(call.feeds, call.fetches, {});
    },
    reserve(bytes) {
      const size = align(bytes);
      let buffer: ArrayBuffer;
      try {
        buffer = new ArrayBuffer(size);
      } catch {
        throw new UserError(
          `memory is exhausted: cannot reserve ${bytes} bytes besides ${reserved}; lower the batch or a budget`,
        );
      }
      const base = end;
      blocks.push({ base, buffer });
      end += size + ALIGNMENT;
      reserved += size;
      return base;
    },
    fill: (address, bytes, write) => write(view(address, bytes)),
    write: (address, data) => view(address, data.length).set(data),
    read(address, bytes, target = new Uint8Array(bytes)) {
      if (bytes > 0) target.set(view(address, bytes));
      return target;
    },
    reach: { kind: "none" },
    zero: (address, bytes) => void (bytes > 0 && view(address, bytes).fill(0)),
    close() {
      for (const session of sessions.splice(0)) session.dispose();
      blocks.length = 0;
    },
  } satisfies Executor as Executor;
}

function tensorAt(
  Tensor: Addon["Tensor"],
  view: (address: Address, bytes: number) => Uint8Array<ArrayBuffer>,
  graph: Graph,
  name: string,
  address: Address,
): Tensor {
  const type = typeOf(graph, name);
  const { dtype, shape } = type;
  const count = elements(shape);
  const { buffer, byteOffset } = view(address, byteLength(type));
  if (dtype === "u8") return new Tensor("uint8", new Uint8Array(buffer, byteOffset, count), shape);
  if (dtype === "i8") return new Tensor("int8", new Int8Array(buffer, byteOffset, count), shape);
  if (dtype === "f32") return new Tensor("float32", new Float32Array(buffer, byteOffset, count), shape);
  if (dtype === "i32") return new Tensor("int32", new Int32Array(buffer, byteOffset, count), shape);
  throw new Error(`bind ${graph.name}: ${name} is ${dtype satisfies DType}, which the addon does not pass`);
}

let loaded: Addon | null = null;

function loadAddon(): Addon {
  if (loaded) return loaded;
  forbidTelemetry();
  const folder = packageFolder();
  try {
    const requireFrom = createRequire(join(folder, "package.json"));
    const addon = requireFrom(join(folder, "dist/binding.js")) as Pick<Addon, "binding"> & { initOrt(): void };
    const { Tensor } = requireFrom("onnxruntime-common") as Pick<Addon, "Tensor">;
    addon.initOrt();
    loaded = { binding: addon.binding, Tensor };
    return loaded;
  } catch (error) {
    throw new UserError(`ONNX Runtime's addon cannot be loaded: ${messageOf(error)}; run \`bun install\``);
  }
}
