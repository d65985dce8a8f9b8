import { Opcode } from "../../assembly/opcodes.ts";
import { emitGemm } from "./gemm-kernels.ts";
import {
  emitLoss,
  forEachChunk,
  type Head,
  type HeadAttrs,
  headInputs,
  headSizes,
  type HeadUpdate,
  isHead,
  isOne,
  isScale,
  isUpdate,
  softCapOf,
  startHead,
} from "./head-kernels.ts";
import { emitNativeHead } from "./native-head.ts";
import { crossEntropyBody, crossEntropyGradBody } from "./linear-cross-entropy-body.ts";
import { expectCap } from "./soft-cap.ts";
import { defineOp, expectShape, type KernelEmitter, notDifferentiable, type OpDef } from "./types.ts";

/**
 * `LinearCrossEntropy(h, W, labels, scale) -> loss, correct`: the sum over tokens with a label of scale times -log softmax(h W^T)[label], the
 * logits h W^T capped with `softcap`; and how many of these labels have the greatest logit (of equal ones the first class counts).
 * h [T, H] and W [V, H] of one float type (for the kernel f32, W maybe half or quantised in memory), labels i32[T] (-100: none), scale f32[1], or f32[T] where tokens have weights,
 * loss f32[1], correct i32[1]. Scales have either sign, or are 0: a preference loss makes a rejected text's tokens less likely. The least that
 * a gradient shows is a probability times its scale of 1e-26.
 *
 * With the attribute alpha, the logits are h W^T + alpha low up^T of two more inputs, low f32[T, r] and up f32[V, r]: a head with a
 * low-rank adapter.
 *
 * A token may have L labels, which lie behind each other in labels i32[T L], as do the scales f32[T L]: its losses by each of them cost one pass over the
 * vocabulary. `correct` is of the first label.
 *
 * The logits are computed for a chunk of rows at a time, and only for rows that have a label.
 */
export const LinearCrossEntropy: OpDef<HeadAttrs> = defineOp<HeadAttrs>({
  name: "LinearCrossEntropy",
  domain: "remat",
  cost: "compute",
  infer([h, w, labels, scale, low, up], attrs) {
    const fits = isHead(h, w, labels) && isScale(labels, scale) && isUpdate(h, w, low, up, attrs);
    expectCap("LinearCrossEntropy", attrs.softcap);
    expectShape(
      "LinearCrossEntropy",
      "h [T, H] and W [V, H] of one float type, labels i32[T L], scale f32[1] or f32[T L]; with alpha low f32[T, r] and up f32[V, r]",
      fits,
      h,
      w,
      labels,
      scale,
      low,
      up,
    );
    return [
      { dtype: "f32", shape: [1] },
      { dtype: "i32", shape: [1] },
    ];
  },
  gradient(ctx) {
    const inputs = [...[0, 1, 2, 3].map((i) => ctx.input(i)), ctx.grad(0)!];
    const update = ctx.attrs.alpha === undefined ? [] : ["", ctx.input(4), ctx.input(5)];
    const [dh, dw, , dlow, dup] = ctx.builder.node(LinearCrossEntropyGrad, [...inputs, ...update], ctx.attrs);
    const wanted = (i: number, gradient: string | undefined) => (ctx.needs(i) && gradient !== undefined ? gradient : null);
    return [wanted(0, dh), wanted(1, dw), null, null, wanted(4, dlow), wanted(5, dup)];
  },
  body: (body, inputs, types, attrs) => crossEntropyBody(body, inputs, headSizes(types, attrs, 4), attrs.softcap),
  lower(e) {
    const wanted = (i: number) => (e.used(i) ? e.output(i) : null);
    if (e.attrs.alpha === undefined && emitNativeHead(e, { ...headInputs(e), loss: wanted(0), correct: wanted(1) })) return;
    const head = startHead(e, 4);
    const hits = e.used(1) ? e.scratch(4 * head.tokens) : null;
    forEachChunk(e, head, (chunk) => {
      const { labels, rows, count, losses } = head;
      e.emit(
        Opcode.CrossEntropy,
        [head.logits, labels, rows, count, head.scale, null, losses],
        [chunk.first, chunk.rows, head.vocab, softCapOf(e), head.step, head.each],
      );
      if (hits) e.emit(Opcode.Hits, [head.logits, labels, rows, count, hits], [chunk.first, chunk.rows, head.vocab, head.each]);
    });
    if (e.used(0)) emitLoss(e, head, e.output(0));
    if (hits) e.emit(Opcode.HitSum, [hits, head.count, e.output(1)], []);
  },
  narrow: [0, 1],
  halfInputs: [1],
  quantisedInputs: [1],
});

