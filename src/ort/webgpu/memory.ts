import { type Pointer, ptr } from "bun:ffi";
import { byteLength, type Graph } from "../../graph/types.ts";
import type { Address } from "../../runtime/executor.ts";
import type { BoundCall } from "../calls.ts";
import type { OrtEnvironment } from "../environment.ts";
import { cString } from "../library.ts";
import { openBufferDevice } from "./device.ts";
import type { OrtMemory } from "../memory.ts";
import { explainWork } from "../providers.ts";
import { createMirror, type Mirror } from "./mirror.ts";
import type { BufferHandle } from "./pool.ts";
import type { Range } from "./ranges.ts";

/** Memory of WebGPU's adapter: buffers of its own for what is bound, behind addresses of this process. */
export interface WebGpuMemory {
  readonly memory: OrtMemory;
  readonly mirror: Mirror;
  wait(): void;
  /** Notes a program down. */
  count(graph: Graph): void;
  /** Bytes that a program writes anew of what it updates: as long as it runs there are two of each. */
  readonly most: number;
  /** Makes a call of `session` on tensors that lie in the memory. */
  bind(session: Pointer, runOptions: Pointer, inputs: readonly PlacedTensor[], outputs: readonly PlacedTensor[]): BoundCall;
}

/** A graph's input or output, and where it lies. */
export interface PlacedTensor {
  readonly name: string;
  readonly dtype: number;
  readonly shape: readonly number[];
  readonly address: Address;
  readonly bytes: number;
}

/**
 * @param session any session on the provider, whose allocator is used as long as the memory is; @param host memory of this process
 */
export function createWebGpuMemory(environment: OrtEnvironment, session: Pointer, host: OrtMemory): WebGpuMemory {
  const { api } = environment;
  const { device, tensor, wait, close } = openBufferDevice(environment, session, host);
  const mirror = createMirror(device, () => host.reserved);
  const sizes = new Map<Address, number>();
  const memory: OrtMemory = {
    ...host,
    get reserved() {
      return host.reserved;
    },
    reserve(bytes) {
      const address = host.reserve(bytes);
      sizes.set(address, bytes);
      return address;
    },
    release(address) {
      // Nothing may come back to memory that is somebody else's then.
      mirror.forget(address, sizes.get(address)!);
      host.release(address);
    },
    fill(address, bytes, write) {
      mirror.take(address, bytes);
      host.fill(address, bytes, write);
    },
    write(address, data) {
      mirror.take(address, data.byteLength);
      host.write(address, data);
    },
    read(address, bytes, target) {
      mirror.publish(address, bytes);
      return host.read(address, bytes, target);
    },
    zero: mirror.zero,
    close() {
      mirror.close();
      close();
      host.close();
    },
  };

  /** A tensor of a call, with the value that it had last. */
  const bound = ({ name, dtype, shape, address, bytes }: PlacedTensor) => {
    let [buffer, value]: [BufferHandle, Pointer | null] = [0, null];
    const release = () => value !== null && api.ReleaseValue(value);
    return {
      name: cString(name),
      range: mirror.range(address, bytes),
      valueOn(wanted: BufferHandle): Pointer {
        if (value !== null && buffer === wanted) return value;
        release();
        [buffer, value] = [wanted, tensor(wanted, bytes, dtype, shape)];
        return value;
      },
      release,
    };
  };

  let most = 0;
  return {
    memory,
    mirror,
    wait,
    count({ outputs, types }) {
      const updated = outputs.filter(({ updates }) => updates !== undefined).map(({ name }) => byteLength(types.get(name)!));
      most = Math.max(
        most,
        updated.reduce((sum, bytes) => sum + bytes, 0),
      );
    },
    get most() {
      return most;
    },
    bind(session, runOptions, inputs, outputs) {
      const [sources, targets] = [inputs.map(bound), outputs.map(bound)];
      const namesOf = (tensors: readonly { readonly name: Uint8Array }[]) =>
        BigUint64Array.from(tensors, ({ name }) => BigInt(ptr(name)));
      const [sourceNames, targetNames] = [namesOf(sources), namesOf(targets)];
      const [sourceValues, targetValues] = [new BigUint64Array(sources.length), new BigUint64Array(targets.length)];
      const rangesOf = (tensors: readonly { readonly range: Range }[]) => tensors.map(({ range }) => range);
      const [read, written] = [rangesOf(sources), rangesOf(targets)];
      return {
        start: () =>
          mirror.run(read, written, (from, to) => {
            sources.forEach((source, i) => (sourceValues[i] = BigInt(source.valueOn(from[i]!))));
            targets.forEach((target, i) => (targetValues[i] = BigInt(target.valueOn(to[i]!))));
            const [count, made] = [sources.length, targets.length];
            explainWork("webgpu", () =>
              api.Run(session, runOptions, sourceNames, sourceValues, count, targetNames, made, targetValues),
            );
          }),
        // The names' characters must live as long as the pointers to them.
        end: () => [...sources, ...targets].forEach(({ release }) => release()),
      };
    },
  };
}
