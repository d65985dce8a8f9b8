import * as fs from "node:fs";
import { dirname } from "node:path";
import { messageOf, UserError } from "../errors.ts";
import { fileError, makeFolder, writeFully } from "./files.ts";
import { show } from "../json.ts";

/** Describes what the hub says of a file without sending it. */
export interface RemoteFile {
  readonly url: string;
  /** SHA-256 of the content for large files, SHA-1 of the git blob for others. */
  readonly etag: string;
  readonly size: number;
}

export interface Connection {
  readonly token: string | null;
  /** Waits between attempts, in ms; as many attempts follow the first. */
  readonly retryDelays: readonly number[];
}

/** A server or network that cannot be reached, as opposed to one that says no. */
export class Unreachable extends UserError {
  override name = "Unreachable";
}

const ETAG = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/;

/** Statuses that may pass: too many requests, timeouts, faults of the server. */
function isPassing(status: number): boolean {
  return status === 429 || status === 408 || status >= 500;
}

/** Follows redirects by hand, so that the token goes to the hub alone and not to the storage that it points to. */
async function request(url: string, init: RequestInit, token: string | null, redirects: number): Promise<Response> {
  const origin = new URL(url).origin;
  let target = url;
  for (let hop = 0; ; hop++) {
    const headers = new Headers(init.headers);
    if (token !== null && new URL(target).origin === origin) headers.set("authorization", `Bearer ${token}`);
    const response = await fetch(target, { ...init, headers, redirect: "manual" });
    const location = response.headers.get("location");
    if (response.status < 300 || response.status >= 400 || location === null) return response;
    const next = new URL(location, target);
    // A redirect within the hub (a renamed model) is always followed; one to the storage carries no file's metadata.
    if (next.origin !== origin && hop >= redirects) return response;
    if (hop >= 10) throw new Error("too many redirects");
    // The runtime would also fetch file: and data:.
    if (next.protocol !== "http:" && next.protocol !== "https:")
      throw new UserError(`${origin} redirects to ${show(next.href)}; expected an address on the web`);
    target = next.href;
  }
}

async function withRetries<T>(what: string, connection: Connection, attempt: () => Promise<T>): Promise<T> {
  for (let i = 0; ; i++) {
    try {
      return await attempt();
    } catch (error) {
      if (error instanceof UserError && !(error instanceof Unreachable)) throw error;
      const delay = connection.retryDelays[i];
      if (delay === undefined)
        throw error instanceof Unreachable ? error : new Unreachable(`${what}: ${messageOf(error)}; check the network`);
      await Bun.sleep(delay);
    }
  }
}

/** @throws {UserError} what the hub's refusal means */
function checkStatus(response: Response, what: string, token: string | null): void {
  const { status } = response;
  if (status < 400) return;
  if (isPassing(status)) throw new Unreachable(`${what}: the server answers ${status}; try again later`);
  if (status === 401 || status === 403) {
    const hint =
      token === null ? "log in or set HF_TOKEN" : "the token in use does not allow it; ask for access on the model's page";
    throw new UserError(`${what}: access denied (${status}); the model is private, gated or does not exist: ${hint}`);
  }
  if (status === 404) throw new UserError(`${what}: not found; check the name`);
  throw new UserError(`${what}: the server answers ${status}`);
}

/** @throws {UserError} */
export function fetchJson(url: string, what: string, connection: Connection): Promise<unknown> {
  return withRetries(what, connection, async () => {
    const response = await request(url, {}, connection.token, 10);
    checkStatus(response, what, connection.token);
    return (await response.json()) as unknown;
  });
}

/** @throws {UserError} */
export function fetchMetadata(url: string, what: string, connection: Connection): Promise<RemoteFile> {
  return withRetries(what, connection, async () => {
    // Compression would hide the size.
    const response = await request(url, { method: "HEAD", headers: { "accept-encoding": "identity" } }, connection.token, 0);
    checkStatus(response, what, connection.token);
    const { headers } = response;
    const etag = (headers.get("x-linked-etag") ?? headers.get("etag") ?? "").replace(/^W\//, "").replaceAll('"', "");
    const size = Number(headers.get("x-linked-size") ?? headers.get("content-length") ?? NaN);
    if (!ETAG.test(etag) || !Number.isSafeInteger(size))
      throw new UserError(`${what}: the server does not name the file's hash and size`);
    return { url, etag, size };
  });
}

/**
 * Downloads a file to `path`, going on where an earlier attempt ended (`path` + `.incomplete`), and checks its hash
 * before it gets its name.
 * @param onBytes is told the bytes there are of the file
 * @throws {UserError}
 */
export async function download(
  file: RemoteFile,
  path: string,
  what: string,
  connection: Connection,
  onBytes: (bytes: number) => void = () => {},
): Promise<void> {
  makeFolder(dirname(path));
  const partial = `${path}.incomplete`;
  await withRetries(what, connection, () => appendRest(file, partial, what, connection, onBytes));
  if (hashOf(partial, file) !== file.etag) {
    fs.rmSync(partial, { force: true });
    throw new UserError(`${what}: the downloaded file does not have the hash that the hub names; try again`);
  }
  try {
    fs.renameSync(partial, path);
  } catch (error) {
    throw fileError("write", path, error);
  }
}

async function appendRest(
  file: RemoteFile,
  partial: string,
  what: string,
  connection: Connection,
  onBytes: (bytes: number) => void,
): Promise<void> {
  let there = fs.existsSync(partial) ? fs.statSync(partial).size : 0;
  if (there > file.size) there = 0;
  if (there === file.size && there > 0) return;
  const headers: Record<string, string> = { "accept-encoding": "identity" };
  if (there > 0) headers.range = `bytes=${there}-`;
  const response = await request(file.url, { headers }, connection.token, 10);
  checkStatus(response, what, connection.token);
  // A server that ignores the range sends all of it.
  if (response.status !== 206) there = 0;
  let fd: number;
  try {
    fd = fs.openSync(partial, there > 0 ? "a" : "w");
  } catch (error) {
    throw fileError("write", partial, error);
  }
  try {
    for await (const chunk of response.body ?? []) {
      try {
        writeFully(fd, chunk);
      } catch (error) {
        throw fileError("write", partial, error);
      }
      there += chunk.length;
      if (there > file.size) throw new UserError(`${what}: the server sends more than the ${file.size} bytes it named`);
      onBytes(there);
    }
    fs.fsyncSync(fd);
  } finally {
    fs.closeSync(fd);
  }
  if (there < file.size) throw new Error(`the connection ended after ${there} of ${file.size} bytes`);
}

/** SHA-256, or git's SHA-1, as the length of the etag tells. */
function hashOf(path: string, file: RemoteFile): string {
  const hash =
    file.etag.length === 64 ? new Bun.CryptoHasher("sha256") : new Bun.CryptoHasher("sha1").update(`blob ${file.size}\0`);
  const fd = fs.openSync(path, "r");
  try {
    const piece = new Uint8Array(1 << 20);
    for (let count = fs.readSync(fd, piece); count > 0; count = fs.readSync(fd, piece)) hash.update(piece.subarray(0, count));
  } finally {
    fs.closeSync(fd);
  }
  return hash.digest("hex");
}