/**
 * `LinearCrossEntropyGrad(h, W, labels, scale, dloss, sum?, low?, up?) -> dh, dW, loss, dlow?, dup?`: the gradients of the loss times dloss f32[1], and the loss.
 * dh like h, zero where a token has no label; dW f32[V, H], added to `sum` where it is given. With P = softmax(h W^T) and Y the
 * one-hot labels, D = scale dloss (P - Y), summed over a token's labels (times 1 - (X / softcap)^2, X the capped logits): dh = D W, dW = D^T h; with alpha
 * also dlow = alpha D up, f32[T, r], and dup = alpha D^T low, f32[V, r]. What is not used is not computed.
 */
export const LinearCrossEntropyGrad: OpDef<HeadAttrs> = defineOp<HeadAttrs>({
  name: "LinearCrossEntropyGrad",
  domain: "remat",
  cost: "compute",
  infer([h, w, labels, scale, dloss, sum, low, up], attrs) {
    expectCap("LinearCrossEntropyGrad", attrs.softcap);
    const sums = !sum || (sum.dtype === "f32" && sum.shape.join() === w?.shape.join());
    const fits = isHead(h, w, labels) && isScale(labels, scale) && isOne(dloss) && sums && isUpdate(h, w, low, up, attrs);
    expectShape(
      "LinearCrossEntropyGrad",
      "h [T, H] and W [V, H] of one float type, labels i32[T L], scale f32[1] or f32[T L], dloss f32[1], sum f32[V, H]; with alpha low f32[T, r] and up f32[V, r]",
      fits,
      h,
      w,
      labels,
      scale,
      dloss,
      sum,
      low,
      up,
    );
    return [h!, { dtype: "f32", shape: w!.shape }, { dtype: "f32", shape: [1] }, ...(low && up ? [low, up] : [])];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body: (body, inputs, types, attrs) => crossEntropyGradBody(body, inputs, headSizes(types, attrs, 6), attrs.softcap),
  lower(e) {
    const wanted = (i: number) => (e.used(i) ? e.output(i) : null);
    const gradient = { dloss: e.input(4)!, dh: wanted(0), dw: wanted(1), sum: e.input(5) };
    if (e.attrs.alpha === undefined && emitNativeHead(e, { ...headInputs(e), loss: wanted(2), correct: null, gradient })) return;
    const head = startHead(e, 6);
    const { hidden, logits, labels, rows, count, losses, width, vocab, update } = head;
    const [w, sum] = [e.input(1)!, e.input(5)];
    const [dh, dw, loss] = [e.output(0), e.output(1), e.output(2)];
    forEachChunk(e, head, (chunk) => {
      const { first } = chunk;
      const used = [first, chunk.rows, vocab, softCapOf(e), head.step, head.each];
      e.emit(Opcode.CrossEntropy, [logits, labels, rows, count, head.scale, e.input(4), losses], used);
      if (e.used(1)) {
        // The first chunk starts from the sum, the others from what is there.
        const start = first > 0 ? dw : sum;
        const c = start === null ? null : { value: start, row: false };
        const clip = { dim: "k", count, first } as const;
        emitGemm(e, { a: logits, b: hidden, c, out: dw, m: vocab, n: width, k: chunk.rows, transA: true, clip });
      }
      if (e.used(0)) {
        const clip = { dim: "m", count, first } as const;
        emitGemm(e, { a: logits, b: w, out: hidden, m: chunk.rows, n: width, k: vocab, ...head.stored, clip });
        e.emit(Opcode.ScatterRows, [hidden, rows, count, dh], [first, chunk.rows, width]);
      }
      if (update) emitUpdateGradients(e, head, update, chunk);
    });
    if (e.used(0)) e.emit(Opcode.ClearRows, [labels, dh], [head.tokens, width, head.each]);
    if (update && e.used(3)) e.emit(Opcode.ClearRows, [labels, e.output(3)], [head.tokens, update.rank, head.each]);
    if (e.used(2)) emitLoss(e, head, loss);
  },
  // Each chunk of h is copied before its gradient is written.
  inPlace: [[0, 0]],
  accumulates: { output: 1, input: 5 },
  narrow: [0, 1],
  halfInputs: [1],
  quantisedInputs: [1],
});

/** dup and dlow of a chunk, whose logits hold D: dup first, because dlow takes the place of low. */
function emitUpdateGradients(
  e: KernelEmitter<HeadAttrs>,
  { logits, rows, count, vocab }: Head,
  { up, rank, alpha, gathered }: HeadUpdate,
  { first, rows: size }: { readonly first: number; readonly rows: number },
): void {
  if (e.used(4)) {
    const dup = e.output(4);
    const c = first > 0 ? { value: dup, row: false } : null;
    const clip = { dim: "k", count, first } as const;
    emitGemm(e, { a: logits, b: gathered, c, out: dup, m: vocab, n: rank, k: size, transA: true, alpha, clip });
  }
  if (e.used(3)) {
    const clip = { dim: "m", count, first } as const;
    emitGemm(e, { a: logits, b: up, out: gathered, m: size, n: rank, k: vocab, alpha, clip });
    e.emit(Opcode.ScatterRows, [gathered, rows, count, e.output(3)], [first, size, rank]);
  }
}
