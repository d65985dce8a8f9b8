import { closeSync, existsSync, ftruncateSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { isAliveElsewhere, processName } from "../base/files/drafts.ts";
import { UserError } from "../base/errors.ts";
import { expectNoFile, fileError, writeFully, writeTextAtomic } from "../base/files/files.ts";
import { isRecord, show } from "../base/json.ts";

/** Whatever decides the answers, by a name that a user understands: `prompts`, `model`, ... */
export type AnswersIdentity = Readonly<Record<string, string>>;

/** A line of the file, with how many tokens its answer has. */
export interface KeptLine {
  readonly line: string;
  readonly tokens: number;
}

/** The file that answers go into, line by line. A record beside it says what its lines are, until it is whole. */
export interface AnswersFile {
  /** Whole lines of an earlier call for the same, which was ended early. */
  readonly kept: readonly KeptLine[];
  /** @throws {UserError} */
  write(line: KeptLine): void;
  /** All answers are there. */
  finish(): void;
  close(): void;
}

/** The record beside a file of answers. Its first line says whose answers they are, each other one is about a line of the file. */
const recordOf = (path: string): string => join(dirname(path), `.${basename(path)}.progress`);

/** A line of the record: where the line of the file ends, in bytes, and what it is. */
interface Mark {
  readonly end: number;
  readonly tokens: number;
  readonly sha256: string;
}

/**
 * Whether there is a file that a call cannot write to, so that nothing need be read for it.
 * @throws {UserError}
 */
export function checkAnswersFile(path: string, overwrite: boolean): void {
  // With a record beside it, it is to be gone on with.
  expectNoFile(path, overwrite || existsSync(recordOf(path)));
}

/**
 * Opens a file for answers, or goes on with one whose call was ended early.
 * @param identity those of another identity are not gone on with
 * @throws {UserError} a file that is in the way, or that another process writes
 */
export function openAnswers(path: string, identity: AnswersIdentity, overwrite: boolean): AnswersFile {
  checkAnswersFile(path, overwrite);
  const found = existsSync(path) && !overwrite ? readKept(path, identity) : { kept: [], marks: [] };
  let end = found.marks.at(-1)?.end ?? 0;
  const fd = attempt("write", path, () => openSync(path, found.kept.length > 0 ? "a" : "w"));
  let record: number | null = null;
  try {
    // What follows was cut short.
    if (found.kept.length > 0) attempt("write", path, () => ftruncateSync(fd, end));
    record = openRecord(path, identity, found.marks);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return {
    kept: found.kept,
    write({ line, tokens }) {
      const bytes = Buffer.from(`${line}\n`);
      attempt("write", path, () => writeFully(fd, bytes));
      end += bytes.length;
      const mark: Mark = { end, tokens, sha256: hashOf(line) };
      if (record !== null) attempt("write", recordOf(path), () => writeFully(record!, Buffer.from(`${JSON.stringify(mark)}\n`)));
    },
    finish() {
      if (record !== null) rmSync(recordOf(path), { force: true });
    },
    close() {
      closeSync(fd);
      if (record !== null) closeSync(record);
    },
  };
}

/** Pipes and devices have no lines to go on with, and nothing is written beside them. */
function openRecord(path: string, identity: AnswersIdentity, marks: readonly Mark[]): number | null {
  if (!statSync(path).isFile()) return null;
  const lines = [{ process: processName(), identity }, ...marks];
  writeTextAtomic(recordOf(path), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return attempt("write", recordOf(path), () => openSync(recordOf(path), "a"));
}

/** @throws {UserError} a record of other answers, of a process that still writes, or of a file that was changed since */
function readKept(
  path: string,
  identity: AnswersIdentity,
): { readonly kept: readonly KeptLine[]; readonly marks: readonly Mark[] } {
  const anew = "choose another file, or give --overwrite to begin anew";
  const [head, ...marks] = parseLines(attempt("read", recordOf(path), () => readFileSync(recordOf(path), "utf8")));
  if (!isRecord(head) || !isRecord(head["identity"])) throw new UserError(`${recordOf(path)} is damaged; ${anew}`);
  if (typeof head["process"] === "string" && isAliveElsewhere(head["process"]))
    throw new UserError(
      `${path} is being written by another process (${head["process"]}); wait for its end, or choose another file`,
    );
  const before = head["identity"];
  const other = Object.keys({ ...before, ...identity }).filter((name) => before[name] !== identity[name]);
  if (other.length > 0) {
    throw new UserError(
      `${path} holds ${marks.length} answers of a call that was ended early, of other ${other.join(" and other ")}: it goes on with the same only; ${anew}`,
    );
  }
  const text = attempt("read", path, () => readFileSync(path));
  const kept: { readonly line: KeptLine; readonly mark: Mark }[] = [];
  let begin = 0;
  for (const mark of marks as unknown as readonly Mark[]) {
    if (mark.end > text.length) break;
    const line = text.toString("utf8", begin, mark.end - 1);
    if (hashOf(line) !== mark.sha256) {
      throw new UserError(`${path} was changed since a call was ended early: line ${kept.length + 1} is ${show(line)}; ${anew}`);
    }
    kept.push({ line: { line, tokens: mark.tokens }, mark });
    begin = mark.end;
  }
  return { kept: kept.map(({ line }) => line), marks: kept.map(({ mark }) => mark) };
}

/** JSON lines up to the first that was cut short. */
function parseLines(text: string): Readonly<Record<string, unknown>>[] {
  const values: Readonly<Record<string, unknown>>[] = [];
  for (const line of text.split("\n")) {
    try {
      values.push(JSON.parse(line) as Readonly<Record<string, unknown>>);
    } catch {
      break;
    }
  }
  return values;
}

function hashOf(line: string): string {
  return new Bun.CryptoHasher("sha256").update(line).digest("hex");
}

/** @throws {UserError} */
function attempt<T>(action: string, path: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw fileError(action, path, error);
  }
}
