import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { UserError } from "../errors.ts";

/** Defined where the executable is built (cli/executable.ts). */
declare const REMAT_EXECUTABLE: boolean | undefined;

/** True if this is the program in one file, which needs neither Bun nor a package. */
export const IS_EXECUTABLE: boolean = typeof REMAT_EXECUTABLE !== "undefined";

/** The folder of the package. The executable holds the same files under the same names; they can be read whole, but not be opened. */
export const PROGRAM_FOLDER: string = IS_EXECUTABLE ? import.meta.dir : join(import.meta.dir, "../../..");

/** The module of a thread, by its path in the package. */
export function threadModule(path: string): URL {
  return pathToFileURL(join(PROGRAM_FOLDER, path));
}

/** The command that starts this program's command line in another process, to be followed by arguments. @throws {UserError} */
export function programCommand(): readonly string[] {
  if (IS_EXECUTABLE) return [process.execPath];
  if (Bun.isStandaloneExecutable)
    throw new UserError(
      "a process of Remat's own cannot be started from an executable that Remat was compiled into as a library",
    );
  return [process.execPath, join(PROGRAM_FOLDER, "src/cli/main.ts")];
}
