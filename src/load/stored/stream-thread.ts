/** A thread that reads weights into an executor's memory until it is stopped. */
import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import type { OpenFile } from "../../base/files/open-file.ts";
import type { DeviceCopies, Reach } from "../../runtime/executor.ts";
import { fail, type MoveQueue, serve } from "../../store/move-queue.ts";
import { createWeightReader, type WeightPlace } from "./reader.ts";

/** Describes what the thread needs to start. */
export interface StreamBoot {
  readonly queue: MoveQueue;
  readonly reach: Reach;
  readonly files: readonly OpenFile[];
  /** A move's `file` is the position of its parameter here, and its `place` an offset in that parameter. */
  readonly places: readonly WeightPlace[];
}

declare const self: Worker;

self.onmessage = async ({ data }: MessageEvent<StreamBoot>) => {
  const { queue, reach, files, places } = data;
  try {
    const reader = createWeightReader(files);
    const write = await writer(reach);
    serve(queue, queue, ({ address, bytes, place, file }) => {
      write(address, bytes, (target, from) => reader.read(places[file]!, target, place + from));
    });
  } catch (error) {
    fail(queue, error);
  }
  process.exit();
};

type Fill = (target: Uint8Array, from: number) => void;

/** Bytes that pass through memory of this process on their way to a device at a time. */
const PIECE = 1 << 23;

async function writer(reach: Reach): Promise<(address: number, bytes: number, fill: Fill) => void> {
  switch (reach.kind) {
    case "shared":
      return (address, bytes, fill) => fill(new Uint8Array(reach.memory.buffer, address, bytes), 0);
    case "process":
      return (address, bytes, fill) => fill(new Uint8Array(toArrayBuffer(address as Pointer, 0, bytes)), 0);
    case "device":
      return await deviceWriter(reach.copies);
    case "none":
      throw new Error("the executor's memory cannot be reached");
  }
}

async function deviceWriter(copies: DeviceCopies): Promise<(address: number, bytes: number, fill: Fill) => void> {
  const [{ createThreadCopier }, { loadOrt }] = await Promise.all([
    import("../../ort/cuda-copies.ts"),
    import("../../ort/library.ts"),
  ]);
  const copier = createThreadCopier(loadOrt().api, copies);
  const stage = new Uint8Array(PIECE);
  return (address, bytes, fill) => {
    for (let done = 0; done < bytes; done += PIECE) {
      const piece = stage.subarray(0, Math.min(PIECE, bytes - done));
      fill(piece, done);
      copier.toDevice(ptr(stage), address + done, piece.length);
    }
  };
}
