import { closeSync } from "node:fs";
import { tmpdir } from "node:os";
import { fileError, fileIo, readFully, writeFully } from "../../base/files/files.ts";
import { openBufferedFile } from "../../store/file.ts";

/**
 * The tensors of messages between two processes of a machine. A channel of the system's holds some hundred kilobytes, and what is behind them waits
 * until both processes let messages in, which they do not while they compute: a worker would get the parameters of a step when its coordinator has
 * computed all of it. So tensors are written into a file without a name, which is memory of the system's, and messages say where.
 */
export interface SharedValues {
  /** Writes the tensor of a message, where it has one. @throws {UserError} no room */
  lay<M extends object>(message: M): Laid<M>;
  /** Reads the tensor of a message of the other process, and tells it that the place is free again. */
  pick<M extends object>(message: Laid<M>): M;
  /** Takes what the other process tells of a place. */
  freed(told: Freed): void;
  /** What a child process is given, as its first file descriptors behind standard error. */
  readonly descriptors: readonly [number, number];
  close(): void;
}

/** Where a tensor lies in a file, bytes. */
interface Place {
  readonly at: number;
  readonly bytes: number;
}

/** A message whose tensor lies in a file. */
export type Laid<M> = M extends { readonly values: Uint8Array<ArrayBuffer> } ? Omit<M, "values"> & { readonly values: Place } : M;

/** Told when a tensor has been read. */
export interface Freed {
  readonly type: "freed";
  readonly at: number;
}

export const isFreed = (message: object): message is Freed => (message as Partial<Freed>).type === "freed";

/** The descriptors of a child process: those that it writes and reads. */
const CHILD = [4, 3] as const;

/** The end of a process that starts another one, or (`isChild`) of that one. @param post sends a small message */
export function openSharedValues(post: (told: Freed) => void, isChild = false): SharedValues {
  const [out, into] = isChild ? CHILD : [openBufferedFile(tmpdir()).fd, openBufferedFile(tmpdir()).fd];
  /** Parts of the file that this process writes, behind one another. */
  const parts: { readonly at: number; readonly size: number; isFree: boolean }[] = [];
  let end = 0;
  const put = (values: Uint8Array<ArrayBuffer>): Place => {
    let part = parts.find(({ isFree, size }) => isFree && size >= values.length);
    if (!part) {
      parts.push((part = { at: end, size: values.length, isFree: true }));
      end += values.length;
    }
    part.isFree = false;
    try {
      writeFully(out, values, fileIo, part.at);
    } catch (error) {
      throw fileError("write what processes of a run send each other to", tmpdir(), error);
    }
    return { at: part.at, bytes: values.length };
  };
  return {
    lay<M extends object>(message: M) {
      const { values } = message as { values?: unknown };
      return (values instanceof Uint8Array ? { ...message, values: put(values as Uint8Array<ArrayBuffer>) } : message) as Laid<M>;
    },
    pick<M extends object>(message: Laid<M>) {
      if (!("values" in message)) return message as unknown as M;
      const { at, bytes } = message.values as unknown as Place;
      const values = new Uint8Array(bytes);
      readFully(into, values, at, tmpdir());
      post({ type: "freed", at });
      return { ...message, values } as unknown as M;
    },
    freed({ at }) {
      for (const part of parts) if (part.at === at) part.isFree = true;
    },
    descriptors: [out, into],
    close() {
      for (const fd of [out, into]) closeSync(fd);
    },
  };
}
