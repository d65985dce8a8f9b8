import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import { identityOf } from "../../base/files/file-verdicts.ts";
import { makeFolder, writeTextAtomic } from "../../base/files/files.ts";
import { readJsonObject } from "../../base/json.ts";
import { libraryPath } from "../library.ts";
import { driverFiles } from "./adapter.ts";

/**
 * Whether an adapter was faster than this machine's processor is kept under the user's cache folder, for as long as ONNX Runtime, the drivers and
 * the cores are the same.
 */
const FILE = "webgpu.json";

/** A text that changes when the machine does, or its drivers. */
function machine(): string {
  const nodes = process.platform === "linux" ? devices() : [];
  const drivers = driverFiles().map((path) => `${path}:${identityOf(path)}`);
  return [process.platform, process.arch, availableParallelism(), identityOf(libraryPath()), ...nodes, ...drivers].join(" ");
}

function devices(): string[] {
  try {
    return readdirSync("/dev")
      .filter((name) => /^(?:nvidia\d|dri$|dxg$)/.test(name))
      .sort();
  } catch {
    return [];
  }
}

/** True or false if it was measured on this machine as it is now; else null. */
export function rememberedChoice(): boolean | null {
  try {
    const record = readJsonObject(join(cacheFolder(), FILE));
    return record["machine"] === machine() && typeof record["isFaster"] === "boolean" ? record["isFaster"] : null;
  } catch {
    // Not there, damaged, or without ONNX Runtime: it is not known.
    return null;
  }
}

export function rememberChoice(isFaster: boolean): void {
  try {
    makeFolder(cacheFolder());
    writeTextAtomic(join(cacheFolder(), FILE), JSON.stringify({ machine: machine(), isFaster }));
  } catch {
    // Without a place for it, it is measured again the next time.
  }
}
