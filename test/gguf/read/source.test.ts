import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DTYPE_BYTES, type FloatType } from "../../../src/base/dtype.ts";
import { toFloat32 } from "../../../src/base/float16.ts";
import { openGguf } from "../../../src/gguf/read/source.ts";
import { modelTensors } from "../../../src/gguf/tensors.ts";
import { type GgufTensor, type GgufType, writeGguf } from "../../../src/gguf/write.ts";
import { loadConfig } from "../../../src/hf/config/config.ts";
import { mergedParameters } from "../../../src/hf/peft/merge.ts";
import { examineWeights } from "../../../src/hf/weights/examine.ts";
import { openModelWeights } from "../../../src/gguf/read/open-weights.ts";
import { readBytes, type TensorEntry, type TensorSource } from "../../../src/hf/weights/safetensors.ts";
import { parameterShapes } from "../../../src/models/chain/parameters.ts";
import type { ModelConfig } from "../../../src/models/config.ts";
import { familyOf } from "../../../src/models/families/index.ts";
import { writeGgufDecoder } from "../../support/gguf-decoders.ts";
import { FAMILIES, type GoldenFamily, isFewer, modelFolder } from "../../support/golden.ts";
import { temporaryFolder } from "../../hf/temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const open = new Set<TensorSource>();
afterAll(() => open.forEach((source) => source.close()));
const kept = <T extends TensorSource>(source: T): T => {
  open.add(source);
  return source;
};

interface Pair {
  readonly config: ModelConfig;
  readonly model: TensorSource;
  readonly gguf: TensorSource;
  readonly path: string;
}

/** A golden model, and the same as a GGUF file of a type; `alter` changes the file's tensors. */
function pair(family: GoldenFamily, type: GgufType, alter: (tensors: GgufTensor[]) => GgufTensor[] = (all) => all): Pair {
  return pairOf(modelFolder(family), type, alter);
}

function pairOf(from: string, type: GgufType, alter: (tensors: GgufTensor[]) => GgufTensor[] = (all) => all): Pair {
  const config = loadConfig(from);
  const model = kept(openModelWeights(from, config));
  const known = parameterShapes(config);
  const { tensors } = mergedParameters(model, null, config);
  const path = join(folder, `${type}-${open.size}.gguf`);
  writeGguf(
    path,
    new Map(),
    alter(
      modelTensors(
        config,
        tensors.filter(({ name }) => known.has(name)),
        model,
        type,
      ),
    ),
  );
  return { config, model, gguf: kept(openGguf(path, config)), path };
}

const valuesOf = (source: TensorSource, entry: TensorEntry) => toFloat32(readBytes(source, entry), entry.dtype as FloatType);

/** Fixtures with biases or a layer without experts, which the format has no place for, and with a table of more rows than the vocabulary, of which it has those of the vocabulary. */
const UNPLACED: readonly GoldenFamily[] = [
  "seed-oss",
  "olmo2",
  "hunyuan",
  "ernie45",
  "gemma4",
  "gemma4-moe",
  "gemma4-multimodal",
  "qwen3-next",
];
const written = FAMILIES.filter(
  (family) => familyOf(loadConfig(modelFolder(family))).gguf !== null && !UNPLACED.includes(family),
);

describe("what is written of a model is read again under the names of its parameters", () => {
  const small = ["qwen3-next", "glm", "gpt-neox-serial"] as const;
  test.each([...written.filter((family) => !isFewer(family)), ...small.map((name) => `random ${name}`)])("%s", (name) => {
    const random = small.find((each) => name === `random ${each}`);
    const from = random ? writeGgufDecoder(join(folder, random), random) : modelFolder(name as GoldenFamily);
    const { config, model, gguf } = pairOf(from, "f32");
    expect([...gguf.tensors.keys()].sort()).toEqual([...parameterShapes(config).keys()].sort());
    for (const [name, entry] of gguf.tensors) {
      const expected = model.tensors.get(name)!;
      expect(entry.shape).toEqual(expected.shape);
      const [values, wanted] = [valuesOf(gguf, entry), valuesOf(model, expected)];
      const isChanged = entry.part?.layout.kind === "ggml" && entry.part.layout.change !== null;
      if (!isChanged) expect(Buffer.compare(Buffer.from(values.buffer), Buffer.from(wanted.buffer))).toBe(0);
      // One and the sum with it are rounded, as what is taken from it, and an exponential.
      else values.forEach((value, i) => expect(Math.abs(value - wanted[i]!)).toBeLessThan(3e-7 * (1 + Math.abs(wanted[i]!))));
    }
  });
});

test("families with norms, exponentials, turned, divided and stacked matrices are among them", () => {
  for (const family of ["gemma2", "qwen3.5", "gpt2", "gpt-oss", "lfm2-moe", "internlm2", "granite4"] as const)
    expect(written).toContain(family);
});

