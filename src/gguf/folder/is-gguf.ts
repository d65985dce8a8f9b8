import { closeSync, openSync, readSync, statSync } from "node:fs";

/** Tells whether a path names a GGUF file: by its begin, for the files of Ollama's store have no ending. */
export function isGguf(path: string): boolean {
  if (!statSync(path, { throwIfNoEntry: false })?.isFile()) return false;
  if (path.endsWith(".gguf")) return true;
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch {
    // Whoever opens it says why it cannot be read.
    return false;
  }
  try {
    const magic = Buffer.alloc(4);
    return readSync(fd, magic, 0, 4, 0) === 4 && magic.toString("latin1") === "GGUF";
  } finally {
    closeSync(fd);
  }
}
