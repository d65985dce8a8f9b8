import { Opcode } from "../../assembly/opcodes.ts";
import type { Scores } from "./attention-body.ts";
import { type KernelEmitter, type NativeLibrary, type Operand, sessionWords } from "./types.ts";

/** Lowering of attention to assembly/attention-native.ts and attention-grad-native.ts. */
export interface AttentionSizes {
  readonly tokens: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly dim: number;
}

/** THREAD_SCRATCH of assembly/command.ts, in floats. */
const SCRATCH = 2 ** 19;
/** Rows of a tile, a token's heads counted apart: fewer use the library badly, more leave the second-level cache. */
const LEAST_ROWS = 32;
const MOST_ROWS = 192;
/** Scores of a tile, so many that they stay in the second-level cache. */
const MOST_SCORES = 2 ** 18;
/** Keys of a block: those that a softmax is computed of at a time, and those of the gradient. */
const KEYS = 2048;
const BLOCK = 512;
/** Below, calls cost more than they save. */
const LEAST_TOKENS = 128;
/** So many tiles, as a rule, that threads have something to share. */
const LEAST_TILES = 8;

/**
 * Tokens of a tile; null: too many heads for a tile to fit the scratch, or too few tokens. The forward has [rows, keys] of scores, the gradient
 * `blocks` [rows, BLOCK]: one more for the derivative of a soft cap.
 */
export function tileTokens(
  { tokens, heads, kvHeads, dim }: AttentionSizes,
  pass: "forward" | "gradient",
  blocks = 2,
): number | null {
  const group = heads / kvHeads;
  const keys = pass === "forward" ? Math.min(tokens, KEYS) : BLOCK;
  const rows = Math.max(LEAST_ROWS, Math.min(MOST_ROWS, Math.floor(MOST_SCORES / keys)));
  const share = Math.max(Math.ceil(LEAST_ROWS / group), Math.ceil(tokens / LEAST_TILES));
  const tile = Math.max(1, Math.min(Math.floor(rows / group), share));
  // Three [rows, dim] beside them, and some numbers for each row.
  const floats = tile * group * (3 * dim + Math.max(keys, blocks * BLOCK) + 32) + 64;
  return tokens >= LEAST_TOKENS && tile * group >= LEAST_ROWS && floats <= SCRATCH ? tile : null;
}

/** Fewest tokens of a tile that ends with its example, and bytes of a table of tiles, whose last one may have fewer; see assembly/attention-tiles.ts. */
function tableOf({ tokens, heads, kvHeads }: AttentionSizes): readonly [least: number, bytes: number] {
  const least = Math.ceil((LEAST_ROWS * kvHeads) / heads);
  return [least, 64 * Math.ceil((64 + 4 * (Math.ceil(tokens / least) + 2)) / 64)];
}

/** Emits the forward command; false: not here. Operands: q, k, v, starts, out, lse; `ends` may be null. */
export function emitNativeAttention(
  e: Pick<KernelEmitter, "emit" | "scratch" | "native">,
  sizes: AttentionSizes,
  { scale, softcap = 0 }: Scores,
  operands: readonly Operand[],
  ends: Operand,
): boolean {
  const { tokens, heads, kvHeads, dim } = sizes;
  const tile = tileTokens(sizes, "forward");
  if (!e.native || tile === null) return false;
  const table = tableOf(sizes);
  const scratch = e.scratch(table[1] + 8 * kvHeads * tokens * dim);
  const sessions = [product(e.native, false, true, "none"), e.native.unary("Softmax"), product(e.native, false, false, "none")];
  for (const phase of [0, 1]) {
    const scalars = [
      phase,
      tokens,
      heads,
      kvHeads,
      dim,
      { f32: scale },
      tile,
      ...sessions.flatMap(sessionWords),
      { f32: softcap },
      ...table,
      KEYS,
    ];
    e.emit(Opcode.NativeAttention, [...operands, scratch, ends], scalars);
  }
  return true;
}

/** Emits the commands of the gradient; false: not here. Operands: q, k, v, starts, out, lse, dout, dq, dk, dv; `ends` may be null. */
export function emitNativeAttentionGrad(
  e: Pick<KernelEmitter, "emit" | "scratch" | "native">,
  sizes: AttentionSizes,
  { scale, softcap = 0 }: Scores,
  operands: readonly Operand[],
  ends: Operand,
): boolean {
  const { tokens, heads, kvHeads, dim } = sizes;
  const tile = tileTokens(sizes, "gradient", softcap === 0 ? 2 : 3);
  if (!e.native || tile === null) return false;
  const turns = 64 * Math.ceil((kvHeads * Math.ceil(tokens / BLOCK) * 4) / 64);
  const table = tableOf(sizes);
  const scratch = e.scratch(table[1] + turns + 16 * kvHeads * tokens * dim);
  const sessions = [
    product(e.native, false, true, "column"),
    e.native.unary("Exp"),
    product(e.native, true, false, "matrix"),
    product(e.native, false, false, "matrix"),
  ].flatMap(sessionWords);
  const cap = [{ f32: softcap }, ...sessionWords(softcap === 0 ? 0 : product(e.native, false, true, "none"))];
  for (const phase of [0, 1, 2]) {
    const scalars = [phase, tokens, heads, kvHeads, dim, { f32: scale }, tile, BLOCK, ...sessions, ...cap, ...table];
    e.emit(Opcode.NativeAttentionGrad, [...operands, scratch, ends], scalars);
  }
  return true;
}

function product(native: NativeLibrary, transA: boolean, transB: boolean, addend: "none" | "matrix" | "column"): number {
  return native.product({ transA, transB, addend, alpha: 1 });
}
