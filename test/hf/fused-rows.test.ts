import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../src/hf/config/config.ts";
import { mergeAdapter } from "../../src/hf/peft/merge.ts";
import { openModelWeights } from "../../src/hf/weights/model-weights.ts";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { modelFolder } from "../support/golden.ts";

setDefaultTimeout(120_000);

const folder = mkdtempSync(join(tmpdir(), "remat-fused-rows-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Writes a folder's experts as Transformers 5 has them in memory: gates above ups [E, 2 I, H], and downs [E, H, I]. */
function fuse(from: string, to: string): string {
  cpSync(from, to, { recursive: true });
  for (const name of readdirSync(to)) if (name.includes("safetensors")) rmSync(join(to, name));
  const source = openSafetensors(from);
  const others: TensorData[] = [];
  const lists = new Set<string>();
  for (const entry of source.tensors.values()) {
    const [list] = /^.*\.experts(?=\.\d+\.)/.exec(entry.name) ?? [];
    if (list !== undefined) lists.add(list);
    else others.push({ name: entry.name, dtype: entry.dtype!, shape: entry.shape, data: readBytes(source, entry) });
  }
  const { experts, hiddenSize } = loadConfig(from);
  const { count, width } = experts!;
  const fused = [...lists].flatMap((list): TensorData[] => {
    const bytes = (matrices: readonly string[]) =>
      Buffer.concat(
        Array.from({ length: count }, (_, expert) =>
          matrices.map((matrix) => readBytes(source, source.tensors.get(`${list}.${expert}.${matrix}.weight`)!)),
        ).flat(),
      );
    const { dtype } = source.tensors.get(`${list}.0.up_proj.weight`)!;
    return [
      {
        name: `${list}.gate_up_proj`,
        dtype: dtype!,
        shape: [count, 2 * width, hiddenSize],
        data: bytes(["gate_proj", "up_proj"]),
      },
      { name: `${list}.down_proj`, dtype: dtype!, shape: [count, hiddenSize, width], data: bytes(["down_proj"]) },
    ];
  });
  source.close();
  writeSafetensors(join(to, "model.safetensors"), [...others, ...fused]);
  return to;
}

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
    const fused = fuse(modelFolder(family), join(folder, family));
    expect(sorted(tensorsOf(fused))).toEqual(sorted(tensorsOf(modelFolder(family))));
  });

test("an adapter of experts is merged into fused tensors, which stay fused", () => {
  const adapter = join(import.meta.dir, "../golden/adapters/experts");
  const base = fuse(modelFolder("qwen3-moe"), join(folder, "base"));
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
