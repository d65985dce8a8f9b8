import {
  createReadStream,
  createWriteStream,
  existsSync,
  openSync,
  readSync,
  closeSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { createInflateRaw } from "node:zlib";
import { UserError } from "../base/errors.ts";
import { fileError } from "../base/files/files.ts";
import { download } from "../base/files/download.ts";
import { PROVIDER_FILES } from "./cuda.ts";
import { libraryPath, loadOrt } from "./library.ts";

/** An archive that holds the provider's files. */
export interface ProviderPackage {
  /** Version of ONNX Runtime that the files fit. */
  readonly version: string;
  readonly url: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Folder of the files inside. */
  readonly folder: string;
}

/** Where the files come from: ONNX Runtime's own wheel on the Python package index, a ZIP archive. */
export const CUDA_PACKAGE: ProviderPackage = {
  version: "1.30.0",
  url: "https://files.pythonhosted.org/packages/ea/71/b225bd559a718f6cefb058d4f4c4c95e556543f47d4be0e81819681ac347/onnxruntime_gpu-1.30.0-cp311-cp311-manylinux_2_28_x86_64.whl",
  bytes: 246_658_419,
  sha256: "4fbf0c5d7b5fb99266c2e8a802e3e64af68bdc383e0f3c7349b985f1087eedaa",
  folder: "onnxruntime/capi",
};

export interface InstallOptions {
  /** The archive, downloaded elsewhere, for a machine without network. */
  readonly from?: string | undefined;
  /** Where ONNX Runtime's main library lies. */
  readonly folder?: string;
  readonly source?: ProviderPackage;
  readonly onBytes?: (bytes: number, total: number) => void;
  /** Waits between attempts, in ms. */
  readonly retryDelays?: readonly number[];
}

/**
 * Puts the CUDA provider's files beside ONNX Runtime's main library. Nothing is put there unless the archive has its
 * checksum. Returns the paths.
 * @throws {UserError} another system or version, no network, a wrong checksum, a folder that cannot be written to
 */
export async function installCuda(options: InstallOptions = {}): Promise<string[]> {
  const { folder = dirname(libraryPath()), source = CUDA_PACKAGE, retryDelays = [1000, 4000] } = options;
  const system = `${process.platform} ${process.arch}`;
  if (system !== "linux x64") throw new UserError(`the CUDA provider exists for linux x64, this is ${system}`);
  const { version } = loadOrt();
  if (version !== source.version)
    throw new UserError(`the CUDA provider's files are of ONNX Runtime ${source.version}, but ${version} is installed here`);
  const archive = options.from ?? join(folder, "cuda-provider.zip");
  if (options.from === undefined) {
    const file = { url: source.url, etag: source.sha256, size: source.bytes };
    const what = `ONNX Runtime's CUDA provider from ${source.url}`;
    const { onBytes } = options;
    try {
      await download(file, archive, what, { token: null, retryDelays }, (bytes) => onBytes?.(bytes, source.bytes));
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      throw new UserError(`${error.message}. Without network: bring this file here, and pass it with --from FILE`);
    }
  } else {
    if (!existsSync(archive)) throw new UserError(`--from ${archive}: there is no such file`);
    await checkArchive(archive, source);
  }
  try {
    const entries = readDirectory(archive);
    const paths: string[] = [];
    for (const name of PROVIDER_FILES) {
      const entry = entries.get(`${source.folder}/${name}`);
      if (!entry) throw new UserError(`${archive} does not hold ${source.folder}/${name}`);
      const path = join(folder, name);
      await extract(archive, entry, path);
      paths.push(path);
    }
    return paths;
  } finally {
    if (options.from === undefined) rmSync(archive, { force: true });
  }
}

async function checkArchive(path: string, source: ProviderPackage): Promise<void> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of createReadStream(path)) hasher.update(chunk as Buffer);
  if (hasher.digest("hex") !== source.sha256)
    throw new UserError(`${path} does not have the checksum ${source.sha256}; expected the file from ${source.url}`);
}

// ZIP (PKWARE APPNOTE, section 4.3): at the end the end record, which points to the
// central directory, whose entries point to a local header each, behind which the file's bytes are.
const END_RECORD = 0x06054b50;
const END_BYTES = 22;
const MOST_COMMENT = 0xffff;
const ENTRY_BYTES = 46;
const LOCAL_BYTES = 30;
const STORED = 0;
const DEFLATED = 8;

interface ZipEntry {
  readonly method: number;
  readonly packed: number;
  readonly bytes: number;
  /** The offset of the packed bytes. */
  readonly offset: number;
}

function readDirectory(path: string): Map<string, ZipEntry> {
  const { size } = statSync(path);
  const fd = openSync(path, "r");
  const bytesAt = (offset: number, count: number) => {
    const bytes = Buffer.alloc(count);
    if (readSync(fd, bytes, 0, count, offset) !== count) throw new UserError(`${path} is cut short`);
    return bytes;
  };
  try {
    const tail = bytesAt(Math.max(0, size - END_BYTES - MOST_COMMENT), Math.min(size, END_BYTES + MOST_COMMENT));
    let end = tail.length - END_BYTES;
    while (end >= 0 && tail.readUInt32LE(end) !== END_RECORD) end--;
    if (end < 0) throw new UserError(`${path} is no ZIP archive`);
    const count = tail.readUInt16LE(end + 10);
    const directory = bytesAt(tail.readUInt32LE(end + 16), tail.readUInt32LE(end + 12));
    const entries = new Map<string, ZipEntry>();
    for (let i = 0, at = 0; i < count; i++) {
      const [name, extra, comment] = [28, 30, 32].map((field) => directory.readUInt16LE(at + field)) as [number, number, number];
      const local = directory.readUInt32LE(at + 42);
      const header = bytesAt(local, LOCAL_BYTES);
      entries.set(directory.toString("utf8", at + ENTRY_BYTES, at + ENTRY_BYTES + name), {
        method: directory.readUInt16LE(at + 10),
        packed: directory.readUInt32LE(at + 20),
        bytes: directory.readUInt32LE(at + 24),
        offset: local + LOCAL_BYTES + header.readUInt16LE(26) + header.readUInt16LE(28),
      });
      at += ENTRY_BYTES + name + extra + comment;
    }
    return entries;
  } finally {
    closeSync(fd);
  }
}

/** Writes an entry under another name, then renames: what has the name is whole. */
async function extract(archive: string, { method, packed, bytes, offset }: ZipEntry, path: string): Promise<void> {
  if (method !== STORED && method !== DEFLATED) throw new UserError(`${archive}: unknown compression ${method}`);
  const temporary = `${path}.incomplete`;
  try {
    const from = createReadStream(archive, { start: offset, end: offset + packed - 1 });
    const to = createWriteStream(temporary);
    await (method === STORED ? pipeline(from, to) : pipeline(from, createInflateRaw(), to));
    if (statSync(temporary).size !== bytes) throw new UserError(`${archive}: ${path} came out with the wrong size`);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw fileError("write", path, error);
  }
}
