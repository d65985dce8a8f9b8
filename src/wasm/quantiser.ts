import { byteLength, type Quantised } from "../graph/types.ts";
import { DTYPE_BYTES, type FloatType } from "../base/dtype.ts";
import { kernelFormat, QUANTISED_BLOCK, quantisedTypes } from "../ops/dequantize.ts";
import { HALF_CODE } from "../ops/half.ts";
import { loadKernels } from "./kernels.ts";
import { instantiateKernels } from "./instance.ts";
import { STATIC_BYTES } from "./memory.ts";

/** Quantises a matrix piece by piece, for every executor with the same kernel, on this thread and in memory of its own. */
export interface Quantiser {
  /** Where the stored elements of a piece go, at most `PIECE_ELEMENTS`, a multiple of `QUANTISED_BLOCK`. */
  readonly input: Uint8Array;
  /** Codes and scales of the first `count` elements of `input`: views that the next piece overwrites. */
  run(format: Quantised, stored: FloatType, count: number): { readonly codes: Uint8Array; readonly scales: Uint8Array };
}

/** Elements of a piece. */
export const PIECE_ELEMENTS = 2 ** 18;

const PAGE = 65536;

export function createQuantiser(): Quantiser {
  const input = STATIC_BYTES;
  const codes = input + PIECE_ELEMENTS * DTYPE_BYTES.f32;
  const scales = codes + PIECE_ELEMENTS;
  const pages = Math.ceil((scales + (PIECE_ELEMENTS / QUANTISED_BLOCK) * DTYPE_BYTES.f32) / PAGE);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const modules = loadKernels();
  const kernels = instantiateKernels({ modules, memory, thread: 0, threads: 1, scratch: 0, native: null, control: 0 });
  const view = (address: number, bytes: number) => new Uint8Array(memory.buffer, address, bytes);
  return {
    input: view(input, codes - input),
    run(format, stored, count) {
      const blocks = count / QUANTISED_BLOCK;
      const types = quantisedTypes(format, [blocks, QUANTISED_BLOCK]);
      kernels.quantise(kernelFormat(types.codes), input, HALF_CODE[stored], codes, scales, blocks);
      return { codes: view(codes, byteLength(types.codes)), scales: view(scales, byteLength(types.scales)) };
    },
  };
}
