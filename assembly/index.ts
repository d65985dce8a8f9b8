/**
 * The kernel module: everything but the inner loops of matrix products, which are a module of their own (matrix.ts)
 * because they are compiled by other passes. Each thread has its own instance; all share one memory.
 */
export { setThread, THREAD_SCRATCH } from "./command";
export { interpret, work, stop, fail, setSpin, currentCommand, CONTROL_BYTES } from "./interpret";
export { quantise } from "./quantise";

/** First byte behind this module's static data; the executor places nothing below 64 KiB. */
export const heapBase: usize = __heap_base;
