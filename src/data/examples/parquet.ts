import * as fs from "node:fs";
import * as zlib from "node:zlib";
import type { AsyncBuffer, ColumnMetaData, Compressors, FileMetaData, SchemaTree } from "hyparquet";
import { explanationOf, UserError } from "../../base/errors.ts";
import { fileError, readFully } from "../../base/files/files.ts";
import { show } from "../../base/json.ts";
import type { RawRecord } from "./record.ts";

/** Bytes of a page, and values of a group of rows, that no writer makes more of. */
const MOST_BYTES = 2 ** 31 - 1;
const MOST_VALUES = 2 ** 28;

/** The best that the format's compressions do to a page of text. */
const MOST_EXPANSION = 1 << 12;
const SMALL_PAGE = 1 << 16;

export interface ParquetOptions {
  /** True if a column is left out: it is not decoded then. */
  readonly isUnused: (column: string) => boolean;
  /** Told which columns are left out, before the first row. */
  readonly onUnused: (columns: readonly string[]) => void;
}

/**
 * The rows of a Parquet file (Apache Parquet format 2.12), read group by group: memory holds one group of rows. Null members of
 * structures are left out, because the format has no other way to say that a key is absent. `number` counts rows from 1.
 *
 * Sizes and counts in the file are compared with each other and with the file's before memory is reserved for them.
 * @throws {UserError} a file that cannot be read, damage, a compression or encoding that is not known
 */
export async function* readParquet(path: string, options: ParquetOptions): AsyncGenerator<RawRecord> {
  const [{ parquetMetadataAsync, parquetReadObjects, parquetSchema }, { parquetHeader }, { compressors }] = await Promise.all([
    import("hyparquet"),
    import("hyparquet/src/column.js"),
    import("hyparquet-compressors"),
  ]);
  const file = openBuffer(path);
  try {
    const metadata = await explained(path, () => parquetMetadataAsync(file, { geoparquet: false }));
    const { children } = await explained(path, async () => checkNames(parquetSchema(metadata)));
    const names = children.map(({ element }) => element.name);
    options.onUnused(names.filter(options.isUnused));
    const columns = names.filter((name) => !options.isUnused(name));
    const isFloat = new Map(children.map((child) => [child.element.name, holdsFloats(child)]));
    let rowStart = 0;
    let endOfGroup = 0;
    for (const group of metadata.row_groups) {
      const rows = Number(group.num_rows);
      const where = `${path}, rows ${rowStart + 1} to ${rowStart + rows}`;
      const begin = endOfGroup;
      const decoded = await explained(where, async () => {
        checkGroup(group, columns, file, parquetHeader);
        const rowEnd = rowStart + rows;
        return parquetReadObjects({
          file,
          metadata,
          columns,
          rowStart,
          rowEnd,
          compressors: { ...compressors, ...NATIVE, LZ4: notEmpty(compressors.LZ4!), LZ4_RAW: notEmpty(compressors.LZ4_RAW!) },
          parsers: PARSERS,
          geoparquet: false,
        });
      });
      if (decoded.length !== rows) throw new UserError(`${where}: the file is damaged: it has ${decoded.length} of ${rows} rows`);
      endOfGroup = begin + group.columns.reduce((sum, { meta_data }) => sum + Number(meta_data?.total_compressed_size ?? 0), 0);
      for (let i = 0; i < rows; i++) {
        const number = rowStart + i + 1;
        const row = decoded[i]!;
        // The row's memory is free when its example has been made.
        decoded[i] = undefined!;
        const here = `${path}, row ${number}`;
        const json = () => jsonOf(row, isFloat, here);
        yield { number, where: here, end: begin + ((i + 1) / rows) * (endOfGroup - begin), json };
      }
      rowStart += rows;
    }
  } finally {
    file.close();
  }
}

/** A file as the library wants it. */
function openBuffer(path: string): AsyncBuffer & { close(): void } {
  let fd: number;
  try {
    fd = fs.openSync(path, "r");
  } catch (error) {
    throw fileError("open", path, error);
  }
  const { size } = fs.fstatSync(fd);
  return {
    byteLength: size,
    slice(start, end = size) {
      if (!(start >= 0 && start <= end && end <= size)) throw new Error(`bytes ${start} to ${end} are outside of the file`);
      const bytes = new Uint8Array(end - start);
      readFully(fd, bytes, start, path);
      return bytes.buffer;
    },
    close: () => fs.closeSync(fd),
  };
}

