import { Opcode } from "../../assembly/opcodes.ts";
import { HALF_CODE, isFloat } from "./half.ts";
import { storedOperand } from "./gemm-kernels.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type RowNormAttrs = {
  /** Factor of the product B A. */
  readonly alpha: number;
};

/** Most rows of A: the kernel keeps a piece of each in the scratch of a thread (assembly/magnitude.ts). */
export const MOST_RANK = 1024;

/**
 * `RowNorm(W, A, B)`: the Euclidean norm of each row of W + alpha B A, f32[out]. W f32[out, in] may be half or quantised in memory,
 * A is f32[rank, in], B f32[out, rank], rank at most 1024. The sum is made row by row and nowhere kept.
 *
 * The norm counts as a constant: no gradient flows through it (DoRA, https://arxiv.org/abs/2402.09353, section 4.3).
 */
export const RowNorm: OpDef<RowNormAttrs> = defineOp<RowNormAttrs>({
  name: "RowNorm",
  domain: "remat",
  cost: "compute",
  infer([w, a, b], { alpha }) {
    if (!Number.isFinite(alpha)) throw new Error(`RowNorm: expected a finite alpha; got ${alpha}`);
    const matrices = [w, a, b].every((type) => type?.dtype === "f32" && type.shape.length === 2);
    const [rows, columns] = w?.shape ?? [];
    const rank = a?.shape[0] ?? 0;
    const fits = matrices && a!.shape[1] === columns && b!.shape[0] === rows && b!.shape[1] === rank && rank <= MOST_RANK;
    expectShape("RowNorm", `W f32[out, in], A f32[rank, in] and B f32[out, rank], rank at most ${MOST_RANK}`, fits, w, a, b);
    return [{ dtype: "f32", shape: [rows!] }];
  },
  gradient: () => [null, null, null],
  /** |w|^2 + 2 alpha w . (B A) + |alpha B A|^2 by rows, of products with a side of `rank`: W + alpha B A itself is never made. */
  body(body, [w, a, b], _types, { alpha }) {
    const rows = (x: string) => body.op("ReduceSum", [x, body.ints([1])], { keepdims: 0 });
    const factor = body.scalar(Math.fround(alpha));
    const scaled = body.op("Mul", [b!, factor]);
    const crossed = rows(body.op("Mul", [scaled, body.op("Gemm", [w!, a!], { transB: 1 })]));
    const gram = body.op("Gemm", [a!, a!], { transB: 1 });
    const own = rows(body.op("Mul", [body.op("Gemm", [scaled, gram]), scaled]));
    const base = body.op("ReduceSumSquare", [w!, body.ints([1])], { keepdims: 0 });
    const squares = body.op("Add", [body.op("Add", [base, body.op("Mul", [crossed, body.scalar(2)])]), own]);
    // Rounding may leave less than nothing of a row that the update cancels.
    const zero = body.scalar(0);
    return [body.op("Sqrt", [body.op("Where", [body.op("GreaterOrEqual", [squares, zero]), squares, zero])])];
  },
  lower(e) {
    const [w, a, b] = [e.input(0)!, e.input(1)!, e.input(2)!];
    const [rank, columns] = e.type(a).shape as [number, number];
    const { bType, quantised } = storedOperand(e, 0);
    const type = quantised?.format ?? HALF_CODE[bType !== undefined && isFloat(bType) ? bType : "f32"];
    e.emit(
      Opcode.RowNorm,
      [w, quantised?.scales ?? null, a, b, e.output(0)],
      [e.type(b).shape[0]!, columns, rank, type, { f32: e.attrs.alpha }],
    );
  },
  halfInputs: [0],
  quantisedInputs: [0],
});
