/**
 * Where boundaries and tapes are while they are not needed: in a file, or, for a device, in the memory of this process. Two threads
 * move bytes, one out and one in, while the executor computes.
 */
import { closeSync, fstatSync, statfsSync, writeSync } from "node:fs";
import { type Pointer, ptr, toArrayBuffer } from "bun:ffi";
import { UserError } from "../base/errors.ts";
import { fileError, readFully } from "../base/files/files.ts";
import { threadModule } from "../base/process/program.ts";
import { ALIGNMENT, type Executor, type Reach } from "../runtime/executor.ts";
import type { OffloadMemory, TransferCounts } from "../runtime/offload-memory.ts";
import { DIRECT_ALIGNMENT, openBufferedFile, openOffloadFile } from "./file.ts";
import { awaitMove, awaitReady, createMoveQueue, isDone, issue, type MoveQueue, stopThread } from "./move-queue.ts";
import type { Boot } from "./thread.ts";

export interface OffloadStore extends OffloadMemory {
  /** The store in words, for people and as a name of its bandwidth: `a file in FOLDER` or `host memory`. */
  readonly description: string;
  /** A sentence about the store that the user should know. */
  readonly notice: string | null;
  close(): void;
}

export interface Store extends OffloadStore {
  /** Reads from a place, and writes to it, at once. */
  read(place: number, target: Uint8Array): void;
  write(place: number, data: Uint8Array): void;
}

/** Returns what addresses and sizes of an executor's offloaded items are multiples of. */
export function storeAlignment({ reach, mirror }: Pick<Executor, "reach" | "mirror">): number {
  return reach.kind === "device" || mirror ? ALIGNMENT : DIRECT_ALIGNMENT;
}

export interface StoreOptions {
  /** Where the file is; memory of a device goes to this process's memory instead. */
  readonly folder: string;
  /** Bytes that this process may take for a device's memory. */
  readonly freeMemory: () => number;
  /** The flag that asks for the store, for its errors; `--offload` by default. */
  readonly flag?: string;
  /** The file passes through the page cache, so that bytes need not be aligned (default: past it). */
  readonly isBuffered?: boolean;
  /** Opens the file, for tests; nameless in `folder` by default. */
  readonly open?: (folder: string) => { readonly fd: number; readonly isDirect: boolean; readonly isInMemory: boolean };
}

