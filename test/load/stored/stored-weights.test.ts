import { describe, expect, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FloatType } from "../../../src/base/dtype.ts";
import { type OpenFile } from "../../../src/base/files/open-file.ts";
import { createRandom } from "../../../src/base/random.ts";
import { createConverter } from "../../../src/load/stored/convert.ts";
import { createWeightReader, type WeightPlace } from "../../../src/load/stored/reader.ts";
import { type StoredWeights, storedWeights } from "../../../src/load/stored/stored-weights.ts";
import type { WeightStorage } from "../../../src/load/weights.ts";
import { scalesOf } from "../../../src/models/linear.ts";
import { openCheckpoint, readAll, writeCheckpoint, writeGgufCheckpoint } from "../../support/checkpoint.ts";
import { filesIn, rejection, temporaryFolder } from "../../hf/temp.ts";

const folder = temporaryFolder();

const STORAGES: readonly WeightStorage[] = [
  {},
  { dtype: "f32" },
  { dtype: "bf16" },
  { dtype: "f16" },
  { quantize: "nf4" },
  { quantize: "q8", quantizeEmbedding: true, dtype: "bf16" },
];

describe.each(["f32", "bf16", "f16"] satisfies FloatType[])("a checkpoint in %s", (dtype) => {
  const model = writeCheckpoint(join(folder, dtype), dtype, dtype === "bf16" ? 200_000 : Infinity);

  test.each(STORAGES)("as %j, on disk as in memory, to the bit", async (storage) => {
    const checkpoint = openCheckpoint(model, storage);
    const expected = await checkpoint.inMemory();
    const cached = await storedWeights(checkpoint.source, checkpoint.groups, { folder: join(folder, "cache") });
    const plain = await storedWeights(checkpoint.source, checkpoint.groups, { cache: false, folder: join(folder, "never") });
    // Nothing that is read later goes through the checkpoint's own descriptors.
    checkpoint.source.close();
    expect(readAll(cached)).toEqual(expected);
    expect(readAll(plain)).toEqual(expected);
    expect(plain.cache).toBeNull();
    // A type that is stored already is read where it is; norms are f32 in memory whatever they are in files.
    const isAsStored = dtype === "f32" && (storage.dtype ?? "f32") === "f32" && storage.quantize === undefined;
    expect(cached.cache === null).toBe(isAsStored);
    cached.close();
    plain.close();
  });
});

describe("a GGUF file of blocks of 8 bits, with rows of queries and keys in another order", () => {
  const model = writeGgufCheckpoint(join(folder, "gguf"));

  test.each([{}, { dtype: "bf16" }, { quantize: "nf4" }] satisfies WeightStorage[])(
    "as %j, on disk and in a thread as in memory, to the bit",
    async (storage) => {
      const { source, groups, inMemory } = openCheckpoint(model, storage);
      const expected = await inMemory();
      const [cached, plain] = await Promise.all([
        storedWeights(source, groups, { folder: join(folder, "cache") }),
        storedWeights(source, groups, { cache: false, folder: join(folder, "never") }),
      ]);
      source.close();
      for (const weights of [cached, plain]) {
        expect(readAll(weights)).toEqual(expected);
        expect(await readInThread(weights)).toEqual(expected);
        weights.close();
      }
      expect(cached.cache!.made).toBe(true);
    },
  );
});

/** All parameters as another thread reads them, which has nothing but what it gets by message. */
async function readInThread({ files, places }: Pick<StoredWeights, "files" | "places">): Promise<Map<string, Uint8Array>> {
  const worker = new Worker(new URL("reading-thread.ts", import.meta.url));
  const { promise, resolve } = Promise.withResolvers<Map<string, Uint8Array>>();
  worker.onmessage = ({ data }) => resolve(data as Map<string, Uint8Array>);
  worker.postMessage({ files, places } satisfies { files: readonly OpenFile[]; places: ReadonlyMap<string, WeightPlace> });
  const read = await promise;
  worker.terminate();
  return read;
}

const NF4: WeightStorage = { quantize: "nf4", quantizeEmbedding: true };
const EMBEDDING = "model.embed_tokens.weight";

