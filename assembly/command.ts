/**
 * Reading a kernel command. Layout, in 32-bit words:
 *
 *     [opcode, words in all, pointer count p, (slot, byte offset) x p, scalar x s]
 *
 * A pointer is `bindings[slot] + offset`: slot 0 is the workspace, the others are what the caller bound (inputs and
 * outputs of the graph), so one command buffer serves all identical segments. Slot -1 is a null pointer.
 * Every thread has its own instance of this module, hence its own globals.
 */

// Addresses of the command and of the binding table in effect.
let command: usize = 0;
let bindings: usize = 0;

/** This thread's index, and how many threads run each command. */
export let threadIndex: i32 = 0;
export let threadCount: i32 = 1;
/** A private buffer of `THREAD_SCRATCH` bytes, 64-byte aligned, for packing and tiles. Not kept between commands. */
export let threadScratch: usize = 0;
export const THREAD_SCRATCH: i32 = 2 << 20;

export function setThread(index: i32, count: i32, scratch: usize): void {
  threadIndex = index;
  threadCount = count;
  threadScratch = scratch;
}

// @ts-ignore: decorator
@inline
export function setCommand(address: usize, table: usize): void {
  command = address;
  bindings = table;
}

/** Pointer operand `i`; 0 if it is absent. */
export function pointer(i: i32): usize {
  const at = command + 12 + ((<usize>i) << 3);
  const slot = load<i32>(at);
  return slot < 0 ? 0 : <usize>load<u32>(bindings + ((<usize>slot) << 2)) + <usize>load<u32>(at, 4);
}

// @ts-ignore: decorator
@inline
function scalarAddress(i: i32): usize {
  return command + 12 + ((<usize>load<i32>(command, 8)) << 3) + ((<usize>i) << 2);
}

/** Integer scalar `i`. */
export function int(i: i32): i32 {
  return load<i32>(scalarAddress(i));
}

/** Float scalar `i` (scalars are numbered together, whatever their kind). */
export function float(i: i32): f32 {
  return load<f32>(scalarAddress(i));
}

/**
 * This thread's part of `count` items in units of `unit`: items [partStart, partEnd). Contiguous, and independent of
 * the thread count in what is computed for an item.
 */
export function partStart(count: i32, unit: i32): i32 {
  const units = (count + unit - 1) / unit;
  return min(count, <i32>(((<i64>units) * threadIndex) / threadCount) * unit);
}

export function partEnd(count: i32, unit: i32): i32 {
  const units = (count + unit - 1) / unit;
  return min(count, <i32>(((<i64>units) * (threadIndex + 1)) / threadCount) * unit);
}

/**
 * Tells whether a new row of a text is kept: it sees something before it, or the text begins with it. Other rows, whose start is their own place, fill up a
 * program.
 */
export function isKept(starts: usize, row: i32, place: i32): bool {
  return place == 0 || load<i32>(starts + (<usize>row << 2)) < place;
}
