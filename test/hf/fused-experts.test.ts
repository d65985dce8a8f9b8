import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { examineWeights } from "../../src/hf/weights/examine.ts";
import { fuseExperts, storedTensors } from "../../src/hf/weights/fused-experts.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readBytes, type TensorSource } from "../../src/hf/weights/safetensors.ts";
import { tensorPieces, type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { gatherPart } from "../../src/hf/weights/tensor-part.ts";
import { createWeightReader } from "../../src/load/stored/reader.ts";
import { storedWeights } from "../../src/load/stored/stored-weights.ts";
import { withUsualMethod } from "../../src/train/method.ts";
import { openCheckpoint, readAll } from "../support/checkpoint.ts";
import { adapterFolder, type GoldenFamily, modelFolder } from "../support/golden.ts";
import { temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();

const FUSED = ["gpt-oss", "gpt-oss-mxfp4", "qwen3.5-moe"] as const satisfies readonly GoldenFamily[];

function withModel<T>(path: string, use: (source: TensorSource) => T): T {
  const source = openModelWeights(path, loadConfig(path));
  try {
    return use(source);
  } finally {
    source.close();
  }
}

const bytesOf = (tensor: TensorData): Uint8Array => Buffer.concat([...tensorPieces(tensor)].map((piece) => piece.slice()));

/** The matrices of experts as they are read. */
const partsOf = (source: TensorSource): TensorData[] =>
  [...source.tensors].flatMap(([name, entry]) =>
    entry.fused ? [{ name, dtype: entry.dtype!, shape: entry.shape, data: readBytes(source, entry) }] : [],
  );

test("every code of MXFP4 under every scale is the number that Transformers makes of it, from any element on", () => {
  const golden = openSafetensors(join(import.meta.dir, "../golden/mxfp4.safetensors"));
  const [blocks, scales, values] = ["_blocks", "_scales", ""].map((suffix) =>
    readBytes(golden, golden.tensors.get(`gate_up_proj${suffix}`)!),
  ) as [Uint8Array, Uint8Array, Uint8Array];
  golden.close();
  const [rows, columns] = [65, 64];
  // Transposed there, [columns, 2 rows].
  const transposed = new Uint16Array(values.buffer);
  for (const first of [0, 1]) {
    const expected = Uint16Array.from({ length: rows * columns }, (_, i) => {
      const [row, column] = [Math.floor(i / columns), i % columns];
      return transposed[column * 2 * rows + 2 * row + first]!;
    });
    for (const [begin, end] of [
      [0, rows * columns],
      [37, 38],
      [63, 200],
    ] as const) {
      const target = new Uint8Array(2 * (end - begin));
      gatherPart({ kind: "mxfp4", columns, first, rowStep: 2 }, [blocks, scales], target, 2 * begin);
      // Zeros have signs: numbers are compared, not bits.
      const number = (bits: number) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0]! + 0;
      expect(Array.from(new Uint16Array(target.buffer), number)).toEqual(Array.from(expected.subarray(begin, end), number));
    }
  }
});

describe.each(FUSED)("%s", (family) => {
  const path = modelFolder(family);
  const { modulePrefix: prefix } = loadConfig(path);

  test.each([{}, { dtype: "f32" }, { quantize: "q8" }] as const)("as %j, on disk as in memory, to the bit", async (storage) => {
    const checkpoint = openCheckpoint(path, storage);
    const expected = await checkpoint.inMemory();
    const cached = await storedWeights(checkpoint.source, checkpoint.groups, { folder: join(folder, "cache") });
    const plain = await storedWeights(checkpoint.source, checkpoint.groups, { cache: false, folder: join(folder, "never") });
    checkpoint.source.close();
    expect(readAll(cached)).toEqual(expected);
    expect(readAll(plain)).toEqual(expected);
    cached.close();
    plain.close();
  });

  test("a part of a matrix is read as it is in the whole", async () => {
    const checkpoint = openCheckpoint(path, {});
    const { files, places, close } = await storedWeights(checkpoint.source, checkpoint.groups, { cache: false, folder });
    const name = `${prefix}layers.1.mlp.experts.1.up_proj.weight`;
    const whole = readBytes(checkpoint.source, checkpoint.source.tensors.get(name)!);
    const target = new Uint8Array(34);
    createWeightReader(files).read(places.get(name)!, target, 40);
    expect(target).toEqual(whole.slice(40, 74));
    checkpoint.source.close();
    close();
  });

  test("a merged model has the tensors of the file, and those of experts bit for bit", () => {
    const output = join(folder, `merged-${family}`);
    mergeAdapter({ base: path, adapter: adapterFolder(family), output });
    const [base, merged] = [openSafetensors(path), openSafetensors(output)];
    expect([...merged.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
    const differ = [...base.tensors].filter(
      ([name, entry]) => Buffer.compare(readBytes(base, entry), readBytes(merged, merged.tensors.get(name)!)) !== 0,
    );
    expect(differ.length).toBeGreaterThan(4);
    expect(differ.filter(([name]) => /experts\.|norm|embed/.test(name))).toEqual([]);
    base.close();
    merged.close();
  });
});

test("matrices of experts that were read are put together as the file has them; MXFP4 holds no trained ones", () => {
  for (const family of ["gpt-oss", "qwen3.5-moe"] as const)
    withModel(modelFolder(family), (source) => {
      const fused = fuseExperts(partsOf(source), source.tensors);
      const stored = storedTensors(source.tensors);
      expect(fused.map(({ name }) => name)).toEqual([...stored.keys()].filter((name) => /experts\.\w+_proj$/.test(name)));
      for (const tensor of fused) expect(bytesOf(tensor)).toEqual(Buffer.from(readBytes(source, stored.get(tensor.name)!)));
    });
  withModel(modelFolder("gpt-oss-mxfp4"), (source) => {
    expect(userError(() => fuseExperts(partsOf(source), source.tensors))).toContain(
      "is MXFP4, which cannot hold trained weights",
    );
    const config = { method: "full", quantize: "off", quantizeEmbedding: false } as const;
    const model = { config: loadConfig(modelFolder("gpt-oss-mxfp4")), source, adapter: null };
    expect(userError(() => withUsualMethod(config, model, ["method"]))).toContain(
      "has experts in MXFP4, which cannot hold trained weights",
    );
  });
});

describe.each(["lfm2-moe", "olmoe", "qwen3-moe", "qwen3-next"] as const)("%s as Transformers 5 fuses it", (family) => {
  const golden = JSON.parse(readFileSync(join(import.meta.dir, "../golden/fused.json"), "utf8")) as {
    readonly saved: Record<typeof family, Record<string, { readonly shape: number[]; readonly sha256: string }>>;
  };
  const path = join(folder, `fused-${family}`);
  /** The place of a matrix in its tensor: the expert, and up behind gate. */
  const placed = /^(.*\.experts)\.(\d+)\.(?:(gate_proj|w1|up_proj|w3)|down_proj|w2)\.weight$/;

  test("holds, expert by expert and gate above up, what Transformers writes; each matrix is read from it to the bit", () => {
    cpSync(modelFolder(family), path, { recursive: true });
    const single = openSafetensors(path);
    const parts = [...single.tensors.values()].map((entry) => {
      const [, list, expert, gateOrUp] = placed.exec(entry.name) ?? [];
      const name = list === undefined ? entry.name : `${list}.${gateOrUp ? "gate_up_proj" : "down_proj"}`;
      const isUp = gateOrUp === "up_proj" || gateOrUp === "w3";
      return { name, entry, bytes: readBytes(single, entry), order: 2 * Number(expert ?? 0) + Number(isUp) };
    });
    single.close();
    const tensors = [...Map.groupBy(parts, ({ name }) => name)].map(([name, group]): TensorData => {
      const { shape, dtype } = group[0]!.entry;
      const data = Buffer.concat(group.sort((a, b) => a.order - b.order).map(({ bytes }) => bytes));
      if (!name.includes(".experts.")) return { name, dtype: dtype!, shape, data };
      const matrices = name.endsWith("gate_up_proj") ? 2 : 1;
      const expected = golden.saved[family][name]!;
      expect([group.length / matrices, matrices * shape[0]!, shape[1]!]).toEqual(expected.shape);
      expect(new Bun.CryptoHasher("sha256").update(data).digest("hex")).toBe(expected.sha256);
      return { name, dtype: dtype!, shape: expected.shape, data };
    });
    expect(tensors.filter(({ name }) => name.includes(".experts.")).length).toBe(Object.keys(golden.saved[family]).length);
    writeSafetensors(join(path, "model.safetensors"), tensors);
    const all = (source: TensorSource) =>
      new Map([...source.tensors].sort().map(([name, entry]) => [name, readBytes(source, entry)]));
    expect(withModel(path, all)).toEqual(withModel(modelFolder(family), all));
  });

  test("a model that is merged with an adapter keeps its layout", () => {
    const output = join(folder, `merged-fused-${family}`);
    mergeAdapter({ base: path, adapter: adapterFolder(family), output });
    const [base, merged] = [openSafetensors(path), openSafetensors(output)];
    expect([...merged.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
    base.close();
    merged.close();
  });
});

describe("tensors that do not fit are refused", () => {
  /** A copy of a fixture with other tensors. */
  function changed(family: GoldenFamily, name: string, change: (tensor: TensorData) => TensorData | null): string {
    const path = join(folder, `changed-${family}-${name}`);
    cpSync(modelFolder(family), path, { recursive: true });
    const source = openSafetensors(path);
    const tensors = [...source.tensors.values()].flatMap((entry) => {
      const tensor: TensorData = { name: entry.name, dtype: entry.dtype!, shape: entry.shape, data: readBytes(source, entry) };
      const next = entry.name.endsWith(name) ? change(tensor) : tensor;
      return next === null ? [] : [next];
    });
    source.close();
    writeSafetensors(join(path, "model.safetensors"), tensors);
    return path;
  }
  const opened = (path: string) => userError(() => withModel(path, () => {}));

  test("by name, with the shape that is expected", () => {
    const flat = changed("gpt-oss", "gate_up_proj", (tensor) => ({ ...tensor, shape: [5, 30, 26] }));
    expect(opened(flat)).toContain('gate_up_proj" has shape [5, 30, 26], expected [5, 26, 30]; check that it belongs');
    const examined = (path: string) => userError(() => withModel(path, examineWeights));
    const broken = changed("gpt-oss-mxfp4", "layers.1.mlp.experts.down_proj_scales", (tensor) => {
      const data = Buffer.concat([...tensorPieces(tensor)]);
      data[data.length - 1] = 255;
      return { ...tensor, data };
    });
    expect(examined(broken)).toMatch(
      /model\.safetensors: tensor "model\.layers\.1\.mlp\.experts\.down_proj_scales" holds the scale 255, which is no number in MXFP4/,
    );
    const largest = changed("gpt-oss-mxfp4", "layers.0.mlp.experts.down_proj_scales", (tensor) => ({
      ...tensor,
      data: new Uint8Array(tensor.shape.reduce((size, n) => size * n)).fill(254),
    }));
    expect(withModel(largest, examineWeights)).toMatch(/^[0-9a-f]{64}$/);
    const half = changed("gpt-oss-mxfp4", "down_proj_scales", () => null);
    expect(opened(half)).toContain('down_proj_blocks" has no scales beside it');
    const config = join(half, "config.json");
    cpSync(modelFolder("gpt-oss-mxfp4"), half, { recursive: true });
    writeFileSync(config, readFileSync(config, "utf8").replace('"intermediate_size": 32', '"intermediate_size": 30'));
    expect(opened(half)).toContain("MXFP4 of 30 numbers a row; expected a multiple of 32");
  });
});
