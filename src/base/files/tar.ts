import { statSync } from "node:fs";
import { join } from "node:path";

/** Bytes of a block: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html, "ustar Interchange Format". */
const BLOCK = 512;
/** Bytes of a file, at most: its size has eleven octal digits. */
const MOST_BYTES = 8 ** 11 - 1;

/** A tar archive of some files of a folder, which is made while it is read. */
export interface Tar {
  readonly bytes: number;
  pieces(): AsyncGenerator<Uint8Array>;
}

/**
 * Packs files of a folder into an archive, each by its path in the folder behind `root`. Owners and times are not in it: the same files make the
 * same archive.
 * @throws a path or file that is too long for the format
 */
export function tarOf(folder: string, names: readonly string[], root: string): Tar {
  const files = names.map((name) => {
    const path = join(folder, name);
    const { size } = statSync(path);
    return { path, size, header: headerOf(`${root}/${name}`, size) };
  });
  const padded = (size: number) => BLOCK * Math.ceil(size / BLOCK);
  return {
    bytes: files.reduce((sum, { size }) => sum + BLOCK + padded(size), 0) + 2 * BLOCK,
    async *pieces() {
      for (const { path, size, header } of files) {
        yield header;
        for await (const piece of Bun.file(path).slice(0, size).stream()) yield piece;
        if (padded(size) > size) yield new Uint8Array(padded(size) - size);
      }
      yield new Uint8Array(2 * BLOCK);
    },
  };
}

function headerOf(path: string, size: number): Uint8Array {
  if (Buffer.byteLength(path) > 100) throw new Error(`${path} is longer than the 100 bytes of a name in an archive`);
  if (size > MOST_BYTES) throw new Error(`${path} is larger than the 8 GiB of a file in an archive`);
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, "0")}\0`;
  header.write(path, 0);
  header.write(octal(0o644, 7), 100);
  header.write(octal(0, 7), 108);
  header.write(octal(0, 7), 116);
  header.write(octal(size, 11), 124);
  header.write(octal(0, 11), 136);
  // The checksum is that of the header with blanks in its place.
  header.write("        ", 148);
  header.write("0", 156);
  header.write("ustar\x0000", 257);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(6, "0")}\0 `, 148);
  return header;
}
