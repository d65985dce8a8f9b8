import type { Address, DeviceMirror } from "../../runtime/executor.ts";
import { createOutside } from "./outside.ts";
import { type BufferDevice, type BufferHandle, createPool, type Pool } from "./pool.ts";
import { contains, createRanges, isThere, type Range } from "./ranges.ts";

export interface MirrorCounts {
  /** Bytes that went to the device and came back. */
  readonly up: number;
  readonly down: number;
  /** Bytes of all buffers, those in the pool included. */
  readonly held: number;
  readonly peak: number;
}

/**
 * Memory of a device whose buffers are handles, behind addresses of this process: each tensor that calls are bound to has a buffer
 * of its own as soon as it is read or written there, and its bytes come back only when this process asks for them. Of ranges that share
 * bytes the device has the newest; another one that is read is put together in memory of the process first. Buffers that are no longer needed
 * serve others of their size, and never take more together than the addresses that were reserved, but for what one program writes anew.
 */
export interface Mirror extends DeviceMirror {
  range(address: Address, bytes: number): Range;
  /** Runs a program on the buffers of its inputs and outputs. An output never gets the buffer of an input. */
  run(
    inputs: readonly Range[],
    outputs: readonly Range[],
    launch: (inputs: readonly BufferHandle[], outputs: readonly BufferHandle[]) => void,
  ): void;
  zero(address: Address, bytes: number): void;
  readonly counts: MirrorCounts;
  close(): void;
}

/** By default; less is not worth a call of the system. */
const LARGE = 2 ** 20;

/**
 * @param reserved bytes of addresses that were given out so far
 * @param large bytes from which on memory of the process is given back when the device has them
 */
export function createMirror(device: BufferDevice, reserved: () => number, large = LARGE): Mirror {
  const pool = createPool(device, reserved);
  const { rangeAt, within, all } = createRanges();
  let [up, down] = [0, 0];
  const zeros = createZeros(device, pool);

  /** Has memory of the process hold what the device has. */
  const bring = (range: Range): void => {
    if (range.isOnHost || !isThere(range)) return;
    if (range.buffer === null) device.clear(range.address, range.bytes);
    else {
      device.download(range.buffer, range.address, range.bytes);
      down += range.bytes;
    }
    range.isOnHost = true;
  };
  const drop = (range: Range): void => {
    if (range.buffer !== null) pool.put(range.buffer, range.bytes);
    range.buffer = null;
    range.isZero = false;
  };
  /** Makes a range stale where [address, address + bytes) is written: what else it has must not be lost. */
  const supersede = (range: Range, address: Address, bytes: number): void => {
    if (!isThere(range)) return;
    if (!contains(address, bytes, range)) bring(range);
    drop(range);
  };
  /** The range whose buffer begins with the bytes of `range`: itself, or a longer one. */
  const load = (range: Range): Range => {
    if (isThere(range)) return range;
    const longer = range.overlaps.find((other) => isThere(other) && other.address === range.address && other.bytes > range.bytes);
    if (longer) return longer;
    range.overlaps.forEach(bring);
    const buffer = pool.get(range.bytes);
    device.upload(range.address, buffer, range.bytes);
    up += range.bytes;
    range.buffer = buffer;
    range.isOnHost = true;
    if (range.bytes >= large) {
      device.giveBack(range.address, range.bytes);
      range.isOnHost = false;
      for (const other of range.overlaps) other.isOnHost = false;
    }
    return range;
  };

  const take = (address: Address, bytes: number) => within(address, bytes).forEach((range) => supersede(range, address, bytes));
  const { copyOut, copyIn, sent } = createOutside(device, { within, rangeAt, bring, take, allocate: pool.get });
  return {
    range: rangeAt,
    run(inputs, outputs, launch) {
      const sources = inputs.map(load);
      const read = new Set(sources);
      for (const output of outputs)
        for (const other of output.overlaps) if (!read.has(other)) supersede(other, output.address, output.bytes);
      const taken = new Set<BufferHandle>();
      const targets = outputs.map((output) => {
        const own = output.buffer !== null && !read.has(output) && !taken.has(output.buffer) ? output.buffer : null;
        const target = own ?? pool.get(output.bytes);
        taken.add(target);
        return target;
      });
      const cleared = inputs.filter((_, i) => sources[i]!.buffer === null).map(({ bytes }) => bytes);
      const nothing = cleared.length > 0 ? zeros.of(Math.max(...cleared)) : 0;
      launch(
        sources.map(({ buffer }) => buffer ?? nothing),
        targets,
      );
      outputs.forEach((output, i) => {
        for (const other of output.overlaps) supersede(other, output.address, output.bytes);
        const target = targets[i]!;
        if (output.buffer !== target) drop(output);
        output.buffer = target;
        output.isZero = false;
        output.isOnHost = false;
      });
    },
    publish: (address, bytes) => within(address, bytes).forEach(bring),
    take,
    load: (address, bytes) => void load(rangeAt(address, bytes)),
    copyOut,
    copyIn,
    forget(address, bytes) {
      for (const range of within(address, bytes)) if (contains(address, bytes, range)) drop(range);
    },
    zero(address, bytes) {
      const end = address + bytes;
      let next = address;
      const found = within(address, bytes);
      for (const range of found) supersede(range, address, bytes);
      for (const range of found.filter((each) => contains(address, bytes, each))) {
        range.isZero = true;
        range.isOnHost = false;
        if (range.address > next) device.clear(next, range.address - next);
        next = Math.max(next, range.address + range.bytes);
      }
      if (end > next) device.clear(next, end - next);
    },
    get counts() {
      return { up: up + zeros.sent() + sent.up, down: down + sent.down, held: pool.held(), peak: pool.peak() };
    },
    close() {
      all().forEach(drop);
      zeros.close();
      pool.close();
    },
  };
}

/** A buffer of zeros, which every range of zeros is read from. */
function createZeros(device: BufferDevice, pool: Pool) {
  let [buffer, bytes, sent] = [0, 0, 0];
  return {
    /** One that begins with at least as many. */
    of(count: number): BufferHandle {
      if (bytes >= count) return buffer;
      const longer = pool.get(count);
      if (bytes > 0) pool.put(buffer, bytes);
      [buffer, bytes, sent] = [longer, count, sent + count];
      device.upload(new Uint8Array(count), buffer, count);
      return buffer;
    },
    sent: () => sent,
    close: () => bytes > 0 && pool.put(buffer, bytes),
  };
}
