import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { exportGguf, type ExportGgufOptions } from "../../src/library/export-gguf.ts";
import { copyFolder } from "./cli.ts";
import { type GgufFile, readGguf } from "./gguf.ts";
import { type GoldenFamily, modelFolder } from "./golden.ts";

const tokenizers = join(import.meta.dir, "../golden/tokenizers");

/** Gives a model folder the tokenizer of a fixture. */
export function useTokenizer(model: string, tokenizer: string): void {
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(tokenizers, tokenizer, file), join(model, file));
}

/** Writes other settings into a model's `config.json`: these, or what a function makes of those that are there. */
export function changeConfig(model: string, changes: object | ((config: Record<string, any>) => object)): void {
  const path = join(model, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8")) as Record<string, any>;
  writeFileSync(path, JSON.stringify({ ...config, ...(typeof changes === "function" ? changes(config) : changes) }));
}

/** Takes the tensors with some ending of their names out of a model that its changed configuration no longer has. */
export function dropTensors(model: string, ending: string): void {
  const path = join(model, "model.safetensors");
  const source = openSafetensors(path);
  const kept = [...source.tensors.values()]
    .filter(({ name }) => !name.endsWith(ending))
    .map((entry) => ({ name: entry.name, dtype: entry.dtype!, shape: entry.shape, data: readBytes(source, entry) }));
  source.close();
  writeSafetensors(path, kept);
}

/** Copies a family's golden model to `target`, with a tokenizer, which the fixtures lack. */
export function modelWithTokenizer(family: GoldenFamily, target: string, tokenizer = "smollm"): string {
  copyFolder(modelFolder(family), target);
  useTokenizer(target, tokenizer);
  return target;
}

export interface Exported {
  readonly file: GgufFile;
  readonly modelfile: string;
}

/** Returns a function that exports into folders of their own in `folder`, and reads what was written. */
export function createExporter(folder: string): (options: Omit<ExportGgufOptions, "out">) => Promise<Exported> {
  let count = 0;
  return async (options) => {
    const { out, modelfile } = await exportGguf({ ...options, out: join(folder, `export-${count++}`, "m.gguf") });
    return { file: readGguf(out), modelfile: readFileSync(modelfile, "utf8") };
  };
}

/** The checkpoint's name of a Llama's module by its name in GGUF. */
export const MODULES: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  ffn_norm: "post_attention_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  attn_q_norm: "self_attn.q_norm",
  attn_k_norm: "self_attn.k_norm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

/** Undoes the reordering of a head's rows. */
export function separateRows(values: Float32Array, heads: number, columns: number): Float32Array {
  const dim = values.length / columns / heads;
  return Float32Array.from(values, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const [head, inside] = [Math.floor(row / dim), row % dim];
    return values[(head * dim + 2 * (inside % (dim / 2)) + Math.floor(inside / (dim / 2))) * columns + column]!;
  });
}
