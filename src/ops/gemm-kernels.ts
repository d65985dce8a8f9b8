import { Opcode } from "../../assembly/opcodes.ts";
import type { FloatType } from "../base/dtype.ts";
import { kernelFormat, QUANTISED_BLOCK, quantisedCode } from "./dequantize.ts";
import { HALF_CODE } from "./half.ts";
import {
  FEW_SESSION,
  INT8_SESSION,
  type KernelEmitter,
  type Operand,
  type ProductShape,
  type Scratch,
  sessionWords,
  takesBf16,
} from "./types.ts";

/** How an operand of a product lies in memory, input `i` of an operator. */
export function storedOperand(
  e: Pick<KernelEmitter, "input" | "scales" | "type">,
  i: number,
): Pick<Product, "bType" | "quantised"> {
  const type = e.type(e.input(i)!);
  const scales = e.scales(i);
  return scales === null ? { bType: type.dtype as FloatType } : { quantised: { scales, format: kernelFormat(type) } };
}

/** One product for the kernel `Gemm` (assembly/gemm.ts). */
export interface Product {
  /** Stored [m, k], or [k, m] with `transA`. */
  readonly a: Operand;
  /** Stored [k, n], or [n, k] with `transB`. */
  readonly b: Operand;
  /** The addend: [m, n], which may be the output, or one row [n] for all. */
  readonly c?: { readonly value: Operand; readonly row: boolean } | null;
  readonly out: Operand;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly aType?: FloatType;
  readonly bType?: FloatType;
  /** B is codes. */
  readonly quantised?: { readonly scales: Operand; readonly format: number };
  readonly alpha?: number;
  /** Gives what B is widened into, if it is; absent: scratch of its own. */
  readonly widened?: () => Scratch;
  /** Threads share the columns of a native product, of which few of the rows are computed as a rule. A is not transposed, C is none or the output, alpha 1. */
  readonly byColumns?: true;
  /** The part of dimension `dim` that is computed: below the i32 `count`, when the dimension begins at `first`. */
  readonly clip?: { readonly dim: "m" | "k"; readonly count: Operand; readonly first: number };
}

/** Most terms of a native product of which threads share the columns (assembly/gemm-columns.ts). */
const MOST_COLUMN_TERMS = 7168;
/** A half or quantised weight is widened for a native product if it has at most so many bytes then. */
const MOST_WIDENED = 64 * 2 ** 20;

/** What products are emitted into. */
export type ProductEmitter = Pick<KernelEmitter, "emit" | "scratch" | "native" | "few" | "isGradient">;

export function emitGemm(e: ProductEmitter, product: Product): void {
  const { a, b, c, out, m, n, k, transA, transB, aType = "f32", bType = "f32", quantised, alpha = 1, clip } = product;
  const mode = !c ? 0 : c.row ? 2 : 1;
  const clipped = clip ? { m: 1, k: 2 }[clip.dim] : 0;
  const session = isInt8(e, product) ? { whole: INT8_SESSION, more: 0 } : nativeSession(e, product);
  let [right, rightType, scales] = [b, quantised?.format ?? HALF_CODE[bType], quantised?.scales ?? null];
  const few = session === null && isFew(e, product) ? FEW_SESSION : 0;
  const byColumns = session !== null && product.byColumns === true && !takesBf16(session.whole);
  const isTaken =
    session !== null && (session.whole === INT8_SESSION || (takesBf16(session.whole) && rightType === HALF_CODE.bf16));
  if (session !== null && rightType !== HALF_CODE.f32 && !isTaken && !byColumns) {
    right = product.widened?.() ?? e.scratch(4 * k * n);
    if (quantised) e.emit(Opcode.Dequantize, [b, scales, right], [(k * n) / QUANTISED_BLOCK, rightType]);
    else e.emit(Opcode.CastHalf, [b, right], [k * n, rightType, HALF_CODE.f32]);
    [rightType, scales] = [HALF_CODE.f32, null];
  }
  e.emit(
    Opcode.Gemm,
    [a, right, c?.value ?? null, out, clip?.count ?? null, scales],
    [
      m,
      n,
      k,
      Number(!!transA),
      Number(!!transB),
      HALF_CODE[aType],
      rightType,
      mode,
      { f32: alpha },
      clipped,
      clip?.first ?? 0,
      ...sessionWords(session?.whole ?? few),
      ...sessionWords(session?.more ?? 0),
      byColumns ? (e.native!.thin ? THIN : 1) : session === null && isShort(e, product) ? SHORT : 0,
    ],
  );
}

