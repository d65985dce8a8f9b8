import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { fuseFolder } from "../support/fused.ts";
import { modelFolder } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = mkdtempSync(join(tmpdir(), "remat-fused-rows-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** The bytes of all tensors of a model, by the modules' names. */
function tensorsOf(path: string): Map<string, Uint8Array> {
  const source = openModelWeights(path, loadConfig(path));
  const all = new Map([...source.tensors].map(([name, entry]) => [name, readBytes(source, entry)]));
  source.close();
  return all;
}

const sorted = (tensors: Map<string, Uint8Array>) => [...tensors].sort(([a], [b]) => (a < b ? -1 : 1));

for (const family of ["qwen3-moe", "olmoe"] as const)
  test(`${family} whose experts of a block are two tensors of the file is the same model to the bit`, () => {
    const fused = fuseFolder(modelFolder(family), join(folder, family));
    expect(sorted(tensorsOf(fused))).toEqual(sorted(tensorsOf(modelFolder(family))));
  });

test("an adapter of experts is merged into fused tensors, which stay fused", () => {
  const adapter = join(import.meta.dir, "../golden/adapters/experts");
  const base = fuseFolder(modelFolder("qwen3-moe"), join(folder, "base"));
  mergeAdapter({ base, adapter, output: join(folder, "fused") });
  mergeAdapter({ base: modelFolder("qwen3-moe"), adapter, output: join(folder, "single") });
  expect(sorted(tensorsOf(join(folder, "fused")))).toEqual(sorted(tensorsOf(join(folder, "single"))));
  const [before, after] = [base, join(folder, "fused")].map((path) => {
    const source = openSafetensors(path);
    source.close();
    return [...source.tensors.keys()].sort();
  });
  expect(after).toEqual(before!);
});
