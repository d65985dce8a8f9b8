import { UserError } from "../../base/errors.ts";
import { readFully } from "../../base/files/files.ts";

/** Reads a file from its begin on, a little at a time. Every method names what it reads in the error of a file that ends before. */
export interface Cursor {
  readonly path: string;
  /** Bytes of the file. */
  readonly size: number;
  /** Bytes that were read. */
  at(): number;
  /** Goes back to the begin. */
  rewind(): void;
  /** The next bytes, which stay as they are until more are taken. */
  take(bytes: number, what: string): Buffer;
  u32(what: string): number;
  /** A length or a place, which a number holds exactly. */
  u64(what: string): number;
  /** A number of things that follow, each of at least so many bytes. */
  count(what: string, least: number): number;
  text(what: string): string;
}

/** Bytes that are read at a time. */
const PIECE = 1 << 18;

/** The most letters of a text or elements of an array: vocabularies have less than a million. */
const MOST = 1 << 27;

/** @throws {UserError} from its methods: a file that ends early, or says things of itself that cannot be */
export function createCursor(fd: number, path: string, size: number): Cursor {
  let piece = Buffer.alloc(0);
  /** Where the piece begins, and the next byte, in the file. */
  let [begin, at] = [0, 0];
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  const cut = (what: string) =>
    new UserError(`${path} is cut, or damaged: ${what} reaches beyond its ${size} bytes; copy or download the file again`);
  const take = (bytes: number, what: string): Buffer => {
    if (bytes > size - at) throw cut(what);
    if (at < begin || at + bytes > begin + piece.length) {
      piece = Buffer.alloc(Math.min(Math.max(bytes, PIECE), size - at));
      readFully(fd, piece, at, path);
      begin = at;
    }
    at += bytes;
    return piece.subarray(at - bytes - begin, at - begin);
  };
  const u64 = (what: string): number => {
    const bytes = take(8, what);
    const value = bytes.readUInt32LE() + 2 ** 32 * bytes.readUInt32LE(4);
    if (!Number.isSafeInteger(value)) throw new UserError(`${path}: ${what} reads ${value}; is the file damaged?`);
    return value;
  };
  return {
    path,
    size,
    at: () => at,
    rewind: () => void (at = 0),
    take,
    u32: (what) => take(4, what).readUInt32LE(),
    u64,
    count(what, least) {
      const value = u64(`the number of ${what}`);
      if (value > MOST || value * least > size - at)
        throw new UserError(`${path} is cut, or damaged: it names ${value} ${what}, which its ${size} bytes do not hold`);
      return value;
    },
    text(what) {
      const bytes = take(this.count(`bytes of ${what}`, 1), what);
      try {
        return decoder.decode(bytes);
      } catch {
        throw new UserError(`${path}: ${what} is not UTF-8; is the file damaged?`);
      }
    },
  };
}