/** By columns, and by machine code, as assembly/gemm.ts has it. */
const THIN = 2;
/** A^T B of few rows or columns by machine code. */
const SHORT = 3;
/** Fewest rows, columns and terms from which products of codes pay for the packing of both. */
const LEAST_INT8 = { m: 32, n: 64, k: 64 } as const;
const Q8 = quantisedCode("q8");

/** Tells whether values are quantised for a product: those of the forward pass. What gradients lose would be lost for all layers below. */
function isInt8({ native, isGradient }: Pick<KernelEmitter, "native" | "isGradient">, product: Product): boolean {
  const { a, m, n, k, transA, transB, aType = "f32", quantised, clip, byColumns } = product;
  const isPlain = !transA && transB === true && aType === "f32" && !clip && !byColumns;
  const isLarge = m >= LEAST_INT8.m && n >= LEAST_INT8.n && k >= LEAST_INT8.k;
  return native?.int8 === true && quantised?.format === Q8 && isPlain && isLarge && !(typeof a === "string" && isGradient(a));
}

/** Most of the few, as assembly/gemm-short.ts has it; fewest of the others, and of terms, from which two calls for each thread pay. */
const MOST_SHORT = 64;
const LEAST_LONG = 128;
const LEAST_SHORT_TERMS = 32;

/** Tells whether machine code computes a product with a transposed A and one short side: a gradient of an adapter. */
function isShort(
  { native }: Pick<KernelEmitter, "native">,
  { m, n, k, c, transA, transB, aType = "f32", bType = "f32", quantised, clip }: Product,
): boolean {
  const isPlain = transA === true && !transB && aType === "f32" && bType === "f32" && !quantised && !clip && !c?.row;
  return (
    native?.thin === true && isPlain && Math.min(m, n) <= MOST_SHORT && Math.max(m, n) >= LEAST_LONG && k >= LEAST_SHORT_TERMS
  );
}

/** Most rows, and terms, of a product that is computed from codes as they are. */
const FEW_ROWS = 8;
const FEW_TERMS = 2 ** 16;

/** Tells whether machine code computes a product of few rows with a quantised matrix. */
function isFew({ few }: Pick<KernelEmitter, "few">, { m, k, transA, transB, aType = "f32", quantised, clip }: Product): boolean {
  const isPlain = !transA && transB === true && aType === "f32" && quantised !== undefined && clip === undefined;
  return few && isPlain && m <= FEW_ROWS && k <= FEW_TERMS;
}

/** Sessions of a whole product, and of one that adds to what is there, as a transposed A is multiplied. */
function nativeSession(
  { native }: Pick<KernelEmitter, "native">,
  product: Product,
): { readonly whole: number; readonly more: number } | null {
  const { m, n, k, transA = false, transB = false, c, alpha = 1, aType = "f32", bType = "f32", quantised, byColumns } = product;
  if (!native || aType !== "f32" || (byColumns && k > MOST_COLUMN_TERMS)) return null;
  if (!byColumns && (bType !== "f32" || quantised) && 4 * k * n > MOST_WIDENED) return null;
  const shape: ProductShape = { m, n, k, transA, transB, addend: !c ? "none" : c.row ? "row" : "matrix", alpha };
  if (!native.pays(shape)) return null;
  return { whole: native.product(shape), more: transA ? native.product({ ...shape, addend: "matrix" }) : 0 };
}
