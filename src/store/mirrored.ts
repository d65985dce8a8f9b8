import { ptr } from "bun:ffi";
import { UserError } from "../base/errors.ts";
import type { Executor } from "../runtime/executor.ts";
import type { OffloadStore, StoreOptions } from "./store.ts";

/**
 * Memory of this process for what leaves the buffers of a device that one thread alone may use: moves are made when they are begun. A copy
 * out waits for what the device has been told to do; a copy in is noted down in front of the programs behind it, so that it is made beside those
 * before it.
 */
export function openMirroredStore(
  { mirror, wait }: Required<Pick<Executor, "mirror" | "wait">>,
  { freeMemory, flag = "--offload" }: Pick<StoreOptions, "freeMemory" | "flag">,
): OffloadStore {
  const places = new Map<string, Uint8Array>();
  const counts = { out: 0, in: 0, waited: 0, busyOut: 0, busyIn: 0 };
  let moves = 0;
  const timed = (move: () => void): number => {
    const begin = performance.now();
    move();
    const seconds = (performance.now() - begin) / 1000;
    counts.waited += seconds;
    return seconds;
  };
  return {
    description: "host memory",
    notice: null,
    reserve(name, bytes) {
      const known = places.get(name);
      if (known && known.length >= bytes) return ptr(known);
      if (bytes > freeMemory()) throw new UserError(`${flag}: host memory is exhausted: cannot take ${bytes} bytes`);
      const place = new Uint8Array(bytes);
      places.set(name, place);
      return ptr(place);
    },
    copy(address, bytes, place) {
      // Its programs' time is none of the copy's.
      wait();
      counts.busyOut += timed(() => mirror.copyOut(address, bytes, place));
      counts.out += bytes;
      return ++moves;
    },
    fetch(address, bytes, place) {
      counts.busyIn += timed(() => mirror.copyIn(address, bytes, place));
      counts.in += bytes;
      return ++moves;
    },
    wait: () => {},
    finish: () => {},
    counts: () => ({ ...counts }),
    close: () => places.clear(),
  };
}