/** A file that is whole, but holds what is not read here. */
class Refusal extends Error {}

/** Runs a step of the reading; what the library says of a file becomes one sentence. @throws {UserError} */
async function explained<T>(where: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    if (error instanceof UserError) throw error;
    if (error instanceof Refusal) throw new UserError(`${where}: ${error.message}`);
    const why = explanationOf(error, "sizes in it do not fit together");
    throw new UserError(`${where}: the Parquet file cannot be read: ${why}; write it again, or copy it again`);
  }
}

/** @throws {Error} columns without a name */
function checkNames(schema: SchemaTree): SchemaTree {
  // The metadata may be damaged.
  if (schema.children.some(({ element }) => typeof (element.name as unknown) !== "string"))
    throw new Error("a column has no name");
  return schema;
}

type Header = (typeof import("hyparquet/src/column.js"))["parquetHeader"];

const CODECS: readonly string[] = ["UNCOMPRESSED", "SNAPPY", "GZIP", "BROTLI", "ZSTD", "LZ4", "LZ4_RAW"];

/** Goes through the pages of a group's columns by their headers. @throws {Refusal | Error} sizes or counts that do not fit */
function checkGroup(
  group: FileMetaData["row_groups"][number],
  columns: readonly string[],
  file: AsyncBuffer,
  header: Header,
): void {
  const rows = Number(group.num_rows);
  if (!(rows >= 0 && rows <= MOST_VALUES)) throw new Error(`a group of ${rows} rows`);
  for (const { meta_data: column, file_path } of group.columns) {
    if (!column) throw new Refusal("the column's description is missing or encrypted");
    if (file_path !== undefined) throw new Error("the column's data are in another file");
    const [name = ""] = column.path_in_schema;
    if (!columns.includes(name)) continue;
    if (!CODECS.includes(column.codec)) {
      throw new Refusal(
        `the column ${show(name)} is compressed with ${column.codec ?? "an unknown codec"}, which is not read here; write the file with one of ${CODECS.join(", ")}`,
      );
    }
    checkColumn(column, rows, file, header);
  }
}

function checkColumn(column: ColumnMetaData, rows: number, file: AsyncBuffer, header: Header): void {
  const [values, compressed, size] = [column.num_values, column.total_compressed_size, column.total_uncompressed_size].map(
    Number,
  );
  const start = Number(column.dictionary_page_offset || column.data_page_offset);
  if (!(values! >= 0 && values! <= MOST_VALUES && size! <= MOST_BYTES))
    throw new Error(`a column of ${values} values in ${size} bytes`);
  const end = start + compressed!;
  const read = (from: number, bytes: number) => {
    const reader = { view: new DataView(file.slice(from, Math.min(end, from + bytes)) as ArrayBuffer), offset: 0 };
    return { page: header(reader), next: from + reader.offset };
  };
  let counted = 0;
  let countedRows = 0;
  // As the reader does: a last byte alone is no page.
  for (let at = start; at < end - 1;) {
    const { page, next } = attempt(() => read(at, HEADER_BYTES)) ?? read(at, MOST_HEADER_BYTES);
    const { compressed_page_size: packed, uncompressed_page_size: unpacked } = page;
    if (!(packed >= 0 && next + packed <= end)) throw new Error(`a page of ${packed} bytes`);
    if (!(unpacked >= 0 && unpacked <= size! && unpacked <= SMALL_PAGE + MOST_EXPANSION * packed))
      throw new Error(`a page of ${unpacked} bytes, of ${packed} compressed ones`);
    const data = page.data_page_header ?? page.data_page_header_v2;
    const count = data?.num_values ?? page.dictionary_page_header?.num_values ?? 0;
    if (!(count >= 0 && count <= values!)) throw new Error(`a page of ${count} values in a column of ${values}`);
    if (data) counted += count;
    if (page.data_page_header_v2) {
      const {
        num_nulls,
        num_rows,
        definition_levels_byte_length: a,
        repetition_levels_byte_length: b,
      } = page.data_page_header_v2;
      if (!(num_nulls >= 0 && num_nulls <= count && num_rows >= 0 && a >= 0 && b >= 0 && a + b <= packed))
        throw new Error("a page whose parts are larger than it is");
      countedRows += num_rows;
    }
    at = next + packed;
  }
  if (counted !== values || countedRows > rows) throw new Error(`a column of ${values} values has ${counted}`);
}

