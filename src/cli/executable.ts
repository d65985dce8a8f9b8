/**
 * Builds the program as one file, with Bun, the kernels, the threads' modules, the server's page and the recipes in it. It runs on a machine that
 * has nothing else. ONNX Runtime's library is used when it lies beside the file.
 *
 *     bun src/cli/executable.ts [FILE] [--target bun-linux-arm64]
 *
 * FILE is `dist/remat` by default. For another system Bun fetches its own program of that system.
 */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { messageOf } from "../base/errors.ts";
import { PROGRAM_FOLDER } from "../base/process/program.ts";
import { BUNDLED, bundlePage } from "../serve/home/page/bundle.ts";
import { folderOf, latest, latestOf } from "../wasm/kernels.ts";

/** Modules that threads start with: entry points of their own, by their paths in the package. */
const THREADS = ["src/wasm/worker.ts", "src/store/thread.ts", "src/load/stored/stream-thread.ts", "src/serve/encoder-thread.ts"];

/** Builds the executable. @throws what Bun says of a build that fails */
export async function buildExecutable(file: string, target?: Bun.Build.CompileTarget): Promise<void> {
  const key = latest(PROGRAM_FOLDER);
  if (key === null) throw new Error('the kernels are not compiled; run "bun src/wasm/build.ts"');
  // An asset loses the folders that it is in: the last build alone, in a folder of the name that it is looked for in.
  const staged = mkdtempSync(join(tmpdir(), "remat-executable-"));
  try {
    cpSync(latestOf(PROGRAM_FOLDER), latestOf(staged));
    cpSync(folderOf(PROGRAM_FOLDER, key), folderOf(staged, key), { recursive: true });
    const page = join(staged, BUNDLED);
    mkdirSync(page);
    for (const [name, { bytes }] of await bundlePage()) writeFileSync(join(page, name), bytes);
    await Bun.build({
      entrypoints: ["src/cli/main.ts", ...THREADS].map((path) => join(PROGRAM_FOLDER, path)),
      root: PROGRAM_FOLDER,
      target: "bun",
      define: { REMAT_EXECUTABLE: "true" },
      // Found at run time, where it is.
      external: ["onnxruntime-node"],
      compile: {
        outfile: resolve(file),
        assets: [join(PROGRAM_FOLDER, "recipes"), dirname(latestOf(staged)), page],
        // Settings of the folder that it is started in are those of another program.
        autoloadDotenv: false,
        autoloadBunfig: false,
        ...(target && { target }),
      },
    });
  } finally {
    rmSync(staged, { recursive: true });
  }
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      target: { type: "string" },
    },
  });
  const [file = "dist/remat"] = positionals;
  try {
    await buildExecutable(file, values.target as Bun.Build.CompileTarget | undefined);
    console.log(`${file}: run it as ${file} train`);
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exit(1);
  }
}
