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
import { type Breath, createBreath } from "../../base/process/event-loop.ts";
import { beginsAs, type CacheLayout } from "./layout.ts";
import { isWhole, type MakeOptions, makeParts, wholeParts } from "./make.ts";
import { DRAFT, isAt, makeRoom, onDisk, WeightCacheError, WHOLE } from "./room.ts";

/** How far a file of converted weights is. */
export interface WeightCacheProgress {
  /** `waiting`: another process makes it. */
  readonly stage: "making" | "verifying" | "waiting";
  readonly path: string;
  /** Bytes that are done, of `size`. */
  readonly bytes: number;
  readonly size: number;
  /** Bytes of these that an earlier process had done. */
  readonly resumed: number;
  /** Seconds since the stage began. */
  readonly seconds: number;
}

export interface WeightCacheOptions {
  /** The folder of the files. */
  readonly folder: string;
  /** Ends the making or the waiting; what is done stays, and is gone on with the next time. */
  readonly signal?: AbortSignal | undefined;
  /** Called now and then, with a last call at the end of a stage. */
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

/** Milliseconds between two looks at what another process does. */
const LOOK_MS = 100;

/** By path, the stamps of files whose checksums this process has compared. */
const verified = new Map<string, string>();

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
  const draftPath = join(folder, layout.key + DRAFT);
  const breathe = createBreath(signal);
  const stages = createStages(path, layout, onProgress);
  let made = false;
  let isWaiting = false;
  onDisk("create the folder", folder, () => makeFolder(folder));
  for (;;) {
    signal?.throwIfAborted();
    const file = await openWhole(path, layout, { breathe, onNote, stages });
    if (file === "busy") {
      await Bun.sleep(LOOK_MS);
      continue;
    }
    if (file !== null) {
      markUsed(path);
      return { file, made };
    }
    const draft = lockDraft(draftPath, path);
    if (draft === "busy") {
      if (!isWaiting) onNote(`another process makes ${path}, which is waited for`);
      isWaiting = true;
      stages.report("waiting", Math.min(layout.bytes, fs.statSync(draftPath, { throwIfNoEntry: false })?.size ?? 0));
      await Bun.sleep(LOOK_MS);
      continue;
    }
    if (draft === null) continue;
    try {
      await makeWhole({ fd: draft, path: draftPath }, path, { ...making, breathe, io }, { folder, signal, onNote, stages });
      made = true;
    } finally {
      fs.closeSync(draft);
    }
  }
}

interface Stages {
  report(stage: WeightCacheProgress["stage"], bytes: number, resumed?: number): void;
}

/** Tells how far each stage is, with the time since it began. */
function createStages(path: string, { bytes: size }: CacheLayout, onProgress: (progress: WeightCacheProgress) => void): Stages {
  let current = "";
  let begin = 0;
  return {
    report(stage, bytes, resumed = 0) {
      if (stage !== current) begin = performance.now();
      current = stage;
      onProgress({ stage, path, bytes, size, resumed, seconds: (performance.now() - begin) / 1000 });
    },
  };
}

/** The file, verified and locked; null: it is not there, or no more. Busy is one that another process is about to remove, or has just named. */
async function openWhole(
  path: string,
  layout: CacheLayout,
  { breathe, onNote, stages }: { breathe: Breath; onNote: (text: string) => void; stages: Stages },
): Promise<OpenFile | "busy" | null> {
  const file = openIfThere(path);
  if (file === null) return null;
  let isKept = false;
  try {
    if (!tryLock(file.fd, path, "shared") || !isAt(path, file.fd)) return "busy";
    const fault = verified.get(path) === file.stamp ? null : await faultOf(file, layout, breathe, stages);
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

/** Compares a file with what it should be. */
async function faultOf(file: OpenFile, layout: CacheLayout, breathe: Breath, stages: Stages): Promise<string | null> {
  if (file.size !== layout.size) return `it has ${file.size} bytes, expected ${layout.size}`;
  const begin = new Uint8Array(layout.dataAt);
  readFully(file.fd, begin, 0, file.path);
  if (!beginsAs(begin, layout)) return "its header is another one";
  let done = 0;
  let told = performance.now();
  for (const part of layout.parts.values()) {
    const count = (bytes: number) => {
      done += bytes;
      if (performance.now() - told < LOOK_MS) return;
      told = performance.now();
      stages.report("verifying", done);
    };
    if (!(await isWhole(file, begin, part, breathe, count))) return `${part.name} does not have its checksum`;
  }
  return null;
}

/** A draft that nobody else writes to, open for reading and writing; null: look again, it has become whole meanwhile. */
function lockDraft(path: string, whole: string): number | "busy" | null {
  const fd = onDisk("write", path, () => fs.openSync(path, fs.constants.O_RDWR | fs.constants.O_CREAT, 0o644));
  if (!tryLock(fd, path)) {
    fs.closeSync(fd);
    return "busy";
  }
  if (isAt(path, fd) && !fs.existsSync(whole)) return fd;
  // It may have been made for this look alone.
  if (isAt(path, fd)) fs.rmSync(path, { force: true });
  fs.closeSync(fd);
  return null;
}

/**
 * Makes a draft whole and gives it its name. A draft without a part that is done, or one whose parts can never be, is removed when that
 * fails.
 */
async function makeWhole(
  draft: Pick<OpenFile, "fd" | "path">,
  path: string,
  making: Omit<MakeOptions, "onBytes">,
  {
    folder,
    signal,
    onNote,
    stages,
  }: Required<Pick<WeightCacheOptions, "folder" | "onNote">> & { signal: AbortSignal | undefined; stages: Stages },
): Promise<void> {
  const { layout, breathe, io } = making;
  let whole = new Set<string>();
  try {
    whole = await wholeParts(draft, layout, breathe);
    const resumed = [...whole].reduce((sum, name) => sum + layout.parts.get(name)!.bytes, 0);
    if (resumed > 0) onNote(`${formatBytes(resumed)} of ${formatBytes(layout.size)} in ${draft.path} are there already`);
    makeRoom(folder, draft.path, layout.size);
    stages.report("making", resumed, resumed);
    await makeParts(draft, whole, { ...making, onBytes: (bytes) => stages.report("making", bytes, resumed) });
    onDisk("write", path, () => io.renameSync(draft.path, path));
    // What was written was counted into the checksums on its way.
    verified.set(path, stamped(path, draft.fd).stamp);
  } catch (error) {
    const canGoOn = signal?.aborted || error instanceof WeightCacheError;
    if (!(canGoOn && whole.size > 0)) fs.rmSync(draft.path, { force: true });
    throw error;
  }
  syncFolder(folder, io);
}
