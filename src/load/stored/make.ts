/** Makes a file of converted weights, or goes on with one that an earlier process did not end. */
import * as fs from "node:fs";
import { formatBytes } from "../../base/bytes.ts";
import { type FileIo, readFully, writeFully } from "../../base/files/files.ts";
import { changed, type OpenFile } from "../../base/files/open-file.ts";
import type { Breath } from "../../base/process/event-loop.ts";
import { beginsAs, type CacheLayout, type CachePart, checksum, checksumOf, tableEntry } from "./layout.ts";
import { convertedPieces, createConverting } from "./reader.ts";
import { onDisk } from "./room.ts";
import type { StoredTensor } from "./tensors.ts";

export interface MakeOptions {
  readonly layout: CacheLayout;
  /** The tensors that are converted. */
  readonly tensors: readonly StoredTensor[];
  /** The checkpoint's files. */
  readonly files: readonly OpenFile[];
  readonly breathe: Breath;
  /** Called with the bytes of parts that are done, whenever others get their turn. */
  readonly onBytes: (done: number) => void;
  readonly io: FileIo;
}

/** Bytes between two calls of fsync: the last one, which nothing interrupts, is then short, and few pages of the cache are dirty. */
const SYNCED_BYTES = 64 << 20;

/** Bytes that are read at a time. */
const PIECE = 1 << 20;

/**
 * Returns the parts of a draft that are whole: those with a checksum that their data have. A draft that begins otherwise is emptied.
 * @throws {UserError}
 */
export async function wholeParts(
  draft: Pick<OpenFile, "fd" | "path">,
  layout: CacheLayout,
  breathe: Breath,
  onBytes: (count: number) => void,
): Promise<Set<string>> {
  const { fd, path } = draft;
  const whole = new Set<string>();
  const { size } = fs.fstatSync(fd);
  const begin = new Uint8Array(layout.dataAt);
  if (size >= begin.length) readFully(fd, begin, 0, path);
  if (!beginsAs(begin, layout)) {
    fs.ftruncateSync(fd, 0);
    return whole;
  }
  for (const part of layout.parts.values()) {
    if (part.offset + part.bytes > size || checksumOf(begin, part) === null) continue;
    if (await isWhole(draft, begin, part, breathe, onBytes)) whole.add(part.name);
  }
  return whole;
}

/** Tells whether a part's data have its checksum. @param begin the file's first bytes, up to the first part */
export async function isWhole(
  { fd, path }: Pick<OpenFile, "fd" | "path">,
  begin: Uint8Array,
  part: CachePart,
  breathe: Breath,
  onBytes: (count: number) => void,
): Promise<boolean> {
  const buffer = new Uint8Array(Math.min(PIECE, part.bytes));
  let sum = 0;
  for (let at = 0; at < part.bytes; at += PIECE) {
    const piece = buffer.subarray(0, Math.min(PIECE, part.bytes - at));
    readFully(fd, piece, part.offset + at, path);
    sum = checksum(piece, sum);
    onBytes(piece.length);
    await breathe();
  }
  return checksumOf(begin, part) === sum;
}

/**
 * Writes all parts that are not whole, and syncs. A part is recorded by its checksum when it is written: data that do not reach the
 * disk in time do not have that, so records need no sync of their own.
 * @param whole names of parts that are there
 * @throws {WeightCacheError} a full disk
 * @throws {UserError} a checkpoint that changes meanwhile, numbers that a format has no place for
 */
export async function makeParts(draft: Pick<OpenFile, "fd" | "path">, whole: Set<string>, options: MakeOptions): Promise<void> {
  const { layout, tensors, files, breathe, onBytes, io } = options;
  const { fd, path } = draft;
  let unsynced = 0;
  const attempt = (action: () => void) =>
    onDisk("write", path, action, `; the converted weights take ${formatBytes(layout.size)} in all`);
  const sync = () => attempt(() => io.fsyncSync(fd));
  const write = (bytes: Uint8Array, position: number) => {
    attempt(() => writeFully(fd, bytes, io, position));
    unsynced += bytes.length;
    if (unsynced < SYNCED_BYTES) return;
    sync();
    unsynced = 0;
  };
  if (whole.size === 0) {
    const begin = new Uint8Array(layout.dataAt);
    begin.set(layout.header);
    write(begin, 0);
  }
  const converting = createConverting();
  let done = [...whole].reduce((sum, name) => sum + layout.parts.get(name)!.bytes, 0);
  for (const tensor of tensors) {
    const [values, scales] = [tensor.values, tensor.scales].map((param) => (param ? layout.parts.get(param.name)! : null));
    const parts = [values, scales].filter((part) => part != null);
    if (parts.every(({ name }) => whole.has(name))) continue;
    for (const { name, bytes } of parts) if (whole.has(name)) done -= bytes;
    const sums = new Map(parts.map((part) => [part, { sum: 0, at: part.offset }]));
    const append = (part: CachePart, bytes: Uint8Array) => {
      const written = sums.get(part)!;
      write(bytes, written.at);
      written.sum = checksum(bytes, written.sum);
      written.at += bytes.length;
      done += bytes.length;
    };
    for (const piece of convertedPieces(converting, files, tensor, { begin: 0, end: tensor.elements })) {
      append(values!, piece.values);
      if (piece.scales !== null) append(scales!, piece.scales);
      if (await breathe()) onBytes(done);
    }
    // Before the parts are recorded: of a checkpoint that is being overwritten nothing may stay.
    const change = changed(files[tensor.file]!);
    if (change !== null) throw change;
    for (const [part, { sum }] of sums) {
      write(tableEntry(sum), part.entry);
      whole.add(part.name);
    }
  }
  sync();
  onBytes(done);
}
