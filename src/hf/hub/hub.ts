import { existsSync, statfsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { UserError } from "../../base/errors.ts";
import { makeFolder } from "../../base/files/files.ts";
import { isRecord, readJsonObject, show } from "../../base/json.ts";
import { cachedModel, hubCacheFolder, hubToken, type CachedModel } from "./hub-cache.ts";
import { download, fetchJson, fetchMetadata, Unreachable, type Connection } from "../../base/files/download.ts";
import { isAdditionalTemplate } from "../weights/template-files.ts";
import { isModelCode } from "../weights/model-folder.ts";
import { isPlainFileName } from "../weights/safetensors.ts";

export interface HubOptions {
  /** Branch, tag or commit. */
  readonly revision?: string;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly retryDelays?: readonly number[];
  readonly onProgress?: (progress: HubProgress) => void;
}

export interface HubProgress {
  readonly file: string;
  readonly bytes: number;
  readonly size: number;
}

/** `org/name` or `name`, as the hub allows them. */
const MODEL_ID = /^[A-Za-z0-9][\w.-]{0,95}(?:\/[A-Za-z0-9][\w.-]{0,95})?$/;

/** The files that are needed of a model beside its weights. */
const SMALL_FILES = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "preprocessor_config.json",
  "processor_config.json",
];

/** Where there is no tokenizer.json. */
const VOCABULARY = "tokenizer.model";
const WEIGHTS = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/**
 * The folder of a model: a local folder as it is, otherwise the files that are needed of a hub model, in the standard
 * cache. `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to the Python
 * library. Without a network, what the cache holds is used.
 * @throws {UserError}
 */
export async function resolveModel(model: string, options: HubOptions = {}): Promise<string> {
  if (existsSync(model)) {
    if (!statSync(model).isDirectory()) {
      throw new UserError(`${model} is a file; expected a model folder, a GGUF file or a model of the hub (org/name)`);
    }
    return model;
  }
  if (!MODEL_ID.test(model) || model.includes("..")) {
    throw new UserError(`${model}: no such folder, and not the name of a model of the hub (org/name)`);
  }
  const { env = process.env, revision = "main", retryDelays = [500, 2000, 5000] } = options;
  if (!/^[\w.-]+(\/[\w.-]+)*$/.test(revision) || revision.includes("..")) {
    throw new UserError(`${show(revision)} is not a branch, tag or commit`);
  }
  const cache = cachedModel(hubCacheFolder(env), model);
  const isOffline = ["1", "true", "yes", "on"].includes((env.HF_HUB_OFFLINE ?? "").toLowerCase());
  if (isOffline) return fromCache(model, revision, cache, "HF_HUB_OFFLINE is set");
  const endpoint = (env.HF_ENDPOINT || "https://huggingface.co").replace(/\/+$/, "");
  const connection: Connection = { token: hubToken(env), retryDelays };
  let listing: unknown;
  try {
    listing = await fetchJson(
      `${endpoint}/api/models/${model}/revision/${encodeURIComponent(revision)}`,
      `model ${model}`,
      connection,
    );
  } catch (error) {
    if (!(error instanceof Unreachable)) throw error;
    if (cache.commitOf(revision) !== null) return fromCache(model, revision, cache, error.message);
    throw new UserError(`there is no folder ${model}, and the hub cannot be asked for a model of that name: ${error.message}`);
  }
  const { commit, files } = parseListing(listing, model);
  const fetchFile = (file: string) => fetchInto(cache, { endpoint, model, commit, file, connection }, options.onProgress);
  // Small files first: a model that cannot be used is refused before its weights are on their way.
  for (const file of SMALL_FILES) if (files.includes(file)) await fetchFile(file);
  for (const file of files.filter(isAdditionalTemplate)) await fetchFile(file);
  if (!files.includes("config.json")) throw new UserError(`model ${model} has no config.json`);
  if (!files.includes("tokenizer.json") && files.includes(VOCABULARY)) await fetchFile(VOCABULARY);
  // What is made of the model needs them in Transformers; nothing runs them here.
  if (readJsonObject(join(cache.snapshot(commit), "config.json")).auto_map !== undefined)
    for (const file of files.filter(isModelCode)) await fetchFile(file);
  if (files.includes(WEIGHTS)) {
    await fetchFile(WEIGHTS);
  } else if (files.includes(INDEX)) {
    await fetchFile(INDEX);
    for (const shard of shardsOf(join(cache.snapshot(commit), INDEX))) await fetchFile(shard);
  } else {
    const gguf = files.some((file) => file.endsWith(".gguf")) ? ", or download one of its GGUF files and name that file" : "";
    throw new UserError(`model ${model} has neither ${WEIGHTS} nor ${INDEX}; choose one whose weights are in safetensors${gguf}`);
  }
  cache.setCommit(revision, commit);
  return cache.snapshot(commit);
}

