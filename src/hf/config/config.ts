import { existsSync } from "node:fs";
import { join } from "node:path";
import { readJsonObject } from "../../base/json.ts";
import type { ModelConfig } from "../../models/config.ts";
import { parseConfig } from "../../models/families/index.ts";

/** Reads `config.json` and, when there is one, `generation_config.json` of a model folder. @throws {UserError} */
export function loadConfig(folder: string): ModelConfig {
  const path = join(folder, "config.json");
  const generation = join(folder, "generation_config.json");
  return parseConfig(readJsonObject(path), path, existsSync(generation) ? readJsonObject(generation) : {});
}
