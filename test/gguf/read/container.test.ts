import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../../src/base/errors.ts";
import type { Random } from "../../../src/base/random.ts";
import { readGguf } from "../../../src/gguf/read/container.ts";
import { writeGguf } from "../../../src/gguf/write.ts";
import { fuzz, INPUTS, mutateBytes } from "../../support/fuzz.ts";
import { temporaryFolder } from "../../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();

const u32 = (value: number) => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value: bigint | number) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);
const text = (value: string) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);
const pair = (key: string, type: number, ...value: Buffer[]) => Buffer.concat([text(key), u32(type), ...value]);
const entry = (name: string, dims: readonly number[], type: number, offset: number) =>
  Buffer.concat([text(name), u32(dims.length), ...dims.map(u64), u32(type), u64(offset)]);

interface Made {
  readonly magic?: string;
  readonly version?: Buffer;
  readonly pairs?: readonly Buffer[];
  readonly entries?: readonly Buffer[];
  readonly data?: number;
  readonly alignment?: number;
}

/** A file of such parts, as another program might have written it. */
function made({ magic = "GGUF", version = u32(3), pairs = [], entries = [], data = 0, alignment = 32 }: Made): Buffer {
  const head = Buffer.concat([Buffer.from(magic), version, u64(entries.length), u64(pairs.length), ...pairs, ...entries]);
  return Buffer.concat([head, Buffer.alloc(Math.ceil(head.length / alignment) * alignment - head.length + data)]);
}

let files = 0;
function file(content: Uint8Array, name = `${files++}.gguf`): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

/** The message of the error that a file is refused with. */
function refusal(content: Uint8Array, name?: string): string {
  const path = file(content, name);
  try {
    readGguf(path);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    expect(error.message).toContain(path);
    return error.message;
  }
  throw new Error("the file was read");
}

test("metadata of every type, in versions 2 and 3, and 64 bits that no number holds", () => {
  const bytes = (...values: number[]) => Buffer.from(values);
  const f64 = Buffer.alloc(8);
  f64.writeDoubleLE(0.1);
  const f32 = Buffer.alloc(4);
  f32.writeFloatLE(0.5);
  const pairs = [
    pair("u8", 0, bytes(200)),
    pair("i8", 1, bytes(200)),
    pair("u16", 2, bytes(1, 200)),
    pair("i16", 3, bytes(1, 200)),
    pair("u32", 4, u32(2 ** 32 - 1)),
    pair("i32", 5, u32(2 ** 32 - 1)),
    pair("f32", 6, f32),
    pair("bool", 7, bytes(1)),
    pair("text", 8, text("aé€😀\0")),
    pair("texts", 9, u32(8), u64(2), text(""), text("b")),
    pair("nested", 9, u32(9), u64(2), u32(0), u64(2), bytes(1, 2), u32(0), u64(0)),
    pair("u64", 10, u64(2n ** 53n - 1n)),
    pair("large", 10, u64(2n ** 64n - 1n)),
    pair("i64", 11, u64(2n ** 64n - 5n)),
    pair("f64", 12, f64),
  ];
  for (const version of [2, 3]) {
    const { metadata, tensors } = readGguf(file(made({ version: u32(version), pairs })));
    expect(Object.fromEntries(metadata)).toEqual({
      u8: 200,
      i8: -56,
      u16: 51201,
      i16: -14335,
      u32: 2 ** 32 - 1,
      i32: -1,
      f32: 0.5,
      bool: true,
      text: "aé€😀\0",
      texts: ["", "b"],
      nested: [[1, 2], []],
      u64: 2 ** 53 - 1,
      large: 2n ** 64n - 1n,
      i64: -5,
      f64: 0.1,
    });
    expect(tensors.size).toBe(0);
  }
});

test("tensors: shapes outermost first, places of any alignment, texts longer than a piece", () => {
  const long = "x".repeat(600_000);
  const pairs = [pair("general.alignment", 4, u32(64)), pair("long", 8, text(long)), pair("after", 0, Buffer.from([7]))];
  const entries = [entry("b", [32, 2, 3], 8, 64), entry("a", [5], 0, 0)];
  const path = file(made({ pairs, entries, data: 64 + 6 * 34, alignment: 64 }));
  const { tensors, metadata } = readGguf(path);
  expect(metadata.get("long")).toBe(long);
  expect(metadata.get("after")).toBe(7);
  const data = tensors.get("a")!.offset;
  expect(data % 64).toBe(0);
  expect([...tensors.values()]).toEqual([
    { name: "b", shape: [3, 2, 32], type: "q8_0", path, offset: data + 64, bytes: 6 * 34 },
    { name: "a", shape: [5], type: "f32", path, offset: data, bytes: 20 },
  ]);
});

