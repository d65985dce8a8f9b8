/**
 * Files of converted weights in the user's cache folder, by content: two runs of the same weights in the same formats share one. One
 * process makes a file, the others wait for it. Whoever uses a file has a shared lock on it, which keeps it from being removed.
 */
import * as fs from "node:fs";
import { join } from "node:path";
import { formatBytes } from "../../base/bytes.ts";
import { type FileIo, fileIo, makeFolder, readFully, syncFolder } from "../../base/files/files.ts";
import { tryLock } from "../../base/files/flock.ts";
import { markUsed, removeCached } from "../../base/files/last-used.ts";
import { type OpenFile, openFile, stamped } from "../../base/files/open-file.ts";
import { createBreath } from "../../base/process/event-loop.ts";
import { beginsAs } from "./layout.ts";
import { isWhole, type MakeOptions, makeParts, wholeParts } from "./make.ts";
import { DRAFT, isAt, makeRoom, onDisk, WeightCacheError, WHOLE } from "./room.ts";

/** Progress in the making or checking of a file of converted weights. */
export interface WeightCacheProgress {
  /** `waiting`: another process makes it. */
  readonly stage: "making" | "verifying" | "waiting";
  readonly path: string;
  /** Bytes that are done, of `size`. */
  readonly bytes: number;
  readonly size: number;
  /** Bytes among these that an earlier process had done; to be left out where a rate is made of `bytes` and `seconds`. */
  readonly resumed: number;
  /** Seconds since the stage began. */
  readonly seconds: number;
}

export interface WeightCacheOptions {
  /** The folder of the files. */
  readonly folder: string;
  /** Ends the making or the waiting; what is done stays, and is gone on with the next time. */
  readonly signal?: AbortSignal | undefined;
  /** Called now and then, and when the making ends. */
  readonly onProgress?: ((progress: WeightCacheProgress) => void) | undefined;
  /** Called with a sentence that a user should read: a damaged file, another process that is waited for. */
  readonly onNote?: ((text: string) => void) | undefined;
  readonly io?: FileIo | undefined;
}

export interface WeightCache {
  /** Open until `close` of its owner; a shared lock hangs on it. */
  readonly file: OpenFile;
  /** True if this call made the file, or an unfinished one whole. */
  readonly made: boolean;
}

/** Milliseconds between two looks at what another process does, and between two reports while bytes are read. */
const LOOK_MS = 100;

/** By path, the stamps of files whose checksums this process has compared. */
const verified = new Map<string, string>();

/** A file of converted weights that is wanted. */
interface Wanted extends Pick<MakeOptions, "layout" | "tensors" | "files" | "breathe" | "io"> {
  readonly folder: string;
  /** The whole file, and the one that is being made. */
  readonly path: string;
  readonly draft: string;
  readonly signal: AbortSignal | undefined;
  readonly onNote: (text: string) => void;
  /** Tells how far a stage is, with the time since it began. */
  readonly report: (stage: WeightCacheProgress["stage"], bytes: number, resumed?: number) => void;
}

/**
 * Opens the file of a layout, which is made before if need be. A damaged one is made anew.
 * @throws {WeightCacheError} a disk without room, a folder that cannot be written to
 * @throws {UserError} as `makeParts`
 * @throws the signal's reason when it is aborted
 */
export async function openWeightCache(
  making: Pick<MakeOptions, "layout" | "tensors" | "files">,
  { folder, signal, onProgress = () => {}, onNote = () => {}, io = fileIo }: WeightCacheOptions,
): Promise<WeightCache> {
  const { layout } = making;
  const path = join(folder, layout.key + WHOLE);
  const draft = join(folder, layout.key + DRAFT);
  const report = createReport(path, layout.bytes, onProgress);
  const wanted: Wanted = { ...making, folder, path, draft, signal, breathe: createBreath(signal), onNote, report, io };
  let made = false;
  let isWaiting = false;
  onDisk("create the folder", folder, () => makeFolder(folder));
  for (;;) {
    signal?.throwIfAborted();
    const file = await openWhole(wanted);
    if (file === "busy") {
      await Bun.sleep(LOOK_MS);
      continue;
    }
    if (file !== null) {
      markUsed(path);
      return { file, made };
    }
    const fd = lockDraft(wanted);
    if (fd === "busy") {
      if (!isWaiting) onNote(`another process makes ${path}, which is waited for`);
      isWaiting = true;
      report("waiting", Math.min(layout.bytes, fs.statSync(draft, { throwIfNoEntry: false })?.size ?? 0));
      await Bun.sleep(LOOK_MS);
      continue;
    }
    if (fd === null) continue;
    try {
      await makeWhole(fd, wanted);
      made = true;
    } finally {
      fs.closeSync(fd);
    }
  }
}

