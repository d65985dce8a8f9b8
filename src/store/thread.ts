/** A thread that moves bytes in one direction until it is stopped. */
import { readSync, writeSync } from "node:fs";
import { type Pointer, toArrayBuffer } from "bun:ffi";
import type { Reach } from "../runtime/executor.ts";
import { fail, type Move, type MoveQueue, serve } from "./move-queue.ts";

/** Describes what a thread needs to start. */
export interface Boot {
  readonly direction: "out" | "in";
  readonly queue: MoveQueue;
  /** That of the other direction. */
  readonly other: MoveQueue;
  readonly reach: Reach;
  /** The file that places are offsets in; null where they are pointers. */
  readonly fd: number | null;
}

declare const self: Worker;

self.onmessage = async ({ data }: MessageEvent<Boot>) => {
  try {
    serve(data.queue, data.other, await mover(data));
  } catch (error) {
    fail(data.queue, error);
  }
  process.exit();
};

async function mover({ direction, reach, fd }: Boot): Promise<(move: Move) => void> {
  if (reach.kind === "device") {
    const [{ createThreadCopier }, { loadOrt }] = await Promise.all([
      import("../ort/cuda-copies.ts"),
      import("../ort/library.ts"),
    ]);
    const copier = createThreadCopier(loadOrt().api, reach.copies);
    return ({ address, bytes, place }) =>
      direction === "out" ? copier.toHost(address, place as Pointer, bytes) : copier.toDevice(place as Pointer, address, bytes);
  }
  if (reach.kind === "none") throw new Error("the executor's memory cannot be reached");
  const view = (address: number, bytes: number) =>
    reach.kind === "shared"
      ? new Uint8Array(reach.memory.buffer, address, bytes)
      : new Uint8Array(toArrayBuffer(address as Pointer, 0, bytes));
  return ({ address, bytes, place }) => {
    const memory = view(address, bytes);
    for (let done = 0; done < bytes;) {
      const count = Math.min(bytes - done, PIECE);
      const moved =
        direction === "out"
          ? writeSync(fd!, memory, done, count, place + done)
          : readSync(fd!, memory, done, count, place + done);
      if (moved <= 0) throw new Error(direction === "out" ? "the system accepted no more bytes" : "the file ends too early");
      done += moved;
    }
  };
}

/** Bytes of one system call: few enough that other file accesses get their turn. */
const PIECE = 1 << 23;