test("what is wrong is said with the file's name", () => {
  expect(refusal(Buffer.from("GGUF"))).toContain("4 bytes are too few");
  expect(refusal(made({ magic: "GGML" }))).toContain('begins with "GGML"');
  expect(refusal(Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"))).toContain("git lfs pull");
  expect(refusal(made({ version: u32(1) }))).toContain("version 1, expected 2 or 3");
  expect(refusal(made({ version: Buffer.from([0, 0, 0, 3]) }))).toContain("big-endian");
  const whole = made({ pairs: [pair("key", 8, text("value"))], entries: [entry("a", [64], 0, 0)], data: 256 });
  expect(refusal(whole.subarray(0, 40))).toContain("copy or download the file again");
  expect(refusal(whole.subarray(0, -1))).toMatch(/tensor "a" ends at byte \d+, the file has \d+/);
  expect(refusal(made({ entries: [entry("a", [256], 17, 0)], data: 256 }))).toContain(
    'tensor "a" has type IQ2_XS (number 17), which is not read',
  );
  expect(refusal(made({ entries: [entry("a", [256], 99, 0)], data: 256 }))).toContain("type unknown (number 99)");
  expect(refusal(made({ entries: [entry("a", [48, 2], 12, 0)], data: 256 }))).toContain("blocks of 256 a row");
  expect(refusal(made({ entries: [entry("a", [1, 1, 1, 1, 1], 0, 0)], data: 4 }))).toContain("5 dimensions");
  expect(refusal(made({ entries: [entry("a", [2 ** 40, 2 ** 40], 0, 0)], data: 4 }))).toContain("not a whole number");
  expect(refusal(made({ entries: [entry("a", [1], 0, 4)], data: 64 }))).toContain("a multiple of 32");
  expect(refusal(made({ entries: [entry("a", [1], 0, 0), entry("a", [1], 0, 32)], data: 64 }))).toContain("two tensors");
  expect(refusal(made({ entries: [entry("a", [16], 0, 0), entry("b", [1], 0, 32)], data: 64 }))).toContain('"b" overlaps "a"');
  expect(refusal(made({ pairs: [pair("k", 0, Buffer.from([1])), pair("k", 0, Buffer.from([1]))] }))).toContain('"k" twice');
  expect(refusal(made({ pairs: [pair("k", 13, Buffer.alloc(9))] }))).toContain("unknown type 13");
  expect(refusal(made({ pairs: [pair("k", 8, u64(2), Buffer.from([0xc3, 0x28]))] }))).toContain("not UTF-8");
  expect(refusal(made({ pairs: [pair("k", 9, u32(8), u64(2n ** 50n), Buffer.alloc(99))] }))).toContain("elements of");
  expect(refusal(made({ pairs: [pair("general.alignment", 4, u32(24))] }))).toContain("a power of two, got 24");
  const deep = Array.from({ length: 9 }, () => [u32(9), u64(1)]).flat();
  expect(refusal(made({ pairs: [pair("k", 9, ...deep, u32(0), u64(0))] }))).toContain("arrays 9 deep");
  expect(() => readGguf(folder)).toThrow(UserError);
  expect(() => readGguf(join(folder, "missing.gguf"))).toThrow(UserError);
});

/** One part of a split model, with one tensor. */
function part(no: number, of: number, name: string, total: number, tensor = `t${no}`): string {
  const pairs = [
    pair("split.no", 2, Buffer.from([no, 0])),
    pair("split.count", 2, Buffer.from([of, 0])),
    pair("split.tensors.count", 5, u32(total)),
    pair("name", 8, text(`part ${no}`)),
  ];
  return file(made({ pairs, entries: [entry(tensor, [8], 0, 0)], data: 32 }), name);
}

test("a split model is read whole, whichever part is named, also through a link of another name", () => {
  const parts = [0, 1, 2].map((no) => part(no, 3, `m-0000${no + 1}-of-00003.gguf`, 3));
  const link = join(folder, "model.gguf");
  symlinkSync(parts[0]!, link);
  for (const path of [...parts, link]) {
    const { files, tensors, metadata } = readGguf(path);
    expect(files).toEqual(parts);
    expect([...tensors.values()].map((tensor) => tensor.path)).toEqual(parts);
    expect(metadata.get("name")).toBe("part 0");
  }
});

test("parts that are missing, of another model, or without their names are refused", () => {
  expect(() => readGguf(part(0, 2, "gone-00001-of-00002.gguf", 2))).toThrow("gone-00002-of-00002.gguf");
  expect(() => readGguf(part(0, 2, "plain.gguf", 2))).toThrow("one of 2 files of a split model");
  part(1, 3, "mixed-00002-of-00002.gguf", 2);
  expect(() => readGguf(part(0, 2, "mixed-00001-of-00002.gguf", 2))).toThrow("is part 2 of 3, expected part 2 of 2");
  part(1, 2, "twice-00002-of-00002.gguf", 2, "t0");
  expect(() => readGguf(part(0, 2, "twice-00001-of-00002.gguf", 2))).toThrow("which an earlier part holds too");
  part(1, 2, "few-00002-of-00002.gguf", 5);
  expect(() => readGguf(part(0, 2, "few-00001-of-00002.gguf", 5))).toThrow("names 5 tensors in all parts, which hold 2");
});

test(`${INPUTS} mutated files: tensors inside their file, or a UserError`, async () => {
  const seedPath = join(folder, "seed.gguf");
  writeGguf(
    seedPath,
    new Map<string, Parameters<typeof writeGguf>[1] extends ReadonlyMap<string, infer Value> ? Value : never>([
      ["general.architecture", { text: "llama" }],
      ["llama.block_count", { u32: 2 }],
      ["tokens", { texts: ["a", "b", "é"] }],
      ["scores", { f32s: [1, 2, 3] }],
      ["bytes", { bytes: Uint8Array.of(1, 2, 3) }],
    ]),
    [
      { name: "a.weight", type: "q8_0", shape: [2, 64], data: () => [new Uint8Array(136)] },
      { name: "b.weight", type: "f32", shape: [3], data: () => [new Uint8Array(12)] },
    ],
  );
  const seed = readFileSync(seedPath);
  const header = seed.subarray(0, 400);
  const path = join(folder, "fuzzed.gguf");
  const input = (random: Random) =>
    random.below(3) === 0 ? mutateBytes(random, seed) : Buffer.concat([mutateBytes(random, header), seed]);
  const counts = await fuzz("gguf", input, (bytes) => {
    writeFileSync(path, bytes);
    for (const tensor of readGguf(path).tensors.values())
      if (tensor.offset + tensor.bytes > bytes.length) throw new Error(`${tensor.name} is outside the file`);
  });
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.02 * INPUTS);
});
