import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { PROGRAM_FOLDER } from "../base/process/program.ts";

/** Names of the compiled modules: of the targets in asconfig.json and of the entry files in assembly/. */
export const MODULES = ["matrix", "index"] as const;
export type KernelModule = (typeof MODULES)[number];

/** The folder of a build's modules, by the key of what went into them. */
export const folderOf = (root: string, key: string): string => join(root, "build", `kernels-${key}`);

/** The file that holds the key of the last build, the one that runs. */
export const latestOf = (root: string): string => join(root, "build", "kernels");

/** Key of the last build, or null. */
export function latest(root: string): string | null {
  const path = latestOf(root);
  return existsSync(path) ? readFileSync(path, "utf8") : null;
}

/** The compiled modules of the last build. @throws {UserError} when there is none */
export function loadKernels(root = PROGRAM_FOLDER): Record<KernelModule, Uint8Array<ArrayBuffer>> {
  const key = latest(root);
  if (key === null) throw new UserError('the kernels are not compiled; run "bun src/wasm/build.ts"');
  const folder = folderOf(root, key);
  return { matrix: readFileSync(join(folder, "matrix.wasm")), index: readFileSync(join(folder, "index.wasm")) };
}
