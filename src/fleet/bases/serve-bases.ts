import { join } from "node:path";
import type { NatsConnection } from "@nats-io/transport-node";
import { SUBJECTS } from "../names.ts";
import { modelFiles } from "../objects.ts";

/** A request for a piece of a base model's file. */
export interface PieceRequest {
  readonly base: string;
  readonly sha256: string;
  readonly at: number;
  readonly length: number;
}

/** The first byte of an answer: a piece follows, or there is none here. */
export const ANSWER = { piece: 1, none: 0 } as const;

/** Bytes of a piece at most, whatever is asked for. */
export const PIECE = 256 << 10;

/**
 * Gives other members of a fleet the files of base models that are here, piece by piece, as they ask. Only files that belong to a base model are given, by their hash.
 * @param folders of base models, by their ids
 * @param counted told of bytes as they go
 * @returns what ends it
 */
export function serveBases(
  nats: NatsConnection,
  name: string,
  folders: ReadonlyMap<string, string>,
  counted: (bytes: number) => void = () => {},
): () => void {
  /** Paths of files by their hashes, by base model. */
  const indexes = new Map<string, ReadonlyMap<string, string>>();
  const pathOf = ({ base, sha256 }: PieceRequest): string | null => {
    const folder = folders.get(base);
    if (folder === undefined) return null;
    const index = indexes.get(base) ?? new Map(modelFiles(folder).map((file) => [file.sha256, join(folder, file.path)]));
    indexes.set(base, index);
    return index.get(sha256) ?? null;
  };
  const answer = async (data: Uint8Array): Promise<Uint8Array> => {
    const none = Uint8Array.of(ANSWER.none);
    try {
      const request = JSON.parse(new TextDecoder().decode(data)) as PieceRequest;
      const path = pathOf(request);
      if (path === null) return none;
      const piece = await Bun.file(path)
        .slice(request.at, request.at + Math.min(PIECE, request.length))
        .bytes();
      const message = new Uint8Array(1 + piece.length);
      message[0] = ANSWER.piece;
      message.set(piece, 1);
      counted(piece.length);
      return message;
    } catch {
      // It is no request, or the file has been removed.
      return none;
    }
  };
  const subscription = nats.subscribe(SUBJECTS.bases(name), {
    callback(error, message) {
      if (error === null) void answer(message.data).then((bytes) => message.respond(bytes));
    },
  });
  return () => subscription.unsubscribe();
}
