import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { dirname, extname, join, relative } from "node:path";
import type { ObjectStore } from "@nats-io/obj";
import { systemCode, UserError } from "../base/errors.ts";
import { fileHash } from "../base/files/checksums.ts";
import { filePieces, hashFile, makeFolder, openAtomic } from "../base/files/files.ts";
import { RUN_FILES } from "../train/run/folder.ts";
import { persistently, type StoredFile, within } from "./records.ts";
import type { Passage } from "./traffic.ts";

/** Puts a file into a store under a name, unless it is there already; nothing of it is seen before all of it is there. */
export async function putFile(store: ObjectStore, name: string, path: string, way: Passage): Promise<void> {
  await put(store, name, statSync(path).size, () => filePieces(path, PIECE), way);
}

async function put(
  store: ObjectStore,
  name: string,
  bytes: number,
  open: () => Iterable<Uint8Array>,
  { signal, counted }: Passage,
): Promise<void> {
  await persistently(async () => {
    const there = await store.info(name);
    if (there !== null && !there.deleted && there.size === bytes) return;
    await store.put({ name }, streamOf(open(), counted));
  }, signal);
}

/** Bytes that are read from a file at a time. */
const PIECE = 1 << 20;

function streamOf(all: Iterable<Uint8Array>, counted: Passage["counted"]): ReadableStream<Uint8Array> {
  const pieces = all[Symbol.iterator]();
  return new ReadableStream<Uint8Array>({
    pull(controller) {
      const next = pieces.next();
      if (next.done === true) return controller.close();
      counted?.(next.value.length);
      // The next piece comes into the same memory.
      controller.enqueue(next.value.slice());
    },
    cancel: () => void pieces.return?.(),
  });
}

/**
 * Fetches a file under its name in a store, and compares its SHA-256.
 * @throws {UserError} a file that is not there, or not what its hash says
 */
export async function getFile(
  store: ObjectStore,
  name: string,
  { path: asked, sha256, bytes }: StoredFile,
  path: string,
  { signal, counted }: Passage,
): Promise<void> {
  makeFolder(dirname(path));
  await persistently(async () => {
    const found = await store.get(name);
    if (found === null) throw new UserError(`the fleet's store has no ${asked} (${sha256.slice(0, 16)}...) any more`);
    found.error.catch(() => {});
    const file = openAtomic(path);
    const hash = new Bun.CryptoHasher("sha256");
    const reader = found.data.getReader();
    let length = 0;
    try {
      for (;;) {
        const piece = await within(reader.read());
        if (piece.done) break;
        counted?.(piece.value.length);
        hash.update(piece.value);
        file.write(piece.value);
        length += piece.value.length;
      }
    } catch (error) {
      file.discard();
      void reader.cancel().catch(() => {});
      throw error;
    }
    if (hash.digest("hex") !== sha256 || length !== bytes) {
      file.discard();
      throw new UserError(`${asked} came out of the fleet's store with another SHA-256 than it went in with`);
    }
    file.finish();
  }, signal);
}

/** Endings of a model folder's files that decide what it computes. */
const MODEL_FILES: ReadonlySet<string> = new Set([".json", ".safetensors", ".gguf", ".txt", ".model", ".jinja"]);

/** The files of a base model's folder by their content. Large ones are read once, and their hashes are kept. */
export function modelFiles(folder: string): StoredFile[] {
  return filesIn(folder)
    .filter((path) => MODEL_FILES.has(extname(path)))
    .map((path) => ({ path, sha256: fileHash(join(folder, path)).sha256, bytes: statSync(join(folder, path)).size }));
}

/** The name that a base model has by its content. */
export function modelId(files: readonly StoredFile[]): string {
  const lines = files.map(({ path, sha256 }) => `${sha256}  ${path}\n`).sort();
  return new Bun.CryptoHasher("sha256").update(lines.join("")).digest("hex");
}

/** Files of a run folder that are made again by whoever goes on with it, or are a process's own. */
const LEFT_OUT: ReadonlySet<string> = new Set([RUN_FILES.segments, RUN_FILES.costs]);

/** Bytes of a file that is read whole before it is sent, since its process may write on. */
const LARGE = 64 << 20;

