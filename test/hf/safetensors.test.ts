import { describe, expect, setDefaultTimeout, test } from "bun:test";
import fc from "fast-check";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { fromFloat32, toFloat32 } from "../../src/base/float16.ts";
import { expectTensor, openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { tensorPieces, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import type { TensorData } from "../../src/hf/weights/safetensors-write.ts";
import { filesIn, fullDisk, temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (name: string) => join(folder, name);

const TENSORS: readonly TensorData[] = [
  { name: "b", dtype: "f32", shape: [2, 3], data: Float32Array.of(1, 2, 3, -4, 0.5, 1e-20) },
  { name: "a", dtype: "bf16", shape: [4], data: fromFloat32(Float32Array.of(1, -2, 3.140625, Infinity), "bf16") },
  { name: "scalar", dtype: "f16", shape: [], data: fromFloat32(Float32Array.of(0.25), "f16") },
  { name: "ids", dtype: "i64", shape: [2], data: BigInt64Array.of(7n, -9n) },
  { name: "empty", dtype: "u8", shape: [0, 5], data: new Uint8Array(0) },
  { name: "pieces", dtype: "f32", shape: [3], data: { pieces: () => [Float32Array.of(1, 2), Float32Array.of(3)] } },
  { name: "__proto__", dtype: "i32", shape: [1], data: () => Int32Array.of(42) },
];

function image(header: string, data = 0): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + data);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  return bytes;
}

let files = 0;
function openBytes(bytes: Uint8Array): void {
  const file = path(`case-${files++ % 4}.safetensors`);
  writeFileSync(file, bytes);
  const source = openSafetensors(file);
  for (const entry of source.tensors.values()) readBytes(source, entry);
  source.close();
}

describe("round trip", () => {
  test("every dtype, scalar, empty and odd names come back bit for bit, sorted by name, aligned to 8 bytes", () => {
    writeSafetensors(path("all.safetensors"), TENSORS);
    const source = openSafetensors(path("all.safetensors"));
    expect([...source.tensors.keys()]).toEqual(["__proto__", "a", "b", "empty", "ids", "pieces", "scalar"]);
    expect(source.metadata.get("format")).toBe("pt");
    for (const tensor of TENSORS) {
      const entry = expectTensor(source, tensor.name, tensor.shape, [tensor.dtype]);
      expect(Buffer.from(readBytes(source, entry))).toEqual(Buffer.concat([...tensorPieces(tensor)]));
    }
    expect(Math.min(...[...source.tensors.values()].map((entry) => entry.offset)) % 8).toBe(0);
    expect([...readFloat32(source, "pieces", [3])]).toEqual([1, 2, 3]);
    const part = new Uint8Array(8);
    source.read(source.tensors.get("pieces")!, part, 4);
    expect([...new Float32Array(part.buffer)]).toEqual([2, 3]);
    expect(() => source.read(source.tensors.get("pieces")!, part, 8)).toThrow("the target holds 8 bytes, the tensor has 4");
    expect([...readFloat32(source, "a", [4])]).toEqual([1, -2, 3.140625, Infinity]);
    source.close();
  });

  test("reads straight into shared memory at an odd offset", () => {
    writeSafetensors(path("shared.safetensors"), TENSORS);
    const source = openSafetensors(path("shared.safetensors"));
    const memory = new SharedArrayBuffer(64);
    const entry = source.tensors.get("b")!;
    source.read(entry, new Uint8Array(memory, 3, entry.bytes));
    expect([...toFloat32(new Uint8Array(memory, 3, entry.bytes), "f32")]).toEqual([...(TENSORS[0]!.data as Float32Array)]);
    source.close();
  });

  test("a sharded index opens all its files, and a folder finds its index", () => {
    const model = path("sharded");
    mkdirSync(model);
    writeSafetensors(join(model, "s1.safetensors"), TENSORS.slice(0, 2));
    writeSafetensors(join(model, "s2.safetensors"), TENSORS.slice(2, 4));
    const map = { a: "s1.safetensors", b: "s1.safetensors", ids: "s2.safetensors" };
    writeFileSync(join(model, "model.safetensors.index.json"), JSON.stringify({ metadata: { total_size: 1 }, weight_map: map }));
    const source = openSafetensors(model);
    expect([...source.tensors.keys()].sort()).toEqual(["a", "b", "ids"]);
    expect(readFloat32(source, "b", [2, 3])[3]).toBe(-4);
    expect(new BigInt64Array(readBytes(source, source.tensors.get("ids")!).buffer)[1]).toBe(-9n);
    source.close();
  });
});

describe("halves round to nearest, ties to even", () => {
  test("bf16 is the exact nearest value on 20,000 random bit patterns, NaN stays NaN; f16 at its ties and limits", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffff }), (word) => {
        const value = new Float32Array(Uint32Array.of(word).buffer)[0]!;
        const bf16 = toFloat32(fromFloat32(Float32Array.of(value), "bf16"), "bf16")[0]!;
        if (Number.isNaN(value)) return Number.isNaN(bf16);
        const below = new Float32Array(Uint32Array.of((word & 0xffff0000) >>> 0).buffer)[0]!;
        const above = new Float32Array(Uint32Array.of(((word & 0xffff0000) + 0x10000) >>> 0).buffer)[0]!;
        const low = word & 0xffff;
        const up = low > 0x8000 || (low === 0x8000 && ((word >>> 16) & 1) === 1);
        return Object.is(bf16, up ? above : below);
      }),
      { numRuns: 20_000, seed: 1 },
    );
    const values = Float32Array.of(2049, 2051, 65519, 65520, 2 ** -25, 3 * 2 ** -25, -0, NaN);
    expect([...toFloat32(fromFloat32(values, "f16"), "f16")]).toEqual([2048, 2052, 65504, Infinity, 0, 2 ** -23, -0, NaN]);
  });
});

