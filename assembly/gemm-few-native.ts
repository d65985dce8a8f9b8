/**
 * Products of a few rows with a quantised matrix by machine code (src/wasm/machine-code/quantised/few-rows.ts), which looks codes up in vectors that
 * WebAssembly does not have.
 */
import { threadCount, threadIndex, threadScratch } from "./command";
import { fewProduct } from "./native";
import { NF4 } from "./quantised";

/** Most rows of a call. */
const GROUP: i32 = 4;
/** Elements of NF4 that are looked up from 64 bytes of codes. */
const CHUNK: i32 = 128;

/** out[k] = x[k] in the order in which NF4 is looked up: of each 128 those at places i, 8 + i, 16 + i, ... together; filled up with zeros. */
function prepare(x: usize, k: i32, out: usize): void {
  for (let from = 0; from < k; from += CHUNK, out += CHUNK * 4) {
    for (let word = 0; word < CHUNK / 8; word++) {
      const at = out + (<usize>word << 2);
      for (let i = 0; i < 8; i++) {
        const place = from + 8 * word + i;
        store<f32>(at + (<usize>i << 6), place < k ? load<f32>(x + (<usize>place << 2)) : 0);
      }
    }
  }
}

/** out[m, n] = alpha A B^T + c, A f32[m, k], B [n, k] of codes with their scales: this thread's columns. A row has the bits that it has alone. */
export function fewNative(
  type: i32, a: usize, b: usize, scales: usize, c: usize, ldc: i32, out: usize, m: i32, n: i32, k: i32, alpha: f32,
): void {
  const from = <i32>(<i64>n * threadIndex / threadCount), to = <i32>(<i64>n * (threadIndex + 1) / threadCount);
  const groups = (m + GROUP - 1) / GROUP;
  const line = type == NF4 ? (k + CHUNK - 1) / CHUNK * CHUNK << 2 : k << 2;
  for (let group = 0; group < groups; group++) {
    const first = m * group / groups, rows = m * (group + 1) / groups - first;
    let x = a + (<usize>(first * k) << 2);
    if (type == NF4) {
      for (let i = 0; i < rows; i++) prepare(x + (<usize>(i * k) << 2), k, threadScratch + <usize>(i * line));
      x = threadScratch;
    }
    const added = c ? c + (<usize>(first * ldc) << 2) : 0;
    fewProduct(type, x, line, b, scales, added, ldc << 2, out + (<usize>(first * n) << 2), n << 2, rows, from, to, k, alpha);
  }
}
