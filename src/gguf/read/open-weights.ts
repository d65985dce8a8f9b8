import { existsSync, lstatSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { modelWeights } from "../../hf/weights/model-weights.ts";
import { isSafetensorsFolder, openSafetensors, type TensorSource } from "../../hf/weights/safetensors.ts";
import type { ModelConfig } from "../../models/config.ts";
import { openGguf } from "./source.ts";

/** The name of a part of a model's weights in its folder, as llama.cpp names parts. */
export function weightName(part: number, parts: number): string {
  const padded = (number: number) => String(number).padStart(5, "0");
  return parts === 1 ? "model.gguf" : `model-${padded(part + 1)}-of-${padded(parts)}.gguf`;
}

const FIRST = /^model(?:-00001-of-\d{5})?\.gguf$/;

/**
 * Opens the weights of a model folder: those in safetensors, else those of a GGUF file. They are found under the names of the modules.
 * @throws {UserError} missing, truncated or malformed files, and as `modelWeights`
 */
export function openModelWeights(folder: string, config: ModelConfig): TensorSource {
  return modelWeights(openWeights(folder, config), config);
}

function openWeights(folder: string, config: ModelConfig): TensorSource {
  if (isSafetensorsFolder(folder) || !existsSync(folder)) return openSafetensors(folder);
  const name = readdirSync(folder).find((each) => FIRST.test(each));
  if (name === undefined) return openSafetensors(folder);
  const path = join(folder, name);
  // What is said of the file names it as the user does.
  return openGguf(lstatSync(path).isSymbolicLink() ? readlinkSync(path) : path, config);
}