describe("a sharded checkpoint in bf16", () => {
  const model = join(folder, "bf16");
  const at = (name: string) => join(folder, name);

  test("parts are at multiples of 64, segments at multiples of 4096, and a segment's parts next to each other in its order", async () => {
    const { source, groups } = openCheckpoint(model, NF4);
    const { places, cache, close } = await storedWeights(source, groups, { folder: at("cache") });
    const offsets = groups.map((params) =>
      params.map(({ name }) => places.get(name)!).map((place) => (place.kind === "stored" ? place : null)!),
    );
    // The head is the embedding, which lies with the first segment.
    const own = offsets.map((segment, i) =>
      i === offsets.length - 1
        ? segment.filter(({ offset }) => offset !== offsets[0]![0]!.offset && offset !== offsets[0]![1]!.offset)
        : segment,
    );
    let end = 0;
    for (const segment of own) {
      expect(segment[0]!.offset % 4096).toBe(0);
      for (const { offset, bytes } of segment) {
        expect(offset % 64).toBe(0);
        expect(offset).toBeGreaterThanOrEqual(end);
        end = offset + bytes;
      }
      expect(end - segment[0]!.offset).toBeLessThanOrEqual(segment.reduce((sum, { bytes }) => sum + bytes + 63, 0));
    }
    expect(own.flat().length).toBe(places.size);
    expect(cache!.file.size).toBe(end);
    close();
    source.close();
  });

  test("any rows of a quantised matrix are the same whether a cache holds them or they are quantised when read", async () => {
    const { source, groups, inMemory } = openCheckpoint(model, { ...NF4 });
    const memory = await inMemory();
    for (const cache of [true, false]) {
      const { files, places, close } = await storedWeights(source, groups, { cache, folder: at("cache") });
      const reader = createWeightReader(files);
      const [q8, nf4] = [EMBEDDING, "model.layers.1.mlp.down_proj.weight"];
      for (const [name, row, codesInRow, scalesInRow] of [
        [q8, 4097, 64, 4],
        [nf4, 7, 64, 8],
      ] as const) {
        const rows = 5;
        const [codes, scales] = [new Uint8Array(new SharedArrayBuffer(rows * codesInRow)), new Uint8Array(rows * scalesInRow)];
        const pair = { codes: places.get(name)!, scales: places.get(scalesOf(name))! };
        reader.readQuantised(pair, codes, scales, row * 16 * scalesInRow);
        const expected = memory.get(name)!.slice(row * codesInRow, (row + rows) * codesInRow);
        expect(new Uint8Array(codes)).toEqual(expected);
        expect(scales).toEqual(memory.get(scalesOf(name))!.slice(row * scalesInRow, (row + rows) * scalesInRow));
        const part = new Uint8Array(codesInRow);
        reader.read(pair.codes, part, row * codesInRow);
        expect(part).toEqual(expected.subarray(0, codesInRow));
        expect(() => reader.read(pair.codes, part, pair.codes.bytes - 1)).toThrow("of a parameter of");
      }
      close();
    }
    source.close();
  });

  test.each([true, false])("a thread reads from nothing but what it gets by message (cache: %p)", async (cache) => {
    const { source, groups, inMemory } = openCheckpoint(model, NF4);
    const memory = await inMemory();
    const { files, places, close } = await storedWeights(source, groups, { cache, folder: at("cache") });
    source.close();
    expect(await readInThread({ files, places })).toEqual(memory);
    close();
  });

  test("the same content shares a file wherever it lies; other content and other formats have their own", async () => {
    const shared = at("shared");
    const made = async (name: string, storage: WeightStorage) => {
      const { source, groups } = openCheckpoint(name, storage);
      const { cache, close } = await storedWeights(source, groups, { folder: shared });
      source.close();
      close();
      return cache!.made;
    };
    expect(await made(model, NF4)).toBe(true);
    expect(await made(model, NF4)).toBe(false);
    cpSync(model, at("copy"), { recursive: true });
    expect(await made(at("copy"), NF4)).toBe(false);
    expect(await made(model, { quantize: "q8" })).toBe(true);
    // One bit of one weight.
    const shard = join(
      at("copy"),
      filesIn(at("copy")).find((name) => name.endsWith(".safetensors"))!,
    );
    const bytes = readFileSync(shard);
    bytes[bytes.length - 2]! ^= 1;
    writeFileSync(shard, bytes);
    expect(await made(at("copy"), NF4)).toBe(true);
    expect(filesIn(shared).filter((name) => name.endsWith(".weights")).length).toBe(3);
  });

  test("a number that a format has no place for is named with its file, and leaves nothing", async () => {
    const copy = writeCheckpoint(at("large"), "f32");
    const path = join(copy, "model.safetensors");
    const bytes = readFileSync(path);
    const { source: before } = openCheckpoint(copy, {});
    const embedding = before.tensors.get(EMBEDDING)!;
    before.close();
    new DataView(bytes.buffer, bytes.byteOffset).setFloat32(embedding.offset, 1e6, true);
    writeFileSync(path, bytes);
    const { source, groups } = openCheckpoint(copy, { dtype: "f16" });
    const message = await rejection(storedWeights(source, groups, { folder: at("empty") }));
    expect(message).toBe(`${path}: ${EMBEDDING} holds 1000000, beyond f16's largest number 65504; use --dtype bf16`);
    expect(filesIn(at("empty"))).toEqual([]);
    source.close();
  });
});

test("what conversions give is what it was: CONVERSION_VERSION is to be raised when it is not, or old files would be used", () => {
  const random = createRandom(1, "conversions");
  const stored = Float32Array.from({ length: 4096 }, () => (random.below(2001) - 1000) / 700);
  const sum = (to: "nf4" | "q8" | "bf16" | "f16") => {
    const hasher = new Bun.CryptoHasher("sha256");
    const conversion = { name: "x", path: "y", stored: "f32", to } as const;
    const read = (target: Uint8Array, from: number) => target.set(new Uint8Array(stored.buffer, from, target.length));
    for (const { values, scales } of createConverter().pieces(conversion, { begin: 0, end: stored.length }, read)) {
      hasher.update(values);
      if (scales !== null) hasher.update(scales);
    }
    return hasher.digest("hex").slice(0, 16);
  };
  expect([sum("nf4"), sum("q8"), sum("bf16"), sum("f16")]).toEqual([
    "387ce38e1acff428",
    "dd09411269fbb7cc",
    "8039da37598e4f18",
    "6876c0874206e15d",
  ]);
});
