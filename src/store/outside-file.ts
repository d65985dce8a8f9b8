import type { Executor } from "../runtime/executor.ts";
import type { OutsideMemory } from "../runtime/streaming/outside.ts";
import { openStore } from "./store.ts";

/** Bytes that are zeroed at a time. */
const PIECE = new Uint8Array(2 ** 20);

/**
 * Trained state in a file without a name in `folder`. Its bytes pass through the page cache: memory that the machine has to spare keeps them.
 * @throws {UserError} a folder that cannot be written to or has too little room
 */
export function openOutsideFile(executor: Executor, folder: string, bytes: number, freeMemory: () => number): OutsideMemory {
  const store = openStore(executor, { folder, freeMemory, flag: "--stream", isBuffered: true });
  const base = store.reserve("trained state", bytes);
  // What was never written is 0, and there.
  if (bytes > 0) store.write(base + bytes - 1, new Uint8Array(1));
  let lastOut = 0;
  const write = (offset: number, data: Uint8Array) => store.write(base + offset, data);
  const outside: OutsideMemory = {
    read(offset, target) {
      store.finish();
      store.read(base + offset, target);
    },
    write(offset, data) {
      store.finish();
      write(offset, data);
    },
    zero(offset, bytes) {
      store.finish();
      for (let at = 0; at < bytes; at += PIECE.length) write(offset + at, PIECE.subarray(0, Math.min(PIECE.length, bytes - at)));
    },
    store(address, bytes, offset) {
      lastOut = store.copy(address, bytes, base + offset, Infinity);
      return lastOut;
    },
    fetch: (offset, bytes, address) => store.fetch(address, bytes, base + offset, lastOut),
    waitStored: (ticket) => store.wait("out", ticket),
    waitFetched: (ticket) => store.wait("in", ticket),
    finish: () => store.finish(),
    get counts() {
      return store.counts();
    },
    close: () => store.close(),
  };
  return outside;
}
