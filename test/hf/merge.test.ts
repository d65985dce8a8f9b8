import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { moduleName } from "../../src/hf/weights/model-weights.ts";
import { openSafetensors, readBytes, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { filesIn, fullDisk, temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const golden = join(import.meta.dir, "../golden");
const model = (family: string) => join(golden, "models", family);
const path = (name: string) => join(folder, name);

/** Half a unit in the last place, relative, of what the merged weights are rounded to; f32 sums in another order. */
const BOUNDS = { F32: 1e-6, BF16: 2 ** -8, F16: 2 ** -10 };

/** What files leave out of the begin of names. */
const BEGINS: Readonly<Record<string, string>> = { "qwen3-bare": "model.", gpt2: "transformer." };

describe("merging equals PEFT's merge_and_unload, the dtype kept", () => {
  const reference = openSafetensors(join(golden, "merge.safetensors"));
  for (const family of [
    "llama",
    "mistral",
    "qwen2",
    "smollm2",
    "smollm3",
    "seed-oss",
    "qwen3-bare",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3-vision",
    "gemma4",
    "gemma4-multimodal",
    "phi3",
    "phi4-mini",
    "internlm2",
    "internlm3",
    "gpt2",
  ]) {
    test(`${family}: within the rounding of its own dtype; what has no adapter is copied bit for bit`, () => {
      mergeAdapter({ base: model(family), adapter: join(model(family), "adapter"), output: path(family) });
      const base = openSafetensors(model(family));
      const merged = openSafetensors(path(family));
      expect([...merged.tensors.keys()].sort()).toEqual([...base.tensors.keys()].sort());
      let compared = 0;
      for (const [name, entry] of merged.tensors) {
        expect(entry.stored).toBe(base.tensors.get(name)!.stored);
        const expected = reference.tensors.get(`${family}/${BEGINS[family] ?? ""}${moduleName(name)}`);
        if (expected) {
          compared++;
          const got = readFloat32(merged, name, entry.shape);
          const bound = BOUNDS[entry.stored as keyof typeof BOUNDS];
          readFloat32(reference, expected.name, entry.shape).forEach((value, i) => {
            expect(Math.abs(got[i]! - value)).toBeLessThanOrEqual(bound * Math.abs(value) + 1e-7);
          });
        } else if (name.includes("norm") || name.includes("embed") || name.includes("bias") || name.includes("vision")) {
          expect(readBytes(merged, entry)).toEqual(readBytes(base, base.tensors.get(name)!));
        }
      }
      const references = [...reference.tensors.keys()].filter((name) => name.startsWith(`${family}/`));
      expect(compared).toBe(references.length);
      expect(compared).toBeGreaterThanOrEqual(3);
      expect(readFileSync(join(path(family), "config.json"))).toEqual(readFileSync(join(model(family), "config.json")));
      base.close();
      merged.close();
    });
  }
});

test("code that a model brings for Transformers goes along", () => {
  const base = path("coded");
  cpSync(model("internlm2"), base, { recursive: true });
  for (const name of ["modeling_internlm2.py", "not-a-module.py.txt"]) writeFileSync(join(base, name), "# code\n");
  mergeAdapter({ base, adapter: join(base, "adapter"), output: path("coded-merged") });
  expect(filesIn(path("coded-merged"))).toEqual(["SHA256SUMS", "config.json", "model.safetensors", "modeling_internlm2.py"]);
});

test("shards of a given size hold the same tensors under an index", () => {
  const options = { base: model("qwen2"), adapter: join(model("qwen2"), "adapter") };
  mergeAdapter({ ...options, output: path("whole") });
  mergeAdapter({ ...options, output: path("sharded"), maxShardBytes: 20_000 });
  const [whole, sharded] = [openSafetensors(path("whole")), openSafetensors(path("sharded"))];
  expect(filesIn(path("sharded")).filter((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name)).length).toBeGreaterThan(2);
  for (const [name, entry] of whole.tensors)
    expect(readBytes(sharded, sharded.tensors.get(name)!)).toEqual(readBytes(whole, entry));
  whole.close();
  sharded.close();
});

test("an adapter of a head that is the embedding makes it a matrix of its own, and leaves the embedding", () => {
  const adapter = path("head-adapter");
  mkdirSync(adapter);
  const config = JSON.parse(readFileSync(join(model("qwen2"), "adapter/adapter_config.json"), "utf8")) as object;
  writeFileSync(join(adapter, "adapter_config.json"), JSON.stringify({ ...config, target_modules: ["lm_head"] }));
  const part = (name: string, shape: number[]) => ({
    name: `base_model.model.lm_head.${name}.weight`,
    dtype: "f32" as const,
    shape,
    data: new Float32Array(shape[0]! * shape[1]!).fill(0.5),
  });
  writeSafetensors(join(adapter, "adapter_model.safetensors"), [part("lora_A", [4, 42]), part("lora_B", [127, 4])]);
  const output = path("head");
  mergeAdapter({ base: model("qwen2"), adapter, output });
  expect(JSON.parse(readFileSync(join(output, "config.json"), "utf8"))).toMatchObject({ tie_word_embeddings: false });
  const [before, after] = [model("qwen2"), output].map(openSafetensors);
  const embedding = readFloat32(before!, "model.embed_tokens.weight", [127, 42]);
  expect(readFloat32(after!, "model.embed_tokens.weight", [127, 42])).toEqual(embedding);
  // alpha / rank is 1.5, each element of B A 4 times 0.25.
  const head = readFloat32(after!, "lm_head.weight", [127, 42]);
  head.forEach((value, i) => expect(value).toBe(Math.fround(embedding[i]! + 1.5)));
  before!.close();
  after!.close();
});

describe("what cannot be merged leaves nothing behind", () => {
  test("an adapter of another model, by missing module and by shape", () => {
    const output = path("other");
    const merge = (base: string, adapter: string) =>
      userError(() => mergeAdapter({ base: model(base), adapter: join(model(adapter), "adapter"), output }));
    expect(merge("qwen2", "smollm2")).toMatch(/is it the adapter's base model\?$/);
    expect(merge("llama", "smollm2")).toMatch(/is it the adapter's base model\?$/);
    expect(existsSync(output)).toBe(false);
    expect(filesIn(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("an output folder in use, a file, a full disk", () => {
    const options = { base: model("qwen2"), adapter: join(model("qwen2"), "adapter") };
    mkdirSync(path("used"));
    writeFileSync(path("used/x"), "");
    expect(userError(() => mergeAdapter({ ...options, output: path("used") }))).toContain("not an empty folder");
    expect(userError(() => mergeAdapter({ ...options, output: path("used/x") }))).toContain("not an empty folder");
    expect(
      userError(() => mergeAdapter({ ...options, output: path("full"), maxShardBytes: 20_000, io: fullDisk(50_000) })),
    ).toContain("disk is full");
    expect(existsSync(path("full"))).toBe(false);
    expect(filesIn(folder).filter((name) => name.endsWith(".tmp"))).toEqual([]);
    mkdirSync(path("empty"));
    mergeAdapter({ ...options, output: path("empty") });
    expect(filesIn(path("empty"))).toEqual(["SHA256SUMS", "config.json", "model.safetensors"]);
  });
});

test("of matrices that are stored transposed, kinds that do more than a low-rank update are refused", () => {
  const config = loadConfig(model("gpt2"));
  for (const method of ["dora", "ia3"]) {
    const setup = method === "ia3" ? { scaled: "outputs" } : { rank: 2, scale: 1 };
    const adapts = (module: string) => (module.endsWith("c_attn") ? setup : null);
    const options = { tokens: 4, tuning: { method, dropout: 0, adapts, frozen: false }, weightType: () => "f32" as const };
    expect(userError(() => buildSegments(config, options))).toContain(
      "is not supported, whose matrix is stored transposed; choose --method lora",
    );
  }
});