test.each(["llama", "gpt2", "gpt-oss", "qwen3.5"] as const)("%s: a part of a tensor is what the whole has there", (family) => {
  for (const type of ["f16", "q8_0"] as const) {
    const { gguf } = pair(family, type);
    for (const entry of [...gguf.tensors.values()].slice(0, 40)) {
      const whole = readBytes(gguf, entry);
      const size = DTYPE_BYTES[entry.dtype!];
      const count = whole.length / size;
      for (const [begin, end] of [
        [0, 1],
        [Math.floor(count / 3), Math.floor(count / 2)],
        [count - 1, count],
        [Math.floor(count / 7), count],
      ] as const) {
        const part = new Uint8Array((end - begin) * size);
        gguf.read(entry, part, begin * size);
        expect(part).toEqual(whole.slice(begin * size, end * size));
      }
    }
  }
});

test("types: f16 and bf16 stay, blocks become f32 within a step, MXFP4 is to the bit what the checkpoint has", () => {
  for (const type of ["f16", "bf16"] as const) {
    const { gguf } = pair("llama", type);
    expect(gguf.tensors.get("model.layers.0.self_attn.q_proj.weight")!.dtype).toBe(type);
    expect(gguf.tensors.get("model.layers.0.mlp.up_proj.weight")!.part).toBeUndefined();
    expect(gguf.tensors.get("model.norm.weight")!.dtype).toBe("f32");
  }
  const { model, gguf } = pair("llama", "q8_0");
  for (const name of ["self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj"]) {
    const key = `model.layers.1.${name}.weight`;
    const entry = gguf.tensors.get(key)!;
    const [values, wanted] = [valuesOf(gguf, entry), valuesOf(model, model.tensors.get(key)!)];
    const greatest = wanted.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    values.forEach((value, i) => expect(Math.abs(value - wanted[i]!)).toBeLessThan(greatest / 127));
  }
  const packed = pair("gpt-oss-mxfp4", "q8_0");
  const experts = [...packed.gguf.tensors].filter(([name]) => /experts\.\d+\..*weight$/.test(name));
  expect(experts.length).toBeGreaterThan(10);
  for (const [name, entry] of experts) {
    expect(entry.dtype).toBe("bf16");
    expect(readBytes(packed.gguf, entry)).toEqual(readBytes(packed.model, packed.model.tensors.get(name)!));
  }
});

test("the file is examined whole: its hash, and scales of blocks that are no numbers", () => {
  const { gguf, path, config } = pair("llama", "q8_0");
  const sum = new Bun.CryptoHasher("sha256").update(readFileSync(path)).digest("hex");
  expect(examineWeights(gguf, { fresh: true })).toBe(new Bun.CryptoHasher("sha256").update(`${sum}\n`).digest("hex"));
  const entry = gguf.tensors.get("model.layers.1.self_attn.q_proj.weight")!;
  const bytes = readFileSync(path);
  bytes.writeUInt16LE(0x7c00, entry.part!.slabs[0]!.offset + 34);
  const damaged = join(folder, "damaged.gguf");
  writeFileSync(damaged, bytes);
  expect(() => examineWeights(kept(openGguf(damaged, config)), { fresh: true })).toThrow(
    'tensor "model.layers.1.self_attn.q_proj.weight" holds a value that is infinite or no number',
  );
});

test("tensors that are not those of the configuration are refused by name; others stay under their own", () => {
  const without = (name: string) => (tensors: GgufTensor[]) => tensors.filter((tensor) => tensor.name !== name);
  const named = (name: string, more: Partial<GgufTensor> = {}): GgufTensor => ({
    name,
    type: "f32",
    shape: [4],
    data: () => [new Uint8Array(16)],
    ...more,
  });
  const { gguf } = pair("llama", "f32", (tensors) => [...tensors, named("rope_freqs.weight"), named("extra.weight")]);
  expect(gguf.tensors.has("rope_freqs.weight")).toBe(false);
  expect(gguf.tensors.get("extra.weight")!.shape).toEqual([4]);
  expect(pair("llama", "f32", without("blk.1.ffn_up.weight")).gguf.tensors.has("model.layers.1.mlp.up_proj.weight")).toBe(false);
  expect(() => pair("llama", "f32", (tensors) => [...tensors, named("blk.0.ffn_up.bias")])).toThrow("nothing reads tensor");
  expect(() =>
    pair("llama", "f32", (tensors) => [...without("output_norm.weight")(tensors), named("output_norm.weight")]),
  ).toThrow('tensor "output_norm.weight" has shape [4], expected');
  expect(() => pair("internlm2", "f32", without("blk.0.attn_k.weight"))).toThrow('without "blk.0.attn_k.weight"');
});
