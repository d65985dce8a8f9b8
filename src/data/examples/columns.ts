import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import type { DataRecord } from "./values.ts";

/** How columns and roles that have other names are read. */
export interface Mapping {
  /** Column of the data by our name of it. */
  readonly columns: ReadonlyMap<string, string>;
  /** Columns of the data that are left out. */
  readonly ignored: ReadonlySet<string>;
  /** Our role by the role in the data. */
  readonly roles: ReadonlyMap<string, string>;
  /** Text that is the same for equal mappings; empty where nothing is mapped. */
  readonly key: string;
}

export const NO_MAPPING: Mapping = { columns: new Map(), ignored: new Set(), roles: new Map(), key: "" };

/** Describes what a reader is told about a file's records, and what it tells. */
export interface Reading {
  readonly mapping: Mapping;
  /** Called for each column of a record that is known to say nothing to the model. */
  readonly unused: (column: string) => void;
}

export const PLAIN_READING: Reading = { mapping: NO_MAPPING, unused: () => {} };

/** The flags that make a mapping. */
export interface MappingFlags {
  readonly columns?: readonly string[] | undefined;
  readonly roles?: readonly string[] | undefined;
}

/** The word that stands for "none of ours". */
const IGNORE = "ignore";

/** Keys of a message, which are mapped inside of lists of messages. */
export const MESSAGE_COLUMNS: readonly string[] = ["role", "content"];

const ROLES: readonly string[] = ["system", "user", "assistant", "tool"];

/**
 * Columns that data sets carry beside what is learned: names, origins, measures of a row. The unnamed one is the index that
 * pandas writes.
 */
const KNOWN_EXTRAS: ReadonlySet<string> = new Set(
  (
    "id _id idx index row_id rowid uid uuid guid hash example_id sample_id item_id question_id prompt_id conversation_id conv_id " +
    "thread_id session_id message_id task_id source sources source_id src dataset dataset_name data_source origin split subset config " +
    "metadata meta meta_data extra info score scores rating quality reward difficulty confidence category categories topic topics " +
    "subject domain type task tag tags lang language languages license licence url uri link author user_id timestamp created_at " +
    "updated_at created date time version model model_name generator num_turns num_tokens n_tokens token_count length " +
    "__index_level_0__ level_0 score_chosen score_rejected chosen_score rejected_score chosen_rating rejected_rating margin " +
    "chosen_model rejected_model"
  ).split(" "),
).add("");

/** Columns as pandas names those without a name. */
const UNNAMED = /^Unnamed: \d+$/;

/** Tells whether a column says nothing to the model, whatever the format. `ours` are the names that formats read. */
export function isExtra(column: string, { columns, ignored }: Mapping, ours: ReadonlySet<string>): boolean {
  if (ignored.has(column)) return true;
  if (ours.has(column) || [...columns.values()].includes(column)) return false;
  return isKnownExtra(column);
}

/** Tells whether a column that the format of its record does not read is one that data sets usually carry. */
export function isKnownExtra(column: string): boolean {
  return KNOWN_EXTRAS.has(column.toLowerCase()) || UNNAMED.test(column);
}

/**
 * Reads `--columns prompt=question,ignore=notes` (our name first) and `--roles customer=user` (our name last).
 * @param ours names that the formats read
 * @throws {UserError} names that nobody reads, names given twice
 */