describe("bad files give one clear error", () => {
  test("missing file, folder without a model, pickle only, a folder as a file", () => {
    expect(userError(() => openSafetensors(path("none.safetensors")))).toContain("no such file");
    mkdirSync(path("bare"));
    expect(userError(() => openSafetensors(path("bare")))).toContain("holds neither");
    writeFileSync(path("bare/pytorch_model.bin"), "x");
    expect(userError(() => openSafetensors(path("bare")))).toContain("pickle");
    writeFileSync(path("bare/model-00001-of-00002.safetensors"), "x");
    expect(userError(() => openSafetensors(path("bare")))).toContain("download the index too");
    mkdirSync(path("bare/model.safetensors"));
    expect(userError(() => openSafetensors(path("bare")))).toContain("not a regular file");
  });

  test("a folder with a GGUF file alone; what git left for a file that it did not fetch", () => {
    mkdirSync(path("llama.cpp"));
    writeFileSync(path("llama.cpp/model.gguf"), "GGUF");
    expect(userError(() => openSafetensors(path("llama.cpp")))).toEndWith(
      "; to use model.gguf, name the file itself as the model",
    );
    const pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1f2e\nsize 269060552\n";
    for (const name of ["model.safetensors", "model.safetensors.index.json"]) {
      writeFileSync(path(`pointer-${name}`), pointer);
      expect(userError(() => openSafetensors(path(`pointer-${name}`)))).toStartWith(
        `${path(`pointer-${name}`)} is a pointer of Git LFS, not the file itself`,
      );
    }
  });

  test("a file cut at every length is a UserError, never a success", () => {
    writeSafetensors(path("whole.safetensors"), TENSORS);
    const whole = readFileSync(path("whole.safetensors"));
    for (let length = 0; length < whole.length; length++) {
      const message = userError(() => openBytes(whole.subarray(0, length)));
      expect(message).toMatch(/truncated|not a safetensors file/);
    }
    expect(userError(() => openBytes(Buffer.concat([whole, Buffer.from([0])])))).toContain("follow the last tensor");
  });

  test("malformed headers name the fault", () => {
    const cases: [string, number, RegExp][] = [
      ["[]", 0, /JSON object/],
      ["{nope", 0, /not valid JSON/],
      ['{"a":1}', 0, /expected an object, got a number/],
      ['{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,1]}}', 1, /unknown dtype "Q7"/],
      ['{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}', 1, /shape of whole numbers/],
      ['{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}', 1, /shape of whole numbers/],
      ['{"a":{"dtype":"U8","shape":[1e300,1e300],"data_offsets":[0,1]}}', 1, /shape of whole numbers/],
      ['{"a":{"dtype":"F64","shape":[9007199254740991],"data_offsets":[0,1]}}', 1, /data_offsets span 1/],
      ['{"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}}', 1, /ascending data_offsets/],
      ['{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}}', 1, /needs 2 bytes/],
      ['{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}', 1, /truncated/],
      [
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        3,
        /overlaps/,
      ],
      ['{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}', 4, /gap/],
      [
        '{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}',
        0,
        /two tensors named "a"/,
      ],
      ['{"__metadata__":{"format":1}}', 0, /not a string/],
    ];
    for (const [header, data, expected] of cases) expect(userError(() => openBytes(image(header, data)))).toMatch(expected);
    expect(userError(() => openBytes(Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 255, 0)))).toContain("header length");
    expect(
      userError(() =>
        openBytes(image(`{"a":{"dtype":"U8","shape":${"[".repeat(9000)}${"]".repeat(9000)},"data_offsets":[0,0]}}`)),
      ),
    ).toContain("nested deeper than");
  });

  test("missing tensor, other shape and unreadable dtype say what was expected", () => {
    writeSafetensors(path("expect.safetensors"), TENSORS);
    const source = openSafetensors(path("expect.safetensors"));
    expect(userError(() => expectTensor(source, "w", [2]))).toContain('no tensor "w"');
    expect(userError(() => expectTensor(source, "b", [3, 2]))).toContain("has shape [2, 3], expected [3, 2]");
    expect(userError(() => expectTensor(source, "ids", [2]))).toContain("has dtype I64, expected one of F32, BF16, F16");
    source.close();
  });

  test("shard names cannot leave the folder", () => {
    mkdirSync(path("escape"));
    writeSafetensors(path("outside.safetensors"), TENSORS);
    for (const shard of [
      "../outside.safetensors",
      path("outside.safetensors"),
      "..",
      ".",
      "",
      "a/b",
      "a\\b",
      "C:x",
      "x\0",
      3,
      null,
    ]) {
      writeFileSync(path("escape/model.safetensors.index.json"), JSON.stringify({ weight_map: { a: shard } }));
      expect(userError(() => openSafetensors(path("escape")))).toContain("file name in the same folder");
    }
    writeFileSync(path("escape/model.safetensors.index.json"), JSON.stringify({ weight_map: { z: "s.safetensors" } }));
    expect(userError(() => openSafetensors(path("escape")))).toContain("no such file");
    writeSafetensors(path("escape/s.safetensors"), TENSORS);
    expect(userError(() => openSafetensors(path("escape")))).toContain("does not hold it");
    writeFileSync(path("escape/model.safetensors.index.json"), JSON.stringify({ metadata: {} }));
    expect(userError(() => openSafetensors(path("escape")))).toContain('"weight_map"');
  });
});

