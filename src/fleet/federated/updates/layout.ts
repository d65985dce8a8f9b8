import { elements, type Shape } from "../../../graph/types.ts";

/** A parameter in the one vector that holds all that is learned, in the order of PEFT's files. */
export interface Part {
  readonly name: string;
  readonly shape: Shape;
  /** The place of its first value. */
  readonly begin: number;
}

/** The same on all machines: parameters by their names. */
export interface Layout {
  readonly parts: readonly Part[];
  readonly size: number;
  /** SHA-256 of names and shapes, in hexadecimal. */
  readonly digest: string;
}

export function layoutOf(params: readonly Pick<Part, "name" | "shape">[]): Layout {
  let size = 0;
  const sorted = params.toSorted((a, b) => (a.name < b.name ? -1 : 1));
  const parts = sorted.map(({ name, shape }): Part => {
    const begin = size;
    size += elements(shape);
    return { name, shape, begin };
  });
  const digest = sha256(JSON.stringify(parts.map(({ name, shape }) => [name, shape])));
  return { parts, size, digest };
}

/** The values of one part, in their place. */
export const valuesOf = (vector: Float32Array<ArrayBuffer>, { begin, shape }: Part): Float32Array<ArrayBuffer> =>
  vector.subarray(begin, begin + elements(shape));

/** SHA-256 in hexadecimal. */
export function sha256(data: string | Uint8Array): string {
  return new Bun.CryptoHasher("sha256").update(data).digest("hex");
}

/** SHA-256 of the values' bytes. */
export const digestOf = ({ buffer, byteOffset, byteLength }: Float32Array): string =>
  sha256(new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength));
