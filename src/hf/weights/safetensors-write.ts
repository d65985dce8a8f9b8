import { elements, type Shape } from "../../graph/types.ts";
import { type DType } from "../../base/dtype.ts";
import { fileIo, writeAtomic, type FileIo } from "../../base/files/files.ts";
import { STORED_BITS, STORED_NAMES } from "./safetensors.ts";

/**
 * A tensor to write. `data` may be a function, called when its turn comes, so that only one tensor is in memory, or pieces
 * that are made one after the other, so that only one of them is.
 */
export interface TensorData {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  readonly data: ArrayBufferView | (() => ArrayBufferView) | { pieces(): Iterable<ArrayBufferView> };
}

/**
 * Writes a `.safetensors` file atomically. Tensors are laid out in the order of their names.
 * @throws {UserError} full disk, unwritable folder; nothing is left behind
 */
export function writeSafetensors(
  path: string,
  tensors: readonly TensorData[],
  metadata: Readonly<Record<string, string>> = { format: "pt" },
  io: FileIo = fileIo,
): void {
  const ordered = [...tensors].sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  const fields: string[] = [`"__metadata__":${JSON.stringify(metadata)}`];
  let end = 0;
  for (const [i, tensor] of ordered.entries()) {
    if (tensor.name === ordered[i - 1]?.name || tensor.name === "__metadata__") {
      throw new Error(`${path}: tensor name ${JSON.stringify(tensor.name)} is taken`);
    }
    const bytes = storedBytes(tensor);
    const entry = { dtype: STORED_NAMES[tensor.dtype], shape: tensor.shape, data_offsets: [end, end + bytes] };
    fields.push(`${JSON.stringify(tensor.name)}:${JSON.stringify(entry)}`);
    end += bytes;
  }
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  // The data starts at a multiple of 8, so that a reader can map any dtype in place.
  const header = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(json, 8);
  writeAtomic(path, chunks(header, ordered), io);
}

function* chunks(header: Uint8Array, tensors: readonly TensorData[]): Iterable<Uint8Array> {
  yield header;
  for (const tensor of tensors) yield* tensorPieces(tensor);
}

/** The bytes of a tensor to write, piece by piece. */
export function* tensorPieces(tensor: TensorData): Iterable<Uint8Array> {
  const { data } = tensor;
  let bytes = 0;
  for (const { buffer, byteOffset, byteLength } of typeof data === "function"
    ? [data()]
    : "pieces" in data
      ? data.pieces()
      : [data]) {
    bytes += byteLength;
    yield new Uint8Array(buffer, byteOffset, byteLength);
  }
  if (bytes !== storedBytes(tensor)) {
    throw new Error(`${tensor.name}: ${bytes} bytes given for ${tensor.dtype}[${tensor.shape.join(", ")}]`);
  }
}

export function storedBytes(tensor: Pick<TensorData, "dtype" | "shape">): number {
  return (elements(tensor.shape) * STORED_BITS[STORED_NAMES[tensor.dtype]]!) / 8;
}
