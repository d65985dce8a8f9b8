import { Opcode } from "../../assembly/opcodes.ts";
import { DTYPE_BYTES } from "../base/dtype.ts";
import { byteLength } from "../graph/types.ts";
import type { Product } from "./gemm-kernels.ts";
import { HALF_CODE } from "./half.ts";
import { emitTokenLosses, labelsEach, scaleStep } from "./head-kernels.ts";
import { type KernelEmitter, type NativeLibrary, type Operand, type Scalar, sessionWords, takesBf16 } from "./types.ts";

/** Lowering of the fused head to assembly/head-native.ts. */
type Emitter = Pick<KernelEmitter, "emit" | "scratch" | "native" | "type">;

/** Most bytes of logits in memory at a time. */
const LOGITS_BYTES = 40 * 2 ** 20;
/** Rows of a chunk by how logits lie in memory: more than that gain nothing, and a multiple of what the library computes side by side. */
const MOST_ROWS = { f32: 176, bf16: 256 } as const;
const ROWS_UNIT = 16;
/**
 * Rows of W in a block, by how logits lie in memory, where there are enough for all parts: products of bf16 gain by more of them, as their operands are packed. A block that
 * is widened must fit the scratch of a thread (floats of 4 bytes), and one of narrow logits, which are computed there.
 */
const BLOCK = { f32: 256, bf16: 512 } as const;
const SCRATCH = 2 ** 19;
/** The blocks of the vocabulary are dealt out to so many parts for the gradient of h, whatever the number of threads. */
const PARTS = 8;
/** Bytes of a page of W, at least, where W has more: what of it is in memory at a time when it comes from a file. */
const PAGE_BYTES = 2 ** 24;

export interface HeadOperands {
  readonly h: string;
  readonly w: string;
  /** How W lies in memory. */
  readonly stored: Pick<Product, "bType" | "quantised">;
  readonly labels: string;
  /** f32[1], or f32[T, L]: one per label; null where neither the loss nor a gradient is wanted. */
  readonly scale: string | null;
  /** Absent: the logits are not capped. */
  readonly softcap?: number;
  /** Logits are computed again for their gradient, page by page, instead of being kept. */
  readonly recompute?: boolean;
  /** The loss; null: not wanted. */
  readonly loss: Operand;
  /** How many labels have the greatest logit; null: not wanted. */
  readonly correct: Operand;
  /** f32[T, L]: the loss of each token by each label without a scale, 0 where there is none. Absent: not wanted. */
  readonly tokenLosses?: string;
  readonly gradient?: {
    readonly dloss: string;
    /** null: not wanted. */
    readonly dh: Operand;
    readonly dw: Operand;
    /** The sum that dW is added to. */
    readonly sum: Operand;
  };
}

