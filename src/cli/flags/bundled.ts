import { existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { makeFolder } from "../../base/files/files.ts";
import { cacheFolder } from "../../base/files/cache-folder.ts";
import { IS_EXECUTABLE, PROGRAM_FOLDER } from "../../base/process/program.ts";

const RECIPES = join(PROGRAM_FOLDER, "recipes");

let folder: string | null = null;

/**
 * The folder of the recipes that come along. The executable unpacks its own into the cache, once for each content: models and data are
 * read from open files.
 */
export function recipesFolder(): string {
  return (folder ??= IS_EXECUTABLE ? unpack(RECIPES, join(cacheFolder(), "recipes")) : RECIPES);
}

/** Copies the files of a folder into one of `target` that is named by their content. The folder appears whole or not at all. */
export function unpack(source: string, target: string): string {
  const hash = new Bun.CryptoHasher("sha256");
  const names = (readdirSync(source, { recursive: true }) as string[]).sort();
  const files = names.flatMap((name) => {
    const data = readIfFile(join(source, name));
    if (data === null) return [];
    hash.update(`${name} ${data.length}\n`).update(data);
    return [{ name, data }];
  });
  const unpacked = join(target, hash.digest("hex").slice(0, 16));
  if (existsSync(unpacked)) return unpacked;
  makeFolder(target);
  const temporary = mkdtempSync(join(target, ".unpacking-"));
  try {
    for (const { name, data } of files) {
      makeFolder(dirname(join(temporary, name)));
      writeFileSync(join(temporary, name), data);
    }
    renameSync(temporary, unpacked);
  } catch (error) {
    // Another process was first.
    if (!existsSync(unpacked)) throw error;
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  return unpacked;
}

function readIfFile(path: string): Uint8Array | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EISDIR") return null;
    throw error;
  }
}