/** Bytes that nearly all headers of pages fit into; statistics of long texts make larger ones. */
const HEADER_BYTES = 1 << 10;
const MOST_HEADER_BYTES = 1 << 24;

/** Null where the bytes end within the header, or hold none. */
function attempt<T>(read: () => T): T | null {
  try {
    return read();
  } catch {
    return null;
  }
}

/** Decompression by the runtime, where it has one: faster, and with a bound on what comes out. */
const NATIVE: Compressors = {
  GZIP: (input, length) => zlib.gunzipSync(input, { maxOutputLength: Math.max(1, length) }),
  BROTLI: (input, length) => zlib.brotliDecompressSync(input, { maxOutputLength: Math.max(1, length) }),
  ZSTD: (input, length) => zlib.zstdDecompressSync(input, { maxOutputLength: Math.max(1, length) }),
};

/** The library takes a block without bytes, which is one token, for a broken one. */
function notEmpty(decompress: NonNullable<Compressors["LZ4"]>): typeof decompress {
  return (input, length) => (length === 0 ? new Uint8Array(0) : decompress(input, length));
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function textOf(bytes: Uint8Array | undefined): string | undefined {
  if (!bytes) return undefined;
  try {
    return decoder.decode(bytes);
  } catch {
    throw new Refusal("a value is not UTF-8 text; columns of bytes can be left out with --columns ignore=NAME");
  }
}

/** Values of JSON stay texts, which the formats read as lists where they want lists. */
const PARSERS = { stringFromBytes: textOf, jsonFromBytes: textOf };

/** Tells whether all numbers of a column that arrive as doubles are such in the file. */
function holdsFloats(column: SchemaTree): boolean {
  const types = new Set<string | undefined>();
  const visit = ({ element, children }: SchemaTree): void => {
    if (children.length === 0) types.add(element.type);
    children.forEach(visit);
  };
  visit(column);
  return (types.has("DOUBLE") || types.has("FLOAT")) && !types.has("INT32");
}

/** A row as JSON: numbers as the file's type writes them, dates in ISO's form, absent members left out. @throws {UserError} */
function jsonOf(row: Readonly<Record<string, unknown>>, isFloat: ReadonlyMap<string, boolean>, where: string): string {
  const members = Object.entries(row).map(([name, value]) => {
    const text = valueOf(value, isFloat.get(name) ?? false, `${where}: the column ${show(name)}`);
    return `${JSON.stringify(name)}:${text}`;
  });
  return `{${members.join()}}`;
}

function valueOf(value: unknown, isFloat: boolean, where: string): string {
  if (value === null || value === undefined) return "null";
  if (typeof value === "bigint") return String(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) return "null";
    const text = Object.is(value, -0) ? "-0" : JSON.stringify(value);
    return isFloat && /^-?\d+$/.test(text) ? `${text}.0` : text;
  }
  if (value instanceof Uint8Array) throw new UserError(`${where} holds bytes, not text; leave it out with --columns ignore=NAME`);
  if (Array.isArray(value) || ArrayBuffer.isView(value))
    return `[${Array.from(value as ArrayLike<unknown>, (entry) => valueOf(entry, isFloat, where)).join()}]`;
  if (typeof value !== "object" || value instanceof Date) return JSON.stringify(value) ?? "null";
  const members = Object.entries(value)
    .filter(([, entry]) => entry !== null && entry !== undefined)
    .map(([key, entry]) => `${JSON.stringify(key)}:${valueOf(entry, isFloat, where)}`);
  return `{${members.join()}}`;
}