function createReport(path: string, size: number, onProgress: (progress: WeightCacheProgress) => void): Wanted["report"] {
  let current = "";
  let begin = 0;
  return (stage, bytes, resumed = 0) => {
    if (stage !== current) begin = performance.now();
    current = stage;
    onProgress({ stage, path, bytes, size, resumed, seconds: (performance.now() - begin) / 1000 });
  };
}

/** Counts bytes that are compared, and reports now and then. */
function createCount({ report }: Wanted): (bytes: number) => void {
  let done = 0;
  let told = performance.now();
  return (bytes) => {
    done += bytes;
    if (performance.now() - told < LOOK_MS) return;
    told = performance.now();
    report("verifying", done);
  };
}

/** Opens the file, verified and locked; null: it is not there, or no more. Busy is one that another process is about to remove, or has just named. */
async function openWhole(wanted: Wanted): Promise<OpenFile | "busy" | null> {
  const { path, onNote } = wanted;
  const file = openIfThere(path);
  if (file === null) return null;
  let isKept = false;
  try {
    if (!tryLock(file.fd, path, "shared") || !isAt(path, file.fd)) return "busy";
    const fault = verified.get(path) === file.stamp ? null : await faultOf(file, wanted);
    if (fault !== null) {
      onNote(`${path} is damaged (${fault}) and is made anew`);
      if (isAt(path, file.fd)) onDisk("remove", path, () => removeCached(path));
      return null;
    }
    verified.set(path, file.stamp);
    isKept = true;
    return file;
  } finally {
    if (!isKept) fs.closeSync(file.fd);
  }
}

function openIfThere(path: string): OpenFile | null {
  try {
    return openFile(path);
  } catch (error) {
    if (fs.existsSync(path)) throw error;
    return null;
  }
}

/** Compares a file with what it should be, and returns what is wrong with it. */
async function faultOf(file: OpenFile, wanted: Wanted): Promise<string | null> {
  const { layout, breathe } = wanted;
  if (file.size !== layout.size) return `it has ${file.size} bytes, expected ${layout.size}`;
  const begin = new Uint8Array(layout.dataAt);
  readFully(file.fd, begin, 0, file.path);
  if (!beginsAs(begin, layout)) return "its header is another one";
  const count = createCount(wanted);
  for (const part of layout.parts.values())
    if (!(await isWhole(file, begin, part, breathe, count))) return `${part.name} does not have its checksum`;
  return null;
}

/** Opens a draft that nobody else writes to, for reading and writing; null: look again, it has become whole meanwhile. */
function lockDraft({ path, draft }: Wanted): number | "busy" | null {
  const fd = onDisk("write", draft, () => fs.openSync(draft, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o644));
  if (!tryLock(fd, draft)) {
    fs.closeSync(fd);
    return "busy";
  }
  if (isAt(draft, fd) && !fs.existsSync(path)) return fd;
  // It may have been made for this look alone.
  if (isAt(draft, fd)) fs.rmSync(draft, { force: true });
  fs.closeSync(fd);
  return null;
}

/**
 * Makes an open draft whole and gives it its name. A draft without a part that is done, or one whose parts can never be, is removed when
 * that fails.
 */
async function makeWhole(fd: number, wanted: Wanted): Promise<void> {
  const { layout, folder, path, draft, signal, breathe, onNote, report, io } = wanted;
  const whole = await wholeParts({ fd, path: draft }, layout, breathe, createCount(wanted));
  try {
    const resumed = [...whole].reduce((sum, name) => sum + layout.parts.get(name)!.bytes, 0);
    if (resumed > 0) onNote(`${formatBytes(resumed)} of ${formatBytes(layout.size)} in ${draft} are there already`);
    makeRoom(folder, draft, layout.size);
    report("making", resumed, resumed);
    await makeParts({ fd, path: draft }, whole, { ...wanted, onBytes: (bytes) => report("making", bytes, resumed) });
    onDisk("write", path, () => io.renameSync(draft, path));
  } catch (error) {
    const canGoOn = signal?.aborted || error instanceof WeightCacheError;
    if (!(canGoOn && whole.size > 0)) fs.rmSync(draft, { force: true });
    throw error;
  }
  // What was written was counted into the checksums on its way.
  verified.set(path, stamped(path, fd).stamp);
  syncFolder(folder, io);
}
