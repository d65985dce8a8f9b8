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

function lastFolder(root: string): string {
  const key = latest(root);
  if (key === null) throw new UserError('the kernels are not compiled; run "bun src/wasm/build.ts"');
  return folderOf(root, key);
}

const read = (folder: string, name: KernelModule) => readFileSync(join(folder, `${name}.wasm`));

/** The bytes of the last build's modules. @throws {UserError} when there is none */
export function readKernels(root = PROGRAM_FOLDER): Record<KernelModule, Uint8Array<ArrayBuffer>> {
  const folder = lastFolder(root);
  return { matrix: read(folder, "matrix"), index: read(folder, "index") };
}

const loaded = new Map<string, Readonly<Record<KernelModule, WebAssembly.Module>>>();

/**
 * The modules of the last build. The executors of a process share them, and with them the machine code that the engine makes of
 * kernels that run often.
 *
 * @throws {UserError} when there is none
 */
export function loadKernels(root = PROGRAM_FOLDER): Readonly<Record<KernelModule, WebAssembly.Module>> {
  const folder = lastFolder(root);
  let modules = loaded.get(folder);
  if (!modules) {
    const load = (name: KernelModule) => new WebAssembly.Module(read(folder, name));
    modules = { matrix: load("matrix"), index: load("index") };
    loaded.set(folder, modules);
  }
  return modules;
}
