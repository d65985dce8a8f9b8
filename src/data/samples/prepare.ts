import * as fs from "node:fs";
import { join } from "node:path";
import { type Breath, createBreath } from "../../base/process/event-loop.ts";
import { UserError } from "../../base/errors.ts";
import { identityOf } from "../../base/files/file-verdicts.ts";
import { fileIo, filePieces, type FileIo } from "../../base/files/files.ts";
import { createUnusedCounter, unusedNote, type Mapping, NO_MAPPING } from "../examples/columns.ts";
import { describeNotice } from "../chat/notices.ts";
import { placeIn, readEntries } from "../examples/dataset.ts";
import { kindOf } from "../examples/wrong-files.ts";
import type { SampleMaker } from "./sample-maker.ts";
import { createSampleStore, type FileSamples, type SampleSink } from "./sample-store.ts";
import { canWrite, createTokenCache, openTokenCache, TokenCacheError } from "./token-cache.ts";

/** How far the reading and tokenizing of a file is. */
export interface PrepareProgress {
  readonly path: string;
  readonly bytes: number;
  readonly size: number;
  readonly seconds: number;
}

export interface PrepareOptions {
  /** Folder of token caches; without it, or when it cannot be written to, the tokens are kept in memory. */
  readonly cache?: string | null;
  /** Ends the preparation; nothing of it is left then. */
  readonly signal?: AbortSignal | undefined;
  /** Told now and then while a file is tokenized. */
  readonly onProgress?: ((progress: PrepareProgress) => void) | undefined;
  /** Columns and roles of other names. */
  readonly mapping?: Mapping;
  /** Told which columns of a file are not used. */
  readonly onNote?: ((note: string) => void) | undefined;
  readonly io?: FileIo;
}

/** Samples with what they were made of. */
export interface LoadedFile extends FileSamples {
  /** SHA-256 of the file's bytes (and of how its columns are mapped, if they are), in hexadecimal. */
  readonly content: string;
}

/** Data between two collections of garbage: left alone, it grows to some 250 MB, and tokenizing is no faster. */
const GARBAGE_BYTES = 4 << 20;

/** Until the runtime's allocator has returned to the system what it has free (it does so at its leisure): 50-80 MB after tokenizing. */
const RETURN_MS = 300;

/**
 * Reads and tokenizes a file, or opens what an earlier run made of the same bytes in the same way. Memory holds the index
 * (about ten bytes a sample) and a few pieces of the file, unless there is no cache.
 * @throws {UserError} bad examples, or none at all; a file that is changed while it is read
 * @throws the signal's reason when it is aborted
 */
export async function loadSamples(path: string, maker: SampleMaker, options: PrepareOptions = {}): Promise<LoadedFile> {
  const { cache = null, signal, mapping = NO_MAPPING, onNote = () => {} } = options;
  const breathe = createBreath(signal);
  const before = identityOf(path);
  const bytes = await hashContent(path, breathe);
  const content = mapping.key === "" ? bytes : sha256(`${bytes} as ${mapping.key}`);
  const file = cache !== null && canWrite(cache) ? join(cache, `${cacheKey(path, content, maker.key)}.tokens`) : null;
  let set = file === null ? null : openTokenCache(file, placeIn(path));
  if (!set) {
    try {
      set = await tokenize(path, maker, file, options, breathe);
    } catch (error) {
      if (!(error instanceof TokenCacheError)) throw error;
      onNote(`${error.message}; the tokens of ${path} are kept in memory, and are made again by the next run`);
      set = await tokenize(path, maker, null, options, breathe);
    }
    if (identityOf(path) !== before) throw new UserError(`${path} was changed while it was read; start again when it is written`);
  }
  const note = unusedNote(path, set.unused);
  if (note !== null) onNote(note);
  for (const notice of set.notices) onNote(describeNotice({ ...notice, where: path + notice.where }));
  if (set.count === 0) throw new UserError(`${path} holds no examples`);
  return { ...set, content };
}

/** Makes samples of a file's examples, in a cache file or (null) in memory. */
async function tokenize(
  path: string,
  maker: SampleMaker,
  file: string | null,
  { onProgress = () => {}, mapping = NO_MAPPING, io = fileIo }: PrepareOptions,
  breathe: Breath,
): Promise<FileSamples> {
  const placeOf = placeIn(path);
  const sink: SampleSink = file === null ? createSampleStore(placeOf) : createTokenCache(file, placeOf, io);
  const { size } = fs.statSync(path);
  const begin = performance.now();
  const unused = createUnusedCounter();
  let collected = 0;
  // Those of an earlier attempt are counted again.
  maker.notices();
  try {
    for await (const { number, end, parse } of readEntries(path, { mapping, unused: unused.count })) {
      for (const sample of maker.samples(parse())) sink.add(sample, number);
      if (end - collected >= GARBAGE_BYTES) {
        collected = end;
        Bun.gc(true);
      }
      if (await breathe()) onProgress({ path, bytes: end, size, seconds: (performance.now() - begin) / 1000 });
    }
    // A cache serves all files of the same content.
    const notices = maker.notices().map((notice) => ({ ...notice, where: notice.where.slice(path.length) }));
    const set = sink.finish(Object.fromEntries(unused.counts), notices);
    if (collected > 0) {
      Bun.gc(true);
      await Bun.sleep(RETURN_MS);
    }
    return set;
  } catch (error) {
    sink.discard();
    throw error;
  }
}

/** Names what a file becomes under a maker's key. The same bytes are other examples where they are read otherwise. */
function cacheKey(path: string, content: string, key: string): string {
  const kind = kindOf(path);
  const reader = kind === "csv" && path.toLowerCase().endsWith(".tsv") ? "tsv" : kind;
  return sha256(reader === "lines" ? `${content}\0${key}` : `${content}\0${key}\0${reader}`);
}

function sha256(text: string): string {
  return new Bun.CryptoHasher("sha256").update(text).digest("hex");
}

/** SHA-256 of a file's bytes, in hexadecimal. */
async function hashContent(path: string, breathe: Breath): Promise<string> {
  const hash = new Bun.CryptoHasher("sha256");
  for (const piece of filePieces(path)) {
    hash.update(piece);
    await breathe();
  }
  return hash.digest("hex");
}