/**
 * Puts a run folder's files as they are now into a store, and lists them. What goes in the meantime, as old checkpoints do, is left out. `sent` holds the files of
 * checkpoints that are there already: they never change once they have their name.
 */
export async function saveRun(
  store: ObjectStore,
  key: string,
  folder: string,
  sent: Map<string, StoredFile>,
  way: Passage,
): Promise<StoredFile[]> {
  const files: StoredFile[] = [];
  for (const path of filesIn(folder)) {
    if (LEFT_OUT.has(path.split("/")[0]!)) continue;
    const before = isFinal(path) ? sent.get(path) : undefined;
    const file = before ?? (await saveFile(store, key, folder, path, way));
    if (file === null) continue;
    if (isFinal(path)) sent.set(path, file);
    files.push(file);
  }
  return files;
}

async function saveFile(store: ObjectStore, key: string, folder: string, path: string, way: Passage): Promise<StoredFile | null> {
  const full = join(folder, path);
  try {
    if (statSync(full).size > LARGE) {
      const file = { path, sha256: hashFile(full), bytes: statSync(full).size };
      await putFile(store, objectOf.run(key, file), full, way);
      return file;
    }
    const bytes = readFileSync(full);
    const file = { path, sha256: new Bun.CryptoHasher("sha256").update(bytes).digest("hex"), bytes: bytes.length };
    await put(store, objectOf.run(key, file), bytes.length, () => [bytes], way);
    return file;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return null;
    throw error;
  }
}

/** Files of checkpoints never change once they have their name. */
const isFinal = (path: string): boolean => path.startsWith(`${RUN_FILES.checkpoints}/`);

/** A checkpoint is one by its position, and a run by its configuration: both go last. */
function turnOf({ path }: StoredFile): number {
  if (path === RUN_FILES.config) return 2;
  return isFinal(path) && path.endsWith(".json") ? 1 : 0;
}

/** All files of a folder and of those in it, by their paths from it, in order; those whose names begin with a point are left out. */
function filesIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const visit = (at: string): string[] =>
    entriesOf(at).flatMap((entry) => {
      const path = join(at, entry.name);
      if (entry.name.startsWith(".")) return [];
      return statSync(path, { throwIfNoEntry: false })?.isDirectory() === true ? visit(path) : [relative(folder, path)];
    });
  return visit(folder).sort();
}

function entriesOf(folder: string) {
  try {
    return readdirSync(folder, { withFileTypes: true });
  } catch (error) {
    if (systemCode(error) === "ENOENT") return [];
    throw error;
  }
}

/** Names of objects. */
export const objectOf = {
  /** A file that a front's jobs are trained on. */
  data: (front: string, { sha256 }: StoredFile) => `${front}/${sha256}`,
  /** A file of a job's run. */
  run: (key: string, { sha256 }: StoredFile) => `${key}/${sha256}`,
} as const;

/**
 * Makes a folder's files what a list says: missing and other ones are fetched, those that are on no list are removed.
 */
export async function restoreRun(
  store: ObjectStore,
  key: string,
  files: readonly StoredFile[],
  folder: string,
  way: Passage,
): Promise<void> {
  makeFolder(folder);
  const listed = new Set(files.map(({ path }) => path));
  for (const file of [...files].sort((a, b) => turnOf(a) - turnOf(b))) {
    const path = join(folder, file.path);
    if (relative(folder, path).startsWith("..")) throw new UserError(`${file.path} of the job's run leaves its folder`);
    const isThere =
      existsSync(path) && statSync(path).size === file.bytes && (isFinal(file.path) || hashFile(path) === file.sha256);
    if (!isThere) await getFile(store, objectOf.run(key, file), file, path, way);
  }
  for (const path of filesIn(folder)) if (!listed.has(path)) rmSync(join(folder, path), { force: true });
  for (const entry of entriesOf(join(folder, RUN_FILES.checkpoints))) {
    const isKept = files.some(({ path }) => path.startsWith(`${RUN_FILES.checkpoints}/${entry.name}/`));
    if (!isKept) rmSync(join(folder, RUN_FILES.checkpoints, entry.name), { recursive: true, force: true });
  }
}
