import * as fs from "node:fs";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileError, makeFolder, readText } from "../../base/files/files.ts";

/**
 * The Hugging Face cache, in the layout that the Python library shares:
 * `models--org--name/{refs/<revision>, blobs/<etag>, snapshots/<commit>/<file> -> blob}`.
 */

type Env = Readonly<Record<string, string | undefined>>;

function homeOf(env: Env): string {
  return env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
}

/** `HF_HUB_CACHE`, or `hub` in `HF_HOME`. */
export function hubCacheFolder(env: Env = process.env): string {
  return env.HF_HUB_CACHE || join(homeOf(env), "hub");
}

/** The access token: `HF_TOKEN`, or the file that logging in leaves; null without one. */
export function hubToken(env: Env = process.env): string | null {
  const own = env.HF_TOKEN?.trim();
  if (own) return own;
  const path = env.HF_TOKEN_PATH || join(homeOf(env), "token");
  return fs.existsSync(path) ? readText(path).trim() || null : null;
}

/** One model in the cache. */
export interface CachedModel {
  /** The commit that a revision stood for when it was last looked up, or null. */
  commitOf(revision: string): string | null;
  setCommit(revision: string, commit: string): void;
  snapshot(commit: string): string;
  blob(etag: string): string;
  /** Makes `file` of a snapshot stand for a blob. */
  link(commit: string, file: string, etag: string): void;
}

const COMMIT = /^[0-9a-f]{40}$/;

export function cachedModel(cache: string, id: string): CachedModel {
  const folder = join(cache, `models--${id.replaceAll("/", "--")}`);
  const refOf = (revision: string) => join(folder, "refs", revision);
  return {
    commitOf(revision) {
      if (COMMIT.test(revision)) return revision;
      const ref = refOf(revision);
      const commit = fs.existsSync(ref) ? readText(ref).trim() : "";
      return COMMIT.test(commit) ? commit : null;
    },
    setCommit(revision, commit) {
      if (COMMIT.test(revision)) return;
      const ref = refOf(revision);
      makeFolder(dirname(ref));
      try {
        fs.writeFileSync(ref, commit);
      } catch (error) {
        throw fileError("write", ref, error);
      }
    },
    snapshot: (commit) => join(folder, "snapshots", commit),
    blob: (etag) => join(folder, "blobs", etag),
    link(commit, file, etag) {
      const path = join(folder, "snapshots", commit, file);
      makeFolder(dirname(path));
      try {
        fs.rmSync(path, { force: true });
        fs.symlinkSync(relative(dirname(path), join(folder, "blobs", etag)), path);
      } catch (error) {
        throw fileError("write", path, error);
      }
    },
  };
}
