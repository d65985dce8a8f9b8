/** Rows of an embedding table by token id, and the gradient of the table. An id outside the table counts as 0. */
import { int, partEnd, partStart, pointer } from "./command";
import { F32, floatBytes, loadFloats, widen } from "./half";
import { loadSome, storeSome } from "./lanes";
import { Opcode } from "./opcodes";

/** Columns that are handed out as one: a cache line. */
const UNIT: i32 = 16;

// @ts-ignore: decorator
@inline
function safeId(ids: usize, token: i32, vocab: i32): usize {
  const id = load<i32>(ids + ((<usize>token) << 2));
  return <u32>id < <u32>vocab ? <usize>id : 0;
}

/** y[columns] = w[columns], w of `type`. */
function copyRow(w: usize, y: usize, columns: i32, type: i32): void {
  if (type == F32) {
    memory.copy(y, w, (<usize>columns) << 2);
    return;
  }
  const end = y + ((<usize>columns & ~3) << 2);
  for (; y < end; w += 8, y += 16) v128.store(y, loadFloats(w, type));
  for (let i = columns & 3; i > 0; i--, w += 2, y += 4) v128.store32_lane(y, widen(v128.load16_splat(w), type), 0);
}

/** dw[n] += dy[n] */
function addRow(dy: usize, dw: usize, n: i32): void {
  const end = dw + ((<usize>n & ~3) << 2);
  for (; dw < end; dy += 16, dw += 16) v128.store(dw, f32x4.add(v128.load(dw), v128.load(dy)));
  const rest = n & 3;
  if (rest) storeSome(dw, f32x4.add(loadSome(dw, rest), loadSome(dy, rest)), rest);
}

/**
 * Commands:
 * - Gather: w [vocab, columns] of a float type, ids i32[tokens], y f32[tokens, columns]; tokens, columns, vocab, type
 * - EmbeddingGrad: ids i32[tokens], dy f32[tokens, columns], dw f32[vocab, columns]; tokens, columns, vocab.
 *   dw[ids[t]] += dy[t]. Each thread has some columns of all rows, so equal ids add up in the order of the tokens.
 */
export function embeddingCommand(opcode: u32): void {
  const tokens = int(0);
  const columns = int(1);
  const vocab = int(2);
  if (opcode == Opcode.Gather) {
    const w = pointer(0);
    const ids = pointer(1);
    const y = pointer(2);
    const type = int(3);
    const end = partEnd(tokens, 1);
    for (let token = partStart(tokens, 1); token < end; token++) {
      const row = floatBytes(type, safeId(ids, token, vocab) * columns);
      copyRow(w + row, y + floatBytes(F32, <usize>token * columns), columns, type);
    }
    return;
  }
  if (opcode != Opcode.EmbeddingGrad) unreachable();
  const ids = pointer(0);
  const start = partStart(columns, UNIT);
  const n = partEnd(columns, UNIT) - start;
  if (n <= 0) return;
  const stride = (<usize>columns) << 2;
  let dy = pointer(1) + ((<usize>start) << 2);
  const dw = pointer(2) + ((<usize>start) << 2);
  for (let token = 0; token < tokens; token++, dy += stride) addRow(dy, dw + safeId(ids, token, vocab) * stride, n);
}
