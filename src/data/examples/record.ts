/** A record of a data file that has not been parsed yet, so that a bad one need not end the reading. */
export interface RawRecord {
  /** Line of a text file, item of an array or row of a Parquet file, from 1. */
  readonly number: number;
  /** Place of the record in its file, for errors. */
  readonly where: string;
  /** Bytes of the file up to the record's end, exact or in proportion. */
  readonly end: number;
  /** The record as JSON. @throws {UserError} a record that cannot be read */
  json(): string;
}

/** Bytes of the longest record; stops before memory runs out on a file that is something else. */
export const MAX_RECORD = 256 * 2 ** 20;
