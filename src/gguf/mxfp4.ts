import type { TensorEntry, TensorSource } from "../hf/weights/safetensors.ts";
import { MXFP4_BLOCK, type TensorPart } from "../hf/weights/tensor-part.ts";
import { GGML_TYPES } from "./blocks/types.ts";

/** A matrix that a checkpoint has in MXFP4. */
export type PackedEntry = TensorEntry & { readonly part: TensorPart };

/** Tells whether a matrix is in MXFP4 in the file. */
export function isPacked(entry: TensorEntry | null): entry is PackedEntry {
  return entry?.part?.layout.kind === "mxfp4";
}

/**
 * A matrix of MXFP4 with the codes that the file has, in ggml's order: for each 32 numbers their exponent, then 16 bytes, the lower halves of which are the first
 * 16 codes and the higher halves the others. Checkpoints have two codes that follow each other in a byte, and the exponents by themselves.
 */
export function packedRows(source: TensorSource, entry: PackedEntry): Uint8Array {
  const { layout, slabs } = entry.part;
  if (layout.kind !== "mxfp4") throw new Error(`${entry.name} is not in MXFP4`);
  const [codes, exponents] = slabs.map((slab) => {
    const memory = new Uint8Array(slab.bytes);
    source.read({ ...entry, ...slab, part: undefined }, memory);
    return memory;
  }) as [Uint8Array, Uint8Array];
  const groups = layout.columns / MXFP4_BLOCK;
  const half = MXFP4_BLOCK / 2;
  const { bytes } = GGML_TYPES.mxfp4;
  const rows = entry.shape[0]!;
  const out = new Uint8Array(rows * groups * bytes);
  for (let row = 0; row < rows; row++) {
    for (let group = 0; group < groups; group++) {
      const from = (layout.first + row * layout.rowStep) * groups + group;
      const to = (row * groups + group) * bytes;
      const code = (i: number) => (codes[from * half + (i >> 1)]! >> (4 * (i & 1))) & 15;
      out[to] = exponents[from]!;
      for (let i = 0; i < half; i++) out[to + 1 + i] = code(i) | (code(i + half) << 4);
    }
  }
  return out;
}
