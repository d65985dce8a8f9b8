import { cpSync, existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { basename, join, relative } from "node:path";
import { UserError } from "../../../base/errors.ts";
import { readJsonObject } from "../../../base/json.ts";
import { programCommand } from "../../../base/process/program.ts";
import { writeTextAtomic } from "../../../base/files/files.ts";
import { CONFIG_FILE, TENSOR_FILE } from "../../../hf/peft/adapter-folder.ts";
import { readBytes } from "../../../hf/weights/safetensors.ts";
import { writeSafetensors } from "../../../hf/weights/safetensors-write.ts";
import { CHAT_TEMPLATE_FILE } from "../../../hf/weights/template-files.ts";
import { openAdapterOf } from "../../../load/open-model.ts";
import type { KnownModel } from "../registry.ts";

/** Forms that a model can be taken away in: the adapter for PEFT, the base model with it merged in, a file for llama.cpp and Ollama. */
export const FORMATS = ["peft", "merged", "gguf"] as const;

export type ExportFormat = (typeof FORMATS)[number];

/** Types of the matrices of a GGUF file. */
export const GGUF_TYPES = ["f16", "bf16", "q8_0", "q4_0", "f32"] as const;

export interface ExportOrder {
  readonly model: KnownModel;
  /** The base model: a folder, or a name on the hub. */
  readonly base: string;
  readonly format: ExportFormat;
  readonly type: (typeof GGUF_TYPES)[number];
  /** An empty folder. */
  readonly folder: string;
  readonly signal: AbortSignal;
}

/** The files that were written, by their paths in a folder, and the name that they have together. */
export interface Exported {
  readonly name: string;
  readonly folder: string;
  readonly files: readonly string[];
}

/** Gigabytes of a file of weights, at most: an archive has none larger than 8 GiB. */
const SHARD_GB = 4;

/** Writes a model in a form that others read. @throws {UserError} one that has no such form, a full disk */
export async function exportModel(order: ExportOrder): Promise<Exported> {
  const { model, base, format, type, folder, signal } = order;
  const name = fileName(model.name);
  const adapter = model.adapter;
  if (adapter === null && format !== "gguf")
    throw new UserError(`${model.name} is a base model, which has no adapter to take away; expected the format gguf`);
  switch (format) {
    case "peft":
      return { name, folder, files: writePeft(model, adapter!, folder) };
    case "merged": {
      const out = join(folder, name);
      await runVerb(
        ["merge", "--model", base, "--adapter", adapter!, "--out", out, "--max-shard-size", String(SHARD_GB)],
        signal,
      );
      const files = readdirSync(out, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
      return { name, folder: out, files: files.map((file) => relative(out, join(file.parentPath, file.name))) };
    }
    case "gguf": {
      const out = join(folder, `${name}.${type}.gguf`);
      const merged = adapter === null ? [] : ["--adapter", adapter];
      await runVerb(["export", "gguf", "--model", base, ...merged, "--out", out, "--type", type], signal);
      return { name, folder, files: [basename(out)] };
    }
  }
}

/** A model's name as the name of a file. */
const fileName = (name: string): string => name.replaceAll(/[^\w.-]+/g, "-").slice(-60);

/** Writes the adapter of a run, of a checkpoint or of any folder, which names its base model as this server does. */
function writePeft({ host }: KnownModel, adapter: string, folder: string): string[] {
  const { source } = openAdapterOf(host.model, adapter);
  try {
    const tensors = [...source.tensors.values()].flatMap((entry) => {
      const { name, dtype, shape } = entry;
      return dtype === null ? [] : [{ name, dtype, shape, data: () => readBytes(source, entry) }];
    });
    writeSafetensors(join(folder, TENSOR_FILE), tensors);
  } finally {
    source.close();
  }
  const config = readJsonObject(join(adapter, CONFIG_FILE));
  const named = { ...config, base_model_name_or_path: host.name };
  writeTextAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(named, null, 2)}\n`);
  const template = join(adapter, CHAT_TEMPLATE_FILE);
  if (!existsSync(template)) return [CONFIG_FILE, TENSOR_FILE];
  cpSync(template, join(folder, CHAT_TEMPLATE_FILE));
  return [CONFIG_FILE, TENSOR_FILE, CHAT_TEMPLATE_FILE];
}

/** Runs a verb in a process of its own, at the lowest priority. @throws {UserError} what the verb says */
async function runVerb(args: readonly string[], signal: AbortSignal): Promise<void> {
  const priority = Bun.which("nice") === null ? [] : ["nice", "-n", "19"];
  const child = Bun.spawn([...priority, ...programCommand(), ...args, "--json"], { stdio: ["ignore", "pipe", "ignore"], signal });
  const said = await new Response(child.stdout).text();
  const code = await child.exited;
  if (code === 0) return;
  const last = said
    .trimEnd()
    .split("\n")
    .findLast((line) => line.includes('"type":"error"'));
  if (last === undefined || code !== 2) throw new Error(`the process that exported ended with exit code ${code}`);
  throw new UserError((JSON.parse(last) as { readonly message: string }).message);
}

/** Makes an empty folder in the place of what was there. */
export function emptyFolder(folder: string): void {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true, mode: 0o700 });
}