describe("failed writes", () => {
  test("a disk that fills up at any byte leaves the old file and nothing else", () => {
    mkdirSync(path("full"));
    const target = path("full/model.safetensors");
    writeSafetensors(target, TENSORS.slice(0, 1));
    const before = readFileSync(target);
    writeSafetensors(path("complete.safetensors"), TENSORS);
    const needed = statSync(path("complete.safetensors")).size;
    for (let capacity = 0; capacity < needed; capacity += 7) {
      expect(userError(() => writeSafetensors(target, TENSORS, { format: "pt" }, fullDisk(capacity)))).toContain("disk is full");
      expect(filesIn(path("full"))).toEqual(["model.safetensors"]);
      expect(readFileSync(target)).toEqual(before);
    }
    writeSafetensors(target, TENSORS, { format: "pt" }, fullDisk(needed));
    expect(readFileSync(target).length).toBeGreaterThan(before.length);
  });

  test("a parent that is missing or a file, and a data function that throws, leave nothing", () => {
    writeFileSync(path("plain"), "");
    expect(userError(() => writeSafetensors(path("plain/x.safetensors"), TENSORS))).toContain("is a file, not a folder");
    expect(userError(() => writeSafetensors(path("absent/x.safetensors"), TENSORS))).toContain("no such file or folder");
    mkdirSync(path("thrown"));
    const bad: TensorData = {
      name: "x",
      dtype: "u8",
      shape: [1],
      data: () => {
        throw new UserError("the source went away");
      },
    };
    expect(userError(() => writeSafetensors(path("thrown/x.safetensors"), [bad]))).toBe("the source went away");
    expect(filesIn(path("thrown"))).toEqual([]);
  });

  test("a rename that fails removes the temporary file", () => {
    mkdirSync(path("rename/x.safetensors/inner"), { recursive: true });
    expect(userError(() => writeSafetensors(path("rename/x.safetensors"), TENSORS))).toContain("cannot write");
    expect(filesIn(path("rename"))).toEqual(["x.safetensors"]);
  });
});