export function parseMapping({ columns = [], roles = [] }: MappingFlags, ours: ReadonlySet<string>): Mapping {
  const byOurs = new Map<string, string>();
  const ignored = new Set<string>();
  for (const entry of columns) {
    const [left, right] = pairOf(entry, "--columns", "prompt=question");
    if (left === IGNORE) {
      ignored.add(right);
      continue;
    }
    if (!ours.has(left) && !MESSAGE_COLUMNS.includes(left)) {
      const hint = ours.has(right)
        ? `; did you mean ${right}=${left}?`
        : `; expected ${IGNORE} or one of ${[...ours].join(", ")}`;
      throw new UserError(`--columns ${entry}: ${show(left)} is no name of a column here${hint}`);
    }
    if (byOurs.has(left))
      throw new UserError(`--columns: ${left} is given twice, as ${show(byOurs.get(left))} and ${show(right)}`);
    byOurs.set(left, right);
  }
  const byTheirs = new Map<string, string>();
  for (const entry of roles) {
    const [left, right] = pairOf(entry, "--roles", "customer=user");
    if (!ROLES.includes(right)) {
      const hint = ROLES.includes(left) ? `; did you mean ${right}=${left}?` : "";
      throw new UserError(`--roles ${entry}: ${show(right)} is no role here; expected one of ${ROLES.join(", ")}${hint}`);
    }
    if (byTheirs.has(left)) throw new UserError(`--roles: ${left} is given twice`);
    byTheirs.set(left, right);
  }
  if (byOurs.size + ignored.size + byTheirs.size === 0) return NO_MAPPING;
  const key = JSON.stringify([[...byOurs].sort(), [...ignored].sort(), [...byTheirs].sort()]);
  return { columns: byOurs, ignored, roles: byTheirs, key };
}

function pairOf(entry: string, flag: string, example: string): [string, string] {
  const at = entry.indexOf("=");
  const [left, right] = [entry.slice(0, at).trim(), entry.slice(at + 1).trim()];
  if (at < 0 || left === "" || right === "") throw new UserError(`${flag} ${entry}: expected NAME=NAME, such as ${example}`);
  return [left, right];
}

/** The record with our names for its columns. @throws {UserError} a column that is there under both names */
export function renameColumns(record: DataRecord, { columns }: Mapping, where: string): DataRecord {
  if (columns.size === 0) return record;
  const names = new Map<string, string>();
  for (const [ours, theirs] of columns) {
    if (MESSAGE_COLUMNS.includes(ours) || ours === theirs || !Object.hasOwn(record, theirs)) continue;
    names.set(theirs, ours);
  }
  for (const [theirs, ours] of names) {
    if (Object.hasOwn(record, ours) && !names.has(ours)) {
      throw new UserError(
        `${where}: --columns makes ${show(theirs)} the column ${show(ours)}, which is there too; add ignore=${ours}, or take the mapping away`,
      );
    }
  }
  return Object.fromEntries(Object.entries(record).map(([key, value]) => [names.get(key) ?? key, value]));
}

/** A message with our names for the keys of its role and its content. */
export function renameMessage(message: DataRecord, { columns }: Mapping): DataRecord {
  const names = MESSAGE_COLUMNS.flatMap((ours) => {
    const theirs = columns.get(ours);
    return theirs === undefined || !Object.hasOwn(message, theirs) ? [] : [[theirs, ours] as const];
  });
  if (names.length === 0) return message;
  const byTheirs = new Map(names);
  return Object.fromEntries(Object.entries(message).map(([key, value]) => [byTheirs.get(key) ?? key, value]));
}

/** Counts columns that are not used, for one note about a file. */
export function createUnusedCounter(): {
  readonly count: (column: string) => void;
  /** See `unusedNote`. */
  note(path: string): string | null;
  readonly counts: ReadonlyMap<string, number>;
} {
  const counts = new Map<string, number>();
  return {
    count: (column) => void counts.set(column, (counts.get(column) ?? 0) + 1),
    note: (path) => unusedNote(path, Object.fromEntries(counts)),
    counts,
  };
}

/** A sentence about the columns of a file that are not used, with the examples that have them; null where there are none. */
export function unusedNote(path: string, counts: Readonly<Record<string, number>>): string | null {
  const columns = Object.entries(counts);
  if (columns.length === 0) return null;
  const most = Math.max(...columns.map(([, count]) => count));
  const names = columns.map(([column, count]) => show(column) + (count === most ? "" : ` (${count})`));
  const [noun, verb] = columns.length === 1 ? ["column", "is"] : ["columns", "are"];
  return `${path}: the ${noun} ${names.join(", ")} ${verb} not used (${most} example${most === 1 ? "" : "s"})`;
}
