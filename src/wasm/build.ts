/**
 * Compiles the AssemblyScript kernels. `build/kernels-<key>/` holds the two modules, the key is a hash of everything
 * that goes into them, so an up-to-date build takes a few milliseconds and does not load the compiler. `build/kernels`
 * holds the key of the last build, the one that runs.
 *
 *     bun src/wasm/build.ts
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { messageOf, UserError } from "../errors.ts";

const ROOT = join(import.meta.dir, "../..");
const BUILD = join(ROOT, "build");
const HOUR = 3_600_000;

/** Name of the compile target in asconfig.json and of the entry file in assembly/. */
const MODULES = ["matrix", "index"] as const;
export type KernelModule = (typeof MODULES)[number];

function key(): string {
  const hash = new Bun.CryptoHasher("sha256");
  const sources = readdirSync(join(ROOT, "assembly"))
    .filter((name) => name.endsWith(".ts"))
    .sort()
    .map((name) => join("assembly", name));
  for (const path of [...sources, "asconfig.json", "bun.lock"]) {
    const text = readFileSync(join(ROOT, path));
    hash.update(`${path} ${text.length}\n`).update(text);
  }
  return hash.digest("hex").slice(0, 16);
}

const folderOf = (of: string): string => join(BUILD, `kernels-${of}`);
const LATEST = join(BUILD, "kernels");

/** Key of the last build, or null. */
const latest = (): string | null => (existsSync(LATEST) ? readFileSync(LATEST, "utf8") : null);

/** Whether the compiled kernels fit the sources. */
export function kernelsAreCurrent(): boolean {
  return latest() === key();
}

/** The compiled modules of the last build. */
export function loadKernels(): Record<KernelModule, Uint8Array<ArrayBuffer>> {
  const built = latest();
  if (built === null) throw new UserError('the kernels are not compiled; run "bun src/wasm/build.ts"');
  const folder = folderOf(built);
  return { matrix: readFileSync(join(folder, "matrix.wasm")), index: readFileSync(join(folder, "index.wasm")) };
}

async function compile(module: KernelModule): Promise<Uint8Array> {
  const asc = (await import("assemblyscript/asc")).default;
  const output = `${module}.wasm`;
  const files = new Map<string, Uint8Array | string>();
  const entry = `assembly/${module}.ts`;
  const { error, stderr } = await asc.main([entry, "--target", module, "--outFile", output, "--baseDir", ROOT], {
    writeFile: (name, contents) => void files.set(name, contents),
  });
  if (error) throw new Error(`${entry} does not compile:\n${stderr.toString()}`);
  return files.get(output) as Uint8Array;
}

/** Compiles what is stale. A finished build appears in one step: processes may build at the same time. */
export async function buildKernels(): Promise<void> {
  const wanted = key();
  if (latest() === wanted) return;
  const folder = folderOf(wanted);
  if (!existsSync(folder)) {
    const temporary = join(BUILD, `.kernels-${process.pid}`);
    mkdirSync(temporary, { recursive: true });
    try {
      for (const module of MODULES) writeFileSync(join(temporary, `${module}.wasm`), await compile(module));
      // Sources that changed meanwhile may be in one module and not in the other.
      if (key() !== wanted) return await buildKernels();
      if (!existsSync(folder)) renameSync(temporary, folder);
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
  }
  const pointer = join(BUILD, `.latest-${process.pid}`);
  writeFileSync(pointer, wanted);
  renameSync(pointer, LATEST);
  for (const name of readdirSync(BUILD)) {
    const path = join(BUILD, name);
    // Old builds, and what a build that was killed left behind.
    const ours = name.startsWith("kernels-") || name.startsWith(".kernels-") || name.startsWith(".latest-");
    if (ours && path !== folder && Date.now() - statSync(path).mtimeMs > HOUR) rmSync(path, { recursive: true, force: true });
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
