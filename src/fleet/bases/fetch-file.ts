import { closeSync, existsSync, fsyncSync, openSync, renameSync, rmSync, statSync, truncateSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import type { NatsConnection } from "@nats-io/transport-node";
import { UserError } from "../../base/errors.ts";
import { filePieces, makeFolder } from "../../base/files/files.ts";
import { SUBJECTS } from "../names.ts";
import type { StoredFile } from "../records.ts";
import type { Passage } from "../traffic.ts";
import { ANSWER, PIECE, type PieceRequest } from "./serve-bases.ts";

/** Thrown where nobody who has a base model answers: another machine may be better off, or this one later. */
export class BaseAway extends Error {
  override name = "BaseAway";
}

export interface FetchFileOptions {
  readonly nats: NatsConnection;
  /** The base model's id. */
  readonly base: string;
  /** Returns the members that have it now. */
  peers(): Promise<readonly string[]>;
  readonly way: Passage;
  /** Milliseconds that a piece may take, and without any piece after which nobody is waited for. */
  readonly answerMs?: number;
  readonly patienceMs?: number;
}

/** Pieces that may be under way: as much as the network holds, and no more than a slow disk takes. */
const WINDOW = 8;
const ANSWER_MS = 5000;
const PATIENCE_MS = 60_000;
/** Milliseconds between two looks for somebody who has it. */
const AGAIN_MS = 250;

/** A peer does not answer, or has not what was asked for. */
class PeerAway extends Error {}

/**
 * Fetches a file by its hash from members that have it: from one at a time, and from where it was on when that one is gone or this process was. Nothing has the
 * file's name before all of it is there and has its hash.
 * @throws {UserError} everybody who has it has other bytes
 * @throws {BaseAway}
 */
export async function fetchFile(file: StoredFile, path: string, options: FetchFileOptions): Promise<void> {
  const { base, way, patienceMs = PATIENCE_MS } = options;
  const part = openPart(path, file.bytes);
  /** Members that gave this part; `null`: an earlier process had them. */
  const sources = new Set<string | null>(part.length > 0 ? [null] : []);
  const liars = new Set<string>();
  let isMixed = false;
  let heard = performance.now();
  let away: string | null = null;
  try {
    while (part.length < file.bytes || !part.hasHash(file.sha256)) {
      if (part.length === file.bytes) {
        // Of several members it is not known who gave wrong bytes: then each is asked for all of them.
        const [only] = sources;
        if (sources.size === 1 && typeof only === "string") liars.add(only);
        else isMixed = true;
        part.restart();
        sources.clear();
      }
      way.signal.throwIfAborted();
      const honest = (await options.peers()).filter((peer) => !liars.has(peer));
      if (honest.length === 0 && liars.size > 0)
        throw new UserError(
          `${file.path} of the base model has another SHA-256 at ${[...liars].join(", ")} than the job says (${file.sha256.slice(0, 16)}...); nobody else has it`,
        );
      if (performance.now() - heard > patienceMs)
        throw new BaseAway(`no member of the fleet that has the base model ${base.slice(0, 16)}... answers`);
      // Who has just failed is asked again when there is nobody else.
      const others = honest.filter((peer) => peer !== away);
      const choice = others.length > 0 ? others : honest;
      const peer = choice[Math.floor(Math.random() * choice.length)];
      if (peer === undefined) {
        await Bun.sleep(AGAIN_MS);
        continue;
      }
      if (isMixed && !sources.has(peer)) {
        part.restart();
        sources.clear();
      }
      try {
        sources.add(peer);
        await pull(file, peer, part, options, () => (heard = performance.now()));
      } catch (error) {
        if (!(error instanceof PeerAway)) throw error;
        if (part.length === 0) sources.delete(peer);
        if (honest.length < 2) await Bun.sleep(AGAIN_MS);
        away = peer;
      }
    }
    part.finish();
  } finally {
    part.close();
  }
}

/** Asks a member for what is missing, piece by piece. @throws {PeerAway} */
async function pull(file: StoredFile, peer: string, part: Part, options: FetchFileOptions, onPiece: () => void): Promise<void> {
  const { nats, base, way, answerMs = ANSWER_MS } = options;
  const most = Math.min(PIECE, (nats.info?.max_payload ?? PIECE + 1) - 1);
  const ask = async (at: number): Promise<Uint8Array> => {
    const length = Math.min(most, file.bytes - at);
    const request: PieceRequest = { base, sha256: file.sha256, at, length };
    let data: Uint8Array;
    try {
      ({ data } = await nats.request(SUBJECTS.bases(peer), JSON.stringify(request), { timeout: answerMs }));
    } catch {
      throw new PeerAway(`${peer} does not answer`);
    }
    if (data[0] !== ANSWER.piece || data.length !== 1 + length) throw new PeerAway(`${peer} has not the file`);
    return data.subarray(1);
  };
  const underway: Promise<Uint8Array>[] = [];
  for (let asked = part.length; part.length < file.bytes;) {
    for (; underway.length < WINDOW && asked < file.bytes; asked += most) {
      const piece = ask(asked);
      // It is waited for in its turn, unless an earlier one does not come.
      piece.catch(() => {});
      underway.push(piece);
    }
    const piece = await underway.shift()!;
    way.signal.throwIfAborted();
    way.counted?.(piece.length);
    part.add(piece);
    onPiece();
  }
}

/** A file that is not whole yet, under a name of its own. */
interface Part {
  readonly length: number;
  add(piece: Uint8Array): void;
  hasHash(sha256: string): boolean;
  restart(): void;
  /** Gives it its name. */
  finish(): void;
  close(): void;
}

/** Opens what an earlier process has fetched, or begins. */
function openPart(path: string, bytes: number): Part {
  const name = `${path}.part`;
  makeFolder(dirname(path));
  let hash = new Bun.CryptoHasher("sha256");
  let length = 0;
  if (existsSync(name) && statSync(name).size <= bytes)
    for (const piece of filePieces(name, 1 << 20)) {
      hash.update(piece);
      length += piece.length;
    }
  const handle = openSync(name, "a");
  if (length === 0) truncateSync(name, 0);
  return {
    get length() {
      return length;
    },
    add(piece) {
      for (let at = 0; at < piece.length;) at += writeSync(handle, piece, at);
      hash.update(piece);
      length += piece.length;
    },
    hasHash: (sha256) => hash.copy().digest("hex") === sha256,
    restart() {
      truncateSync(name, 0);
      hash = new Bun.CryptoHasher("sha256");
      length = 0;
    },
    finish() {
      fsyncSync(handle);
      renameSync(name, path);
    },
    close() {
      closeSync(handle);
      if (length === 0) rmSync(name, { force: true });
    },
  };
}