/** Emits loss and gradients; false: not here. */
export function emitNativeHead(e: Emitter, operands: HeadOperands): boolean {
  const { h, w, stored, labels, scale, softcap = 0, loss, correct, tokenLosses, gradient } = operands;
  const [tokens, width] = e.type(h).shape as [number, number];
  const vocab = e.type(w).shape[0]!;
  if (!e.native) return false;
  const words = sessionsOf(e.native);
  // What is multiplied in bf16 may be bf16 before. Logits that are to be capped must stay what they are, and a trained W has f32's gradient.
  const isNarrow = words.isBf16 && softcap === 0 && !gradient?.dw;
  const logitType = isNarrow ? "bf16" : "f32";
  const logitBytes = DTYPE_BYTES[logitType];
  const chunk = chunkRows(tokens, vocab, logitType);
  if (chunk === null) return false;
  const { bType = "f32", quantised } = stored;
  const isTaken = words.isBf16 && bType === "bf16" && !quantised;
  const most = BLOCK[vocab < 2 * PARTS * BLOCK.bf16 ? "f32" : logitType];
  const block = Math.min(most, Math.floor(SCRATCH / ((isTaken ? 0 : width) + (isNarrow ? chunk : 0)) / 16) * 16);
  if (block < 16) return false;
  const blocks = Math.ceil(vocab / block);
  const each = labelsEach(e, h, labels);
  const [rows, count, losses] = [e.scratch(4 * tokens), e.scratch(4), e.scratch(4 * tokens * each)];
  const hits = correct === null ? null : e.scratch(4 * tokens);
  const pages = pagesOf(e, w, block);
  const group =
    pages.length > 1 && (!gradient || operands.recompute) ? groupChunks(tokens, chunk, width, gradient?.dh != null) : 1;
  /** True: pages of logits take each other's place, and what the gradient needs of them is computed again. */
  const isPaged = group > 1;
  const logits = e.scratch(logitBytes * chunk * (isPaged ? Math.max(...pages.map(blocksOf)) * block : vocab));
  const states = Array.from({ length: group }, () => ({
    hidden: e.scratch(4 * chunk * width),
    maxima: e.scratch(4 * blocks * chunk),
    sums: e.scratch(4 * blocks * chunk),
    own: e.scratch(4 * chunk * each),
    best: correct === null ? null : e.scratch(4 * blocks * chunk),
    parts: gradient?.dh ? e.scratch(4 * PARTS * chunk * width) : null,
  }));
  /** Sums that are computed a second time, where the first ones have become factors. */
  const repeated = isPaged && gradient ? e.scratch(4 * blocks * chunk) : null;
  const type = quantised?.format ?? HALF_CODE[bType];
  const codeScales = quantised?.scales ?? null;
  const step = scale === null ? 0 : scaleStep(e, scale);

  e.emit(Opcode.LabelledRows, [labels, rows, count], [tokens, each]);
  for (let start = 0; start < tokens; start += group * chunk) {
    const chunks = states.flatMap((state, i) => {
      const first = start + i * chunk;
      if (first >= tokens) return [];
      const common = (page: Page | null, sums: Operand): Operand[] => {
        const offset = page === null || isPaged ? 0 : logitBytes * page.blocks[0] * block * chunk;
        return [labels, rows, count, { base: logits, offset }, state.maxima, sums, state.own];
      };
      // The strides of maxima and sums are those of a whole chunk; what is beyond the labelled rows is not computed.
      const sizes: Scalar[] = [first, chunk, width, vocab, block, each];
      return [{ ...state, first, size: Math.min(chunk, tokens - first), sizes, common }];
    });
    const emitLogits = ({ hidden, sizes, common }: (typeof chunks)[number], page: Page, sums: Operand, best: Operand) =>
      e.emit(
        Opcode.NativeLogits,
        [...common(page, sums), hidden, page.of(w), best, page.of(codeScales)],
        [...sizes, type, ...words.logits, { f32: softcap }, ...page.blocks, Number(isNarrow)],
      );
    for (const { first, size, hidden } of chunks) e.emit(Opcode.GatherRows, [h, rows, count, hidden], [first, size, width]);
    for (const page of pages) for (const each of chunks) emitLogits(each, page, each.sums, each.best);
    for (const { common, sums, best, sizes } of chunks)
      e.emit(Opcode.NativeLogitsEnd, [...common(null, sums), step === 0 ? null : scale, losses, best, hits], sizes);
    if (!gradient) continue;
    const { dloss, dh, dw, sum } = gradient;
    for (const page of pages) {
      for (const each of chunks) {
        const { first, hidden, sums, parts, sizes, common } = each;
        if (repeated) emitLogits(each, page, repeated, null);
        // The first chunk starts from the sum, the others from what is there.
        const start = dw === null ? null : first > 0 ? dw : sum;
        const weight = start === null ? words.weight : words.weightAdd;
        e.emit(
          Opcode.NativeLogitsGrad,
          [...common(page, sums), hidden, page.of(w), scale, dloss, parts, dw, start, page.of(codeScales)],
          [
            ...sizes,
            type,
            PARTS,
            ...words.hidden,
            ...words.hiddenAdd,
            ...weight,
            { f32: softcap },
            step,
            ...page.blocks,
            Number(isNarrow),
          ],
        );
      }
    }
    for (const { first, size, hidden, sums, parts, sizes, common } of chunks) {
      if (!parts) continue;
      e.emit(Opcode.NativeLogitsSum, [...common(null, sums), parts, hidden], [...sizes, PARTS]);
      e.emit(Opcode.ScatterRows, [hidden, rows, count, dh], [first, size, width]);
    }
  }
  if (gradient?.dh) e.emit(Opcode.ClearRows, [labels, gradient.dh], [tokens, width, each]);
  if (tokenLosses !== undefined) emitTokenLosses(e, { losses, rows, count, labels, tokens, each }, tokenLosses);
  if (loss !== null) e.emit(Opcode.LossSum, [losses, rows, count, scale, loss], [step, each]);
  if (correct !== null) e.emit(Opcode.HitSum, [hits, count, correct], []);
  return true;
}

