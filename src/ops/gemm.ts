import { sameType, type Shape, type TensorType } from "../graph/types.ts";
import { type FloatType } from "../base/dtype.ts";
import { ColumnSum } from "./column-sum.ts";
import { emitGemm, type Product, storedOperand } from "./gemm-kernels.ts";
import { isFloat } from "./half.ts";
import { emitPagedGemm } from "./paged-gemm.ts";
import { Reshape } from "./reshape.ts";
import { defineOp, expectShape, type OpDef, ShapeError } from "./types.ts";

export type GemmAttrs = {
  /** Factor of the product, 1 by default. */
  readonly alpha?: number;
  /** Factor of C: 1, or absent. */
  readonly beta?: number;
  /** 1: the operand is stored transposed. */
  readonly transA?: number;
  readonly transB?: number;
};

/**
 * `Gemm(A, B, C?)`: alpha op(A) op(B) + C, [M, N]. op(A) is [M, K], op(B) is [K, N]; C is [M, N], or one row for all,
 * [N] or [1, N]. All are of one float type; the kernel's f32 A and B may be bf16 or f16 in memory, B also quantised.
 */
export const Gemm: OpDef<GemmAttrs> = defineOp<GemmAttrs>({
  name: "Gemm",
  domain: "",
  cost: "compute",
  infer([a, b, c], attrs) {
    const { transA = 0, transB = 0, beta = 1 } = attrs;
    if (beta !== 1) throw new ShapeError(`Gemm: expected beta = 1; got ${beta}`);
    const matrices = isMatrix(a) && isMatrix(b);
    const [m, k] = matrices ? swapIf(transA, a.shape) : [0, 0];
    const [inner, n] = matrices ? swapIf(transB, b.shape) : [0, 0];
    const fits =
      matrices && k === inner && a.dtype === b.dtype && (!c || (c.dtype === a.dtype && addend(c.shape, m, n) !== "unfit"));
    expectShape(
      "Gemm",
      `floats A [M, K], B [K, N] (transA ${transA}, transB ${transB}) and C [M, N], [N] or [1, N]`,
      fits,
      a,
      b,
      c,
    );
    return [{ dtype: a!.dtype, shape: [m, n] }];
  },
  /** Y = alpha A' B' + C: dA' = alpha dY B'^T, dB' = alpha A'^T dY, dC = dY, summed over the rows that share it. */
  gradient(ctx) {
    const { builder } = ctx;
    const { alpha = 1, transA = 0, transB = 0 } = ctx.attrs;
    const [a, b, dy] = [ctx.input(0), ctx.input(1), ctx.grad(0)!];
    const product = (x: string, y: string, tx: number, ty: number) =>
      builder.value(Gemm, [x, y], { alpha, beta: 1, transA: tx, transB: ty });
    const da = () => (transA ? product(b, dy, transB, 1) : product(dy, b, 0, 1 - transB));
    const db = () => (transB ? product(dy, a, 1, transA) : product(a, dy, 1 - transA, 0));
    const dc = () => {
      const [c, out] = [builder.type(ctx.input(2)), builder.type(dy)];
      if (sameType(c, out)) return dy;
      const sums = builder.value(ColumnSum, [dy], {});
      return c.shape.length === 1 ? sums : builder.value(Reshape, [sums], { shape: c.shape });
    };
    return [ctx.needs(0) ? da() : null, ctx.needs(1) ? db() : null, ctx.needs(2) ? dc() : null];
  },
  body: "standard",
  lower(e) {
    const { alpha = 1, transA = 0, transB = 0 } = e.attrs;
    const [a, b, c, out] = [e.input(0)!, e.input(1)!, e.input(2), e.output(0)];
    const [m, n] = e.type(out).shape as [number, number];
    const [, k] = swapIf(transA, e.type(a).shape);
    const product: Product = {
      a,
      b,
      c: c === null ? null : { value: c, row: addend(e.type(c).shape, m, n) === "row" },
      out,
      m,
      n,
      k,
      transA: transA !== 0,
      transB: transB !== 0,
      aType: e.type(a).dtype as FloatType,
      ...storedOperand(e, 1),
      alpha,
    };
    if (!emitPagedGemm(e, product)) emitGemm(e, product);
  },
  inPlace: [[0, 2]],
  accumulates: { output: 0, input: 2 },
  narrow: [0, 1, 2],
  halfInputs: [0, 1],
  quantisedInputs: [1],
});

function isMatrix(type: TensorType | null | undefined): type is TensorType {
  return !!type && isFloat(type.dtype) && type.shape.length === 2;
}

function swapIf(trans: number, [rows, columns]: Shape): [number, number] {
  return trans ? [columns!, rows!] : [rows!, columns!];
}

/** How C is added to [m, n]. */
function addend(shape: Shape, m: number, n: number): "matrix" | "row" | "unfit" {
  if (shape.length === 2 && shape[0] === m && shape[1] === n) return "matrix";
  return shape.at(-1) === n && (shape.length === 1 || (shape.length === 2 && shape[0] === 1)) ? "row" : "unfit";
}