function parseListing(listing: unknown, model: string): { commit: string; files: string[] } {
  const wrong = new UserError(`model ${model}: the hub's answer is not understood (expected "sha" and "siblings")`);
  if (!isRecord(listing) || typeof listing.sha !== "string" || !/^[0-9a-f]{40}$/.test(listing.sha)) throw wrong;
  if (!Array.isArray(listing.siblings)) throw wrong;
  const files = listing.siblings.flatMap((entry: unknown) =>
    isRecord(entry) && typeof entry.rfilename === "string" ? [entry.rfilename] : [],
  );
  return { commit: listing.sha, files };
}

function shardsOf(index: string): string[] {
  const map = readJsonObject(index).weight_map;
  const shards = isRecord(map) ? [...new Set(Object.values(map))] : [];
  return shards.map((shard) => {
    if (typeof shard !== "string" || !isPlainFileName(shard))
      throw new UserError(`${index}: ${show(shard)} is not a file name in the model's folder`);
    return shard;
  });
}

interface HubFile {
  readonly endpoint: string;
  readonly model: string;
  readonly commit: string;
  readonly file: string;
  readonly connection: Connection;
}

async function fetchInto(cache: CachedModel, hub: HubFile, onProgress?: (progress: HubProgress) => void): Promise<void> {
  const { endpoint, model, commit, file, connection } = hub;
  // A snapshot's files never change.
  if (existsSync(join(cache.snapshot(commit), file))) return;
  const what = `${model}/${file}`;
  const remote = await fetchMetadata(
    `${endpoint}/${model}/resolve/${commit}/${file.split("/").map(encodeURIComponent).join("/")}`,
    what,
    connection,
  );
  const blob = cache.blob(remote.etag);
  if (!existsSync(blob)) {
    checkSpace(dirname(blob), remote.size, what);
    await download(remote, blob, what, connection, (bytes) => onProgress?.({ file, bytes, size: remote.size }));
  }
  cache.link(commit, file, remote.etag);
}

function checkSpace(folder: string, bytes: number, what: string): void {
  makeFolder(folder);
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < bytes) {
    throw new UserError(
      `${what} has ${bytes} bytes, the disk of ${folder} has ${bavail * bsize} free; free some, or set HF_HOME to another disk`,
    );
  }
}

function fromCache(model: string, revision: string, cache: CachedModel, why: string): string {
  const commit = cache.commitOf(revision);
  const folder = commit === null ? null : cache.snapshot(commit);
  const hasWeights = (path: string) =>
    existsSync(join(path, WEIGHTS)) ||
    (existsSync(join(path, INDEX)) && shardsOf(join(path, INDEX)).every((shard) => existsSync(join(path, shard))));
  if (folder === null || !existsSync(join(folder, "config.json")) || !hasWeights(folder)) {
    throw new UserError(`model ${model} is not complete in the cache, and it cannot be downloaded: ${why}`);
  }
  return folder;
}