/** Chunks that pass over W together: as many as their rows of h, and of its gradient, leave memory for that a chunk's logits would take. */
function groupChunks(tokens: number, chunk: number, width: number, hasGradient: boolean): number {
  const chunks = Math.ceil(tokens / chunk);
  const bytes = 4 * chunk * width * (hasGradient ? 1 + PARTS : 1);
  const most = Math.max(1, Math.floor(LOGITS_BYTES / bytes));
  return Math.ceil(chunks / Math.ceil(chunks / most));
}

/** A range of blocks of W. */
interface Page {
  /** Scalars: the first block and the end. */
  readonly blocks: readonly [number, number];
  /** Its part of an operand that has a row for each class. */
  of(operand: Operand): Operand;
}

const blocksOf = ({ blocks: [from, to] }: Page): number => to - from;

function pagesOf(e: Pick<Emitter, "type">, w: string, block: number): Page[] {
  const vocab = e.type(w).shape[0]!;
  const blockBytes = (byteLength(e.type(w)) / vocab) * block;
  // A multiple of the parts, so that each has as much to do.
  const blocks = PARTS * Math.ceil(PAGE_BYTES / blockBytes / PARTS);
  const end = Math.ceil(vocab / block);
  return Array.from({ length: Math.ceil(end / blocks) }, (_, i): Page => {
    const [from, to] = [i * blocks, Math.min(end, (i + 1) * blocks)];
    const [first, rows] = [from * block, Math.min(vocab, to * block) - from * block];
    return {
      blocks: [from, to],
      of(operand) {
        if (typeof operand !== "string") return operand;
        const rowBytes = byteLength(e.type(operand)) / vocab;
        return { base: operand, offset: first * rowBytes, bytes: rows * rowBytes };
      },
    };
  });
}

/** Rows of a chunk, chunks of nearly equal size; null: not even a few rows of logits fit. */
export function chunkRows(tokens: number, vocab: number, type: keyof typeof MOST_ROWS): number | null {
  const fitting = Math.floor(LOGITS_BYTES / (DTYPE_BYTES[type] * vocab * ROWS_UNIT)) * ROWS_UNIT;
  const most = Math.min(MOST_ROWS[type], fitting);
  if (most === 0) return null;
  const equal = Math.ceil(tokens / Math.ceil(tokens / most));
  return Math.ceil(equal / ROWS_UNIT) * ROWS_UNIT;
}

function sessionsOf(native: NativeLibrary) {
  const session = (transA: boolean, transB: boolean, addend: "none" | "matrix") =>
    native.product({ transA, transB, addend, alpha: 1 });
  const words = (...kind: Parameters<typeof session>) => sessionWords(session(...kind));
  return {
    isBf16: takesBf16(session(false, true, "none")),
    logits: words(false, true, "none"),
    hidden: words(true, false, "none"),
    hiddenAdd: words(true, false, "matrix"),
    weight: words(false, false, "none"),
    weightAdd: words(false, false, "matrix"),
  };
}
