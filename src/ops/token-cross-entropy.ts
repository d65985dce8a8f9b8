import { Opcode } from "../../assembly/opcodes.ts";
import {
  emitTokenLosses,
  forEachChunk,
  type HeadAttrs,
  headInputs,
  headSizes,
  isHead,
  isUpdate,
  softCapOf,
  startHead,
} from "./head-kernels.ts";
import { tokenCrossEntropyBody } from "./linear-cross-entropy-body.ts";
import { emitNativeHead } from "./native-head.ts";
import { expectCap } from "./soft-cap.ts";
import { defineOp, expectShape, notDifferentiable, type OpDef } from "./types.ts";

/**
 * `TokenCrossEntropy(h, W, labels) -> losses`: -log softmax(h W^T)[label] of each token, the logits h W^T capped with `softcap`; 0 where
 * a token has no label. h [T, H] and W [V, H] of one float type (for the kernel f32, W maybe half or quantised in memory), labels i32[T]
 * (-100: none), losses f32[T]; or L of both for each token, i32[T L] and f32[T L].
 *
 * With the attribute alpha, low f32[T, r] and up f32[V, r] are inputs 4 and 5, as those of `LinearCrossEntropy`.
 *
 * It is for losses that are no weighted sum of these, such as a function of what whole texts sum to: their derivatives by each token's loss
 * are the scales of `LinearCrossEntropy`, whose gradient is theirs then.
 */
export const TokenCrossEntropy: OpDef<HeadAttrs> = defineOp<HeadAttrs>({
  name: "TokenCrossEntropy",
  domain: "remat",
  cost: "compute",
  infer([h, w, labels, none, low, up], attrs) {
    expectCap("TokenCrossEntropy", attrs.softcap);
    const fits = isHead(h, w, labels) && !none && isUpdate(h, w, low, up, attrs);
    const what = "h [T, H] and W [V, H] of one float type, labels i32[T L]; with alpha low f32[T, r] and up f32[V, r]";
    expectShape("TokenCrossEntropy", what, fits, h, w, labels, low, up);
    return [{ dtype: "f32", shape: labels!.shape }];
  },
  gradient: notDifferentiable("its gradient is that of LinearCrossEntropy with the derivatives as scales"),
  body: (body, inputs, types, attrs) => tokenCrossEntropyBody(body, inputs, headSizes(types, attrs, 4), attrs.softcap),
  lower(e) {
    const tokenLosses = e.output(0);
    if (e.attrs.alpha === undefined && emitNativeHead(e, { ...headInputs(e), loss: null, correct: null, tokenLosses })) return;
    const head = startHead(e, 4);
    const { labels, rows, count, logits, losses, vocab } = head;
    forEachChunk(e, head, ({ first, rows: size }) => {
      e.emit(
        Opcode.CrossEntropy,
        [logits, labels, rows, count, null, null, losses],
        [first, size, vocab, softCapOf(e), 0, head.each],
      );
    });
    emitTokenLosses(e, head, tokenLosses);
  },
  narrow: [0, 1],
  halfInputs: [1],
  quantisedInputs: [1],
});
