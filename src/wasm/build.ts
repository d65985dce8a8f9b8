/**
 * Compiles the AssemblyScript kernels. `build/kernels-<key>/` holds the two modules, the key is a hash of everything
 * that goes into them, so an up-to-date build takes a few milliseconds and does not load the compiler. `build/kernels`
 * holds the key of the last build, the one that runs.
 *
 *     bun src/wasm/build.ts
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { messageOf } from "../base/errors.ts";
import { PROGRAM_FOLDER } from "../base/process/program.ts";
import { folderOf, type KernelModule, latest, latestOf, MODULES } from "./kernels.ts";

const HOUR = 3_600_000;

function keyOf(root: string): string {
  const hash = new Bun.CryptoHasher("sha256");
  const sources = readdirSync(join(root, "assembly"))
    .filter((name) => name.endsWith(".ts"))
    .sort()
    .map((name) => join("assembly", name));
  for (const path of [...sources, "asconfig.json", "bun.lock"]) {
    const text = readFileSync(join(root, path));
    hash.update(`${path} ${text.length}\n`).update(text);
  }
  return hash.digest("hex").slice(0, 16);
}

/** Tells whether the compiled kernels fit the sources. */
export function kernelsAreCurrent(root = PROGRAM_FOLDER): boolean {
  return latest(root) === keyOf(root);
}

async function compile(root: string, module: KernelModule): Promise<Uint8Array> {
  const asc = (await import("assemblyscript/asc")).default;
  const output = `${module}.wasm`;
  const files = new Map<string, Uint8Array | string>();
  const entry = `assembly/${module}.ts`;
  const { error, stderr } = await asc.main([entry, "--target", module, "--outFile", output, "--baseDir", root], {
    writeFile: (name, contents) => void files.set(name, contents),
  });
  if (error) throw new Error(`${entry} does not compile:\n${stderr.toString()}`);
  return files.get(output) as Uint8Array;
}

/** Compiles what is stale. A finished build appears in one step: processes may build at the same time. */
export async function buildKernels(root = PROGRAM_FOLDER): Promise<void> {
  const key = keyOf(root);
  if (latest(root) === key) return;
  const build = join(root, "build");
  const folder = folderOf(root, key);
  if (!existsSync(folder)) {
    mkdirSync(build, { recursive: true });
    const temporary = mkdtempSync(join(build, ".kernels-"));
    try {
      for (const module of MODULES) writeFileSync(join(temporary, `${module}.wasm`), await compile(root, module));
      // Sources that changed meanwhile may be in one module and not in the other.
      if (keyOf(root) !== key) return await buildKernels(root);
      moveInto(temporary, folder);
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
  }
  const pointer = join(build, `.latest-${crypto.randomUUID()}`);
  writeFileSync(pointer, key);
  renameSync(pointer, latestOf(root));
  for (const name of readdirSync(build)) {
    const path = join(build, name);
    // Old builds, and what a build that was killed left behind.
    const ours = name.startsWith("kernels-") || name.startsWith(".kernels-") || name.startsWith(".latest-");
    if (ours && path !== folder && Date.now() - statSync(path).mtimeMs > HOUR) rmSync(path, { recursive: true, force: true });
  }
}

/** Renames a folder, unless another process was first with the same build. */
function moveInto(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!existsSync(to)) throw error;
  }
}

if (import.meta.main) {
  try {
    await buildKernels();
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exit(1);
  }
}
