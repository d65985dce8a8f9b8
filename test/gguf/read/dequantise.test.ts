import { expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fromFloat32 } from "../../../src/base/float16.ts";
import { dequantise } from "../../../src/gguf/blocks/dequantise.ts";
import { GGML_TYPES, type GgmlType } from "../../../src/gguf/blocks/types.ts";

const golden = JSON.parse(readFileSync(join(import.meta.dir, "../../golden/gguf/blocks.json"), "utf8")) as Record<
  string,
  [blocks: string, values: string]
>;
const bytesOf = (base64: string) => Uint8Array.from(Buffer.from(base64, "base64"));
const words = (values: Float32Array) => [...new Uint32Array(values.buffer, values.byteOffset, values.length)];

test("blocks of every type are, to the bit, the numbers that llama.cpp's gguf package reads", () => {
  const plain = ["f32", "f16", "bf16"];
  expect(Object.keys(golden).sort()).toEqual(
    Object.keys(GGML_TYPES)
      .filter((type) => !plain.includes(type))
      .sort(),
  );
  for (const [type, [blocks, values]] of Object.entries(golden)) {
    const expected = new Float32Array(bytesOf(values).buffer);
    // Bytes that begin anywhere.
    const stored = Uint8Array.of(0, ...bytesOf(blocks)).subarray(1);
    const out = new Float32Array(expected.length);
    dequantise(type as GgmlType, stored, out);
    expect(words(out)).toEqual(words(expected));
  }
});

test("numbers without blocks are widened from memory that begins anywhere", () => {
  const values = Float32Array.of(1, -0.5, 3, 0.25);
  for (const type of ["f32", "f16", "bf16"] as const) {
    const out = new Float32Array(4);
    dequantise(type, Uint8Array.of(0, ...fromFloat32(values, type)).subarray(1), out);
    expect(out).toEqual(values);
  }
  expect(() => dequantise("q4_0", new Uint8Array(18), new Float32Array(31))).toThrow("not 31 elements");
});
