/** The bytes that a header's length is a multiple of, so that what follows is aligned. */
const ALIGNMENT = 64;

/** "\x93NUMPY", version 1.0. */
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0];

/** Begins a file of NumPy's format (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html): the rows of a matrix of float32 follow. */
export function npyHeader(shape: readonly [rows: number, columns: number]): Uint8Array {
  const text = `{'descr': '<f4', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const before = MAGIC.length + 2;
  const length = Math.ceil((before + text.length + 1) / ALIGNMENT) * ALIGNMENT - before;
  const header = Buffer.alloc(before + length, " ");
  header.set(MAGIC);
  header.writeUInt16LE(length, MAGIC.length);
  header.write(text, before);
  header.write("\n", before + length - 1);
  return header;
}
