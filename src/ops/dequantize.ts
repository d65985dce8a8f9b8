import { Opcode } from "../../assembly/opcodes.ts";
import { elements, type Quantised, type Shape, type TensorType, type WeightType } from "../graph/types.ts";
import { type DType } from "../base/dtype.ts";
import { type BodyBuilder, defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** Elements of a row with one scale. */
export const QUANTISED_BLOCK = 64;

/**
 * The numbers that NF4's codes 0..15 stand for: quantiles of the normal distribution, scaled to [-1, 1] (Dettmers et al. 2023, QLoRA,
 * https://arxiv.org/abs/2305.14314, appendix E). assembly/quantised.ts has their bytes, assembly/quantise.ts the middles between them.
 */
export const NF4_VALUES: readonly number[] = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
];

interface Format {
  /** The type of the codes, which tells the formats apart. */
  readonly dtype: DType;
  /** Codes in an element of it. */
  readonly codes: number;
  /** By which a kernel command names it (assembly/quantised.ts). */
  readonly code: number;
}

const FORMATS: Readonly<Record<Quantised, Format>> = {
  q8: { dtype: "i8", codes: 1, code: 3 },
  nf4: { dtype: "u8", codes: 2, code: 4 },
};

export function isQuantised(type: WeightType): type is Quantised {
  return type in FORMATS;
}

/** How a quantised matrix lies in memory: two tensors. Its columns are a multiple of `QUANTISED_BLOCK`. */
export function quantisedTypes(
  format: Quantised,
  [rows, columns]: readonly [number, number],
): { codes: TensorType; scales: TensorType } {
  const { dtype, codes } = FORMATS[format];
  return {
    codes: { dtype, shape: [rows, columns / codes] },
    scales: { dtype: "f32", shape: [rows, columns / QUANTISED_BLOCK] },
  };
}

/** The format of codes; null where the tensor is no such thing. */
export function formatOfCodes({ dtype }: TensorType): Quantised | null {
  return (Object.keys(FORMATS) as Quantised[]).find((format) => FORMATS[format].dtype === dtype) ?? null;
}

/** Shape of the matrix whose codes have this one. */
export function matrixShape(format: Quantised, [rows, width]: Shape): [number, number] {
  return [rows!, width! * FORMATS[format].codes];
}

/** The number by which a kernel command names a format. */
export function quantisedCode(format: Quantised): number {
  return FORMATS[format].code;
}

/** The number by which a kernel command names the format of codes. */
export function kernelFormat(codes: TensorType): number {
  return quantisedCode(formatOfCodes(codes)!);
}

/**
 * `Dequantize(codes, scales)`: a matrix f32[rows, columns] whose elements are what their codes stand for times the scale of their
 * block of 64 in a row, scales f32[rows, columns / 64]. Codes are integers, i8[rows, columns] (q8), or two indices of
 * `NF4_VALUES` in a byte, the first one in its lower half, u8[rows, columns / 2] (nf4). A kernel that reads codes itself
 * (`quantisedInputs`) spares it.
 */
export const Dequantize = defineOp<NoAttrs>({
  name: "Dequantize",
  domain: "remat",
  cost: "memory",
  infer([codes, scales]) {
    const format = codes && formatOfCodes(codes);
    const [rows = 0, width = 0] = codes?.shape ?? [];
    const columns = format ? width * FORMATS[format].codes : 0;
    const fits =
      !!format &&
      codes.shape.length === 2 &&
      scales?.dtype === "f32" &&
      scales.shape.join() === `${rows},${columns / QUANTISED_BLOCK}`;
    expectShape(
      "Dequantize",
      "codes i8[rows, columns] or u8[rows, columns / 2], scales f32[rows, columns / 64]",
      fits,
      codes,
      scales,
    );
    return [{ dtype: "f32", shape: [rows, columns] }];
  },
  gradient: notDifferentiable("a quantised weight is frozen"),
  body(body, [codes, scales], types) {
    const [rows, blocks] = types[1]!.shape as [number, number];
    const each = body.ints([rows * blocks, QUANTISED_BLOCK]);
    const values = body.op("Reshape", [valuesOf(body, codes!, types[0]!), each]);
    const scaled = body.op("Mul", [values, body.op("Reshape", [scales!, body.ints([rows * blocks, 1])])]);
    return [body.op("Reshape", [scaled, body.ints([rows, blocks * QUANTISED_BLOCK])])];
  },
  lower(e) {
    const [codes, scales, y] = [e.input(0)!, e.input(1)!, e.output(0)];
    e.emit(Opcode.Dequantize, [codes, scales, y], [elements(e.type(scales).shape), kernelFormat(e.type(codes))]);
  },
});

/**
 * Returns what codes stand for, before the scale. A byte of NF4 looks up a pair. (ONNX's own DequantizeLinear is not used: ONNX Runtime may
 * turn it and a product into one with 8-bit activations, which is another number.)
 */
function valuesOf(body: BodyBuilder, codes: string, type: TensorType): string {
  if (formatOfCodes(type) === "q8") {
    if (body.integers !== "narrow") return body.op("Cast", [codes], { to: "f32" });
    // A byte without its sign, which makes it 256 more where it was negative.
    const bits = body.op("Cast", [body.op("Cast", [codes], { to: "i32" })], { to: "f32" });
    const isNegative = body.op("GreaterOrEqual", [bits, body.scalar(128)]);
    return body.op("Where", [isNegative, body.op("Sub", [bits, body.scalar(256)]), bits]);
  }
  const pairs = Array.from({ length: 256 }, (_, byte) => [NF4_VALUES[byte & 15]!, NF4_VALUES[byte >> 4]!]);
  const table = body.constant({ dtype: "f32", shape: [256, 2], data: pairs.flat() });
  return body.op("Gather", [table, body.op("Cast", [codes], { to: "i32" })]);
}
