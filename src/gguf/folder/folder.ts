import { createHash } from "node:crypto";
import { closeSync, existsSync, symlinkSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { UserError } from "../../base/errors.ts";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import { fileError, readFully, writeTextAtomic } from "../../base/files/files.ts";
import { writeFolder } from "../../base/files/folders.ts";
import { openFile } from "../../base/files/open-file.ts";
import { type GgufFile, readGguf } from "../read/container.ts";
import { weightName } from "../read/open-weights.ts";
import { configOf } from "./config.ts";
import type { Factors } from "./rope.ts";
import { tokenizerOf } from "./tokenizer.ts";

/** Counts what is written into the folders of files: those of an earlier version are not used. */
const VERSION = 1;

/**
 * The model folder of a GGUF file, in the user's cache: what a folder of Transformers says of a model in files of its own, and links to the weights. A file
 * that has changed gets another one.
 * @throws {UserError} a file that is no model, or a model that is not supported
 */
export function ggufFolder(path: string): string {
  const file = resolve(path);
  const opened = openFile(file);
  closeSync(opened.fd);
  const key = createHash("sha256")
    .update(JSON.stringify([VERSION, file, opened.stamp]))
    .digest("hex")
    .slice(0, 16);
  const folder = join(cacheFolder(), "gguf", key, basename(file, ".gguf"));
  if (existsSync(join(folder, "config.json"))) return folder;
  const gguf = readGguf(file);
  const { config, generation } = configOf(gguf, factorsOf(gguf));
  const tokens = tokenizerOf(gguf);
  const texts = {
    "config.json": config,
    "generation_config.json": generation,
    "tokenizer.json": tokens.tokenizer,
    "tokenizer_config.json": tokens.config,
  };
  try {
    writeFolder(folder, (draft) => {
      for (const [name, text] of Object.entries(texts)) writeTextAtomic(join(draft, name), `${JSON.stringify(text, null, 2)}\n`);
      for (const [i, part] of gguf.files.entries()) link(resolve(part), join(draft, weightName(i, gguf.files.length)));
    });
  } catch (error) {
    // Another process may have made it at the same time.
    if (!existsSync(join(folder, "config.json"))) throw error;
  }
  return folder;
}

function link(target: string, path: string): void {
  try {
    symlinkSync(target, path);
  } catch (error) {
    throw fileError("write", path, error);
  }
}

/** Reads tensors of one number for each frequency, which are f32 in all files. */
function factorsOf({ tensors }: GgufFile): Factors {
  return (name) => {
    const tensor = tensors.get(name);
    if (!tensor) return null;
    const { type, path, offset, bytes, shape } = tensor;
    if (type !== "f32" || shape.length !== 1)
      throw new UserError(`${path}: expected tensor ${name} to be a list of f32, got ${type} [${shape.join(", ")}]`);
    const { fd } = openFile(path);
    try {
      const values = new Float32Array(bytes / 4);
      readFully(fd, new Uint8Array(values.buffer), offset, path);
      return values;
    } finally {
      closeSync(fd);
    }
  };
}