/** @throws {UserError} when no file can be made in the folder, or the executor's memory cannot be reached */
export function openStore(executor: Executor, options: StoreOptions): Store {
  const { reach, mirror } = executor;
  const { folder, flag = "--offload", isBuffered = false } = options;
  const open = options.open ?? (isBuffered ? openBufferedFile : openOffloadFile);
  if (reach.kind === "none")
    throw new UserError(
      `${flag} cannot be used with ONNX Runtime's addon, whose memory other threads do not reach; use --device wasm`,
    );
  const file = reach.kind === "device" ? null : open(folder);
  const { queues, workers } = startMovers(reach, file?.fd ?? null);

  const explain = (direction: "out" | "in", error: unknown): UserError =>
    file
      ? fileError(direction === "out" ? "write the offload file in" : "read the offload file in", folder, error)
      : new UserError(
          `${flag}: cannot copy between the device and memory: ${error instanceof Error ? error.message : String(error)}`,
        );

  /** Places by name. */
  const places = new Map<string, { readonly place: number; readonly bytes: number }>();
  /** Memory of this process that places point to, where it is not the executor's. */
  const buffers: Uint8Array[] = [];
  let extent = 0;
  /** Copies that may be unfinished, and their bytes. */
  let pending: { readonly ticket: number; readonly bytes: number }[] = [];
  const last = { out: 0, in: 0 };
  const counts = { out: 0, in: 0, waited: 0 };

  const wait = (direction: "out" | "in", ticket: number): void => {
    const queue: MoveQueue = queues[direction];
    const begin = isDone(queue, ticket) ? 0 : performance.now();
    try {
      awaitMove(queue, ticket);
    } catch (error) {
      throw explain(direction, error);
    }
    if (begin > 0) counts.waited += (performance.now() - begin) / 1000;
  };

  return {
    description: file ? `a file in ${folder}` : "host memory",
    notice: file?.isInMemory
      ? `${flag} saves nothing in ${folder}, which is on a file system in memory; choose a folder on a disk`
      : file && !file.isDirect && !isBuffered
        ? `${folder} has no direct access: offloaded bytes pass through the page cache, which is memory too`
        : null,
    reserve(name, bytes) {
      const known = places.get(name);
      if (known && known.bytes >= bytes) return known.place;
      let place = extent;
      if (file) {
        const { bavail, bsize } = statfsSync(folder);
        const free = bavail * bsize + 512 * fstatSync(file.fd).blocks;
        if (extent + bytes > free) {
          throw new UserError(
            `${flag} needs at least ${mebibytes(extent + bytes)} in ${folder}, where ${mebibytes(free)} are free; free some space or give another folder`,
          );
        }
      } else {
        if (bytes > options.freeMemory()) throw new UserError(`${flag}: host memory is exhausted: cannot take ${bytes} bytes`);
        const pinned = executor.card?.pin(bytes) ?? null;
        if (pinned !== null) {
          place = pinned;
        } else {
          const buffer = new Uint8Array(bytes);
          buffers.push(buffer);
          place = ptr(buffer);
        }
      }
      extent += bytes;
      places.set(name, { place, bytes });
      return place;
    },
    copy(address, bytes, place, inFlight) {
      pending = pending.filter(({ ticket }) => !isDone(queues.out, ticket));
      let under = pending.reduce((sum, copy) => sum + copy.bytes, 0);
      for (const copy of pending) {
        if (under + bytes <= inFlight) break;
        wait("out", copy.ticket);
        under -= copy.bytes;
      }
      mirror?.publish(address, bytes);
      const ticket = issue(queues.out, { address, bytes, place, file: 0, after: 0 });
      pending.push({ ticket, bytes });
      last.out = ticket;
      counts.out += bytes;
      return ticket;
    },
    fetch(address, bytes, place, after) {
      mirror?.take(address, bytes);
      last.in = issue(queues.in, { address, bytes, place, file: 0, after });
      counts.in += bytes;
      return last.in;
    },
    wait,
    finish() {
      wait("out", last.out);
      wait("in", last.in);
    },
    read: (place, target) =>
      attempt(
        () => readAt(file, place, target),
        (error) => explain("in", error),
      ),
    write: (place, data) =>
      attempt(
        () => writeAt(file, place, data),
        (error) => explain("out", error),
      ),
    counts: (): TransferCounts => ({ ...counts, busyOut: queues.out.busy[0]!, busyIn: queues.in.busy[0]! }),
    close() {
      stopThread(queues.out);
      stopThread(queues.in);
      for (const worker of workers) worker.terminate();
      if (file) closeSync(file.fd);
    },
  };
}

/** Starts a thread for each direction. */
function startMovers(reach: Reach, fd: number | null) {
  const queues = { out: createMoveQueue(), in: createMoveQueue() };
  const workers = (["out", "in"] as const).map((direction) => {
    const worker = new Worker(threadModule("src/store/thread.ts"));
    // An idle thread does not keep the process alive.
    worker.unref();
    const other = queues[direction === "out" ? "in" : "out"];
    worker.postMessage({ direction, queue: queues[direction], other, reach, fd } satisfies Boot);
    return worker;
  });
  awaitReady(queues.out);
  awaitReady(queues.in);
  return { queues, workers };
}

function attempt(move: () => void, explain: (error: unknown) => UserError): void {
  try {
    move();
  } catch (error) {
    throw explain(error);
  }
}

/** @param file null: the place is a pointer in this process */
function readAt(file: { readonly fd: number } | null, place: number, target: Uint8Array): void {
  if (file === null) target.set(new Uint8Array(toArrayBuffer(place as Pointer, 0, target.length)));
  else readFully(file.fd, target, place, "the file");
}

function writeAt(file: { readonly fd: number } | null, place: number, data: Uint8Array): void {
  if (file === null) return new Uint8Array(toArrayBuffer(place as Pointer, 0, data.length)).set(data);
  for (let done = 0; done < data.length;) done += writeSync(file.fd, data, done, data.length - done, place + done);
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / 2 ** 20)} MiB`;
}
