import type { Quantised } from "../../src/graph/types.ts";
import { NF4_VALUES, QUANTISED_BLOCK, quantisedTypes } from "../../src/ops/dequantize.ts";
import { f32, type TestTensor } from "./ops.ts";

export const QUANTISED_FORMATS: readonly Quantised[] = ["q8", "nf4"];

export interface QuantisedTensor {
  readonly codes: TestTensor;
  readonly scales: TestTensor;
  /** The numbers that codes and scales stand for, f32. */
  readonly values: TestTensor;
}

/** The plain definition of quantisation, of a matrix with whole blocks in its rows. */
export function quantised(tensor: TestTensor, format: Quantised): QuantisedTensor {
  const [rows, columns] = tensor.shape as [number, number];
  const types = quantisedTypes(format, [rows, columns]);
  const scales = f32(types.scales.shape, new Float32Array((rows * columns) / QUANTISED_BLOCK));
  const values = f32([rows, columns], new Float32Array(rows * columns));
  const codes = new Int8Array(rows * columns);
  for (let block = 0; block < scales.data.length; block++) {
    const from = block * QUANTISED_BLOCK;
    const x = tensor.data.subarray(from, from + QUANTISED_BLOCK);
    const most = Math.max(...Array.from(x, Math.abs));
    const inverse = Math.fround(1 / Math.max(most, Math.fround(1e-38)));
    scales.data[block] = format === "q8" ? most / 127 : most;
    x.forEach((value, i) => {
      const scaled = Math.fround(value * inverse);
      const code = format === "q8" ? roundEven(Math.fround(scaled * 127)) : nearest(scaled);
      codes[from + i] = code;
      values.data[from + i] = (format === "q8" ? code : Math.fround(NF4_VALUES[code]!)) * scales.data[block]!;
    });
  }
  const pairs = Uint8Array.from({ length: codes.length / 2 }, (_, i) => codes[2 * i]! | (codes[2 * i + 1]! << 4));
  const stored: TestTensor =
    format === "q8"
      ? { dtype: "i8", shape: types.codes.shape, data: codes }
      : { dtype: "u8", shape: types.codes.shape, data: pairs };
  return { codes: stored, scales, values };
}

function roundEven(x: number): number {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

/** How many of the middles of neighbours, in f32, lie below. */
function nearest(x: number): number {
  const numbers = NF4_VALUES.map(Math.fround);
  return numbers.slice(1).filter((value, i) => x > Math.fround((value + numbers[i]!) / 2)).length;
}
